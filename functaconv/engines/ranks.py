"""Which of several processes this one is, as torchrun, srun or a SLURM array says, and which tasks are its own.

Ranks that encode do not talk to each other: what one has finished, the others see on the disk.
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from functaconv.errors import UsageError

Task = TypeVar("Task")
WORLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ARRAY = tuple(f"SLURM_ARRAY_{name}" for name in ("TASK_ID", "TASK_COUNT", "TASK_MIN", "JOB_ID"))
STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """which of those on this machine"""
    run: str | None = None
    """what all ranks of one run share and no other run has, also when torchrun starts them again; None when alone"""
    is_named: bool = True
    """no other run is called so"""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def check_named(self) -> None:
        """UsageError unless what this run made can be told from what an earlier one made, as --overwrite must."""
        if not self.is_named:
            raise UsageError(
                "--overwrite: torchrun on several machines does not say which run this is",
                hint="give it a new name each time: torchrun --rdzv-id=NAME ...",
            )


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Of processes that share work: those of torchrun or srun, tasks of a SLURM array, or either in each task."""
    world, array = _of_torchrun(environment) or _of_step(environment), _of_array(environment)
    if world is None or array is None:
        return world or array or Ranks()
    count = array.count * world.count
    return Ranks(array.rank * world.count + world.rank, count, world.local, array.run)


def in_turn(
    ranks: Ranks, tasks: Iterable[Task], turn: Callable[[Task], int], is_done: Callable[[Task], bool]
) -> Iterator[Task]:
    """The tasks that this rank makes: its own share in order, then those of other ranks that are not done, in an order
    of its own.

    No rank waits for another, and a dead rank's share is made by the others. In different orders ranks seldom make the
    same task at the same time; where they do, both results are the same.
    """
    others = []
    for task in tasks:
        if turn(task) % ranks.count != ranks.rank:
            others.append(task)
        elif not is_done(task):
            yield task
    random.Random(ranks.rank).shuffle(others)  # noqa: S311 - an order, no secret
    for task in others:
        if not is_done(task):
            yield task


def trainers(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Of processes that train one base: those of torchrun. The tasks of SLURM do not know each other."""
    world = _of_torchrun(environment)
    if world is None:
        _check_single(_of_array(environment), "a SLURM array", "SLURM_ARRAY")
        _check_single(_of_step(environment), "srun", "SLURM_STEP")
    return world or Ranks()


def _check_single(tasks: Ranks | None, whose: str, names: str) -> None:
    if tasks is not None and tasks.count > 1:
        raise UsageError(
            f"the {tasks.count} tasks of {whose} cannot train one base",
            hint="many processes train with `torchrun --nproc-per-node=N -m functaconv fit-base ...`; where each task "
            f"is to train a base of its own, `unset ${{!{names}@}}` first",
        )


def _of_torchrun(environment: Mapping[str, str]) -> Ranks | None:
    if not _are_set(environment, WORLD):
        return None
    rank, count, local = (_number(environment, name) for name in WORLD)
    _check(rank, count, "RANK and WORLD_SIZE", environment)
    run, one_machine = environment.get("TORCHELASTIC_RUN_ID", "none"), environment.get("LOCAL_WORLD_SIZE") == str(count)
    is_named = run != "none" or one_machine or count == 1
    if run == "none":
        # torchrun calls all its runs so, unless it is given a name
        run = f"{environment.get('MASTER_ADDR', 'localhost')}:{environment.get('MASTER_PORT', '29500')}"
    if one_machine and (reply := environment.get("TORCHELASTIC_ERROR_FILE")):
        # <a new folder for each launch>/attempt_<n>/<rank>/error.json: a name given twice names two runs all the same
        run = f"{run}/{PurePath(reply).parents[2].name}"
    if not is_named and (job := environment.get("SLURM_JOB_ID")):
        run, is_named = f"{run}/{job}", True
    return Ranks(rank, count, local, run, is_named)


def _of_array(environment: Mapping[str, str]) -> Ranks | None:
    if not _are_set(environment, ARRAY):
        return None
    task, count, least = (_number(environment, name) for name in ARRAY[:3])
    optional = {
        name: _number(environment, f"SLURM_ARRAY_TASK_{name}")
        for name in ("STEP", "MAX")
        if environment.get(f"SLURM_ARRAY_TASK_{name}")
    }
    most = optional.get("MAX")
    step = optional.get("STEP") or (1 if most is None or count < 2 else (most - least) // (count - 1) or 1)
    if (task - least) % step or (most is not None and most != least + (count - 1) * step):
        raise UsageError(
            f"the tasks of this SLURM array are not evenly spaced: {_quoted(environment, 'SLURM_ARRAY_TASK')}",
            hint="number them in order, as with --array=0-7",
        )
    rank = (task - least) // step
    _check(rank, count, "the SLURM array", environment)
    return Ranks(rank, count, 0, environment[ARRAY[3]])


def _of_step(environment: Mapping[str, str]) -> Ranks | None:
    """The tasks of srun."""
    if environment.get("SLURM_STEP_NUM_TASKS", "1") == "1" or not _are_set(environment, STEP):
        return None
    rank, count, local = (_number(environment, name) for name in STEP[:3])
    _check(rank, count, "srun", environment)
    return Ranks(rank, count, local, ".".join(environment[name] for name in STEP[3:]))


def _are_set(environment: Mapping[str, str], names: Sequence[str]) -> bool:
    """All of them, or none: some alone are a mistake."""
    given = [name for name in names if environment.get(name)]
    if given and (missing := [name for name in names if name not in given]):
        raise UsageError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} set, but not {', '.join(missing)}",
            hint=f"set {', '.join(names)}, or none of them (`unset {' '.join(given)}`)",
        )
    return bool(given)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name].strip()
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name} is {text!r:.100}, which is not a whole number from 0 on")
    return int(text)


def _check(rank: int, count: int, what: str, environment: Mapping[str, str]) -> None:
    if not 0 <= rank < count:
        names: dict[str, tuple[str, ...]] = {"the SLURM array": ("SLURM_ARRAY_TASK",), "srun": STEP[:2]}
        quoted = _quoted(environment, names.get(what, WORLD[:2]))
        raise UsageError(f"{what} make rank {rank} of {count}: {quoted}")


def _quoted(environment: Mapping[str, str], names: str | tuple[str, ...]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith(names))
