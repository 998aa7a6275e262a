"""Encoding on a pool of Ray actors: each is a rank that claims blocks like any other."""

import importlib
import logging
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from functaconv.conversion.share import Watcher
from functaconv.conversion.workflow import Encoded, encode
from functaconv.errors import FunctaconvError, MissingExtraError, UsageError
from functaconv.interruption import Stop, stopping
from functaconv.parallel import Ranks

MOST_DEATHS = 3
"""of one actor, which Ray replaces; more mean that it is the work that kills it"""
LOOK_EVERY = 1.0
"""seconds between two looks at what the actors do"""


def encode_with_ray(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    *,
    num_actors: int = 2,
    gpus_per_actor: float = 0.0,
    address: str | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Encoded:
    """`encode` with the same options, shared by `num_actors` Ray actors, here or on the cluster at `address` (default:
    RAY_ADDRESS, or this machine). Base, shards and output must be at the same paths on all its machines.

    `gpus_per_actor` may be a fraction: actors then share a GPU. An actor that is lost is replaced, and what it had
    claimed is taken up; one that dies time and again ends the run with an error, and what is saved is gone on with by
    the same command. Ray is the extra `ray`.
    """
    if options.get("retry_failed"):
        raise UsageError("--retry-failed is for --engine local", hint="it does only what failed")
    ray = _ray()
    # the actors need not have our working directory
    base, output = Path(base).absolute(), Path(output).absolute()
    watcher = watcher or Watcher()
    # what Ray has to say of lost actors it prints, in the middle of what may be somebody's JSON
    with redirect_stdout(sys.stderr), _cluster(ray, address):
        limits = {"num_gpus": gpus_per_actor, "max_restarts": MOST_DEATHS, "max_task_retries": MOST_DEATHS}
        actor = ray.remote(num_cpus=1, **limits)(_Encoder)
        run = f"ray-{uuid.uuid4().hex}"
        actors = [actor.remote() for _ in range(num_actors)]
        machines = len(ray.nodes())
        watcher.announce(f"{num_actors} actor{'s' * (num_actors > 1)} on {machines} machine{'s' * (machines > 1)}")
        given = [
            one.encode.remote(str(base), shards, str(output), Ranks(rank, num_actors, 0, run, "ray"), options)
            for rank, one in enumerate(actors)
        ]
        try:
            with stopping(watcher.announce) as stop:
                found = _all_of(ray, given, Path(output), watcher, stop)
        finally:
            for one in actors:
                ray.kill(one)
        reports = [encoded for encoded in found if encoded.report]
        if reports:
            best = min(reports, key=lambda encoded: encoded.was_finished)
        else:
            # an actor died after the others had left what it had to it: its replacement found all done but the end
            ranks = Ranks(0, num_actors, 0, run, "ray")
            best = encode(base, shards, output, ranks=ranks, watcher=watcher, **options)
        # the actors told nobody
        return replace(best, is_told=False)


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Ray as it is here already, or started for as long as it is needed."""
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR,
            namespace="functaconv",
        )  # fmt: skip
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


class _Encoder:
    """In the process of an actor."""

    def encode(
        self, base: str, shards: str | Sequence[str], output: str, ranks: Ranks, options: dict[str, Any]
    ) -> Encoded | FunctaconvError:
        try:
            return encode(base, shards, output, ranks=ranks, **options)
        except FunctaconvError as error:
            # as a value: Ray would wrap an exception in one of its own, and what it cannot know is lost
            return error


def _all_of(ray: Any, given: list[Any], output: Path, watcher: Watcher, stop: Stop) -> list[Encoded]:
    """What the actors return; the first error of any of them ends it."""
    found: list[Encoded] = []
    waiting = list(given)
    while waiting:
        stop.check(f"what the actors have done is saved in {output}")
        ready, waiting = ray.wait(waiting, timeout=LOOK_EVERY)
        for reference in ready:
            rank = given.index(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise FunctaconvError(
                    f"actor {rank} was lost {MOST_DEATHS + 1} times or cannot run: {_first_line(error)}",
                    hint="run the same command again to go on; fewer actors need less memory",
                ) from error
            if isinstance(result, FunctaconvError):
                raise result
            found.append(result)
            if result.left_to:
                watcher.announce(f"actor {rank} is done")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError(
            "--engine ray needs ray, which is not installed", hint="pip install 'functaconv[ray]'"
        ) from error
