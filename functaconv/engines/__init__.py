"""Engines run the tasks of an encoding: this process, alone or as one of several ranks, or Ray."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from functaconv.engines import local, ray
from functaconv.interruption import Stop

# by name: blocks of tasks, made by a job
ENGINES: dict[str, Callable[[Any, Iterable[Any], Stop], Generator[Any]]] = {"local": local.run, "ray": ray.run}
