"""Ray: each task is one of Ray's, which places it on a machine and runs it again when its process is lost."""

import logging
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from functaconv.errors import FunctaconvError, imported
from functaconv.interruption import AskedToStop, Stop, kept_handlers

# retries of a task whose process was lost; after more of them the task itself is the likely cause
MOST_RETRIES = 3
# seconds between two looks whether a signal came
LOOK_EVERY = 1.0
# tasks that Ray knows of for each that can run: the next one is at hand
WAITING_PER_PLACE = 2

_jobs: dict[str, Any] = {}


def run(job: Any, tasks: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The blocks of the tasks as they are finished, made here or on the cluster at RAY_ADDRESS.

    What the tasks read must be at the same place on all machines. Ray is the extra `ray`.
    """
    ray = imported("ray", "ray", "--engine ray")
    # Ray prints messages about lost processes to stdout, which may be JSON that a program reads
    with redirect_stdout(sys.stderr), _cluster(ray):
        gpus = job.work.options.gpus_per_task
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": MOST_RETRIES, "num_returns": "streaming"}
        remote, shared = ray.remote(**options)(_blocks), [ray.put(job)]
        places = ray.cluster_resources()
        if places.get("GPU") and not gpus:
            job.announce(f"the cluster has {places['GPU']:g} GPUs, but the tasks run on CPUs: --gpus-per-task 1")
        most = WAITING_PER_PLACE * max(1, int(places.get("GPU", 0) / gpus if gpus else places.get("CPU", 1)))
        running: list[Any] = []
        coming = iter(tasks)
        while True:
            while len(running) < most and (task := next(coming, None)) is not None:
                running.append(remote.remote(shared, task))
            if not running:
                return
            ready, _ = ray.wait(running, timeout=LOOK_EVERY)
            if stop.signal is not None:
                raise AskedToStop
            for blocks in ready:
                if (block := _next(ray, blocks)) is None:
                    running.remove(blocks)
                else:
                    yield block


def _next(ray: Any, blocks: Any) -> Any:
    """The next block of a task; None at its end."""
    try:
        block = ray.get(next(blocks))
    except StopIteration:
        return None
    except ray.exceptions.RayError as error:
        raise FunctaconvError(
            f"a task was lost {MOST_RETRIES + 1} times or cannot run: {_first_line(error)}",
            hint="run the same command again to go on; more --gpus-per-task, or fewer CPUs given to Ray, are fewer "
            "tasks at a time",
        ) from error
    if isinstance(block, FunctaconvError):
        raise block
    return block


def _blocks(jobs: list[Any], task: Any) -> Iterator[Any]:
    """In a process of Ray's: the blocks of a task."""
    import ray

    (reference,) = jobs
    name = reference.hex()
    if name not in _jobs:
        # a process runs many tasks of a job, which share what is computed once
        _jobs.clear()
        _jobs[name] = ray.get(reference)
    job = _jobs[name]
    try:
        yield from job.encode(job.read(task))
    except FunctaconvError as error:
        # as a value: Ray would wrap an exception in one of its own, and what it cannot know is lost
        yield error


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Ray as it is here already, or started for as long as it is needed."""
    started_here = not ray.is_initialized()
    if started_here:
        with kept_handlers():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, namespace="functaconv")
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
