"""Engines run the tasks of an encoding: this process, alone or as one of several ranks, or Ray."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from functaconv.engines import local, ray
from functaconv.interruption import Stop

# functions by name that make the blocks of tasks with a job
ENGINES: dict[str, Callable[[Any, Iterable[Any], Stop], Generator[Any]]] = {"local": local.run, "ray": ray.run}
