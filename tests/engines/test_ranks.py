"""Which process is which rank, and that ranks which do not talk to each other make everything, little of it twice."""

import heapq
from dataclasses import dataclass

import numpy as np
import pytest

from functaconv.engines.ranks import Ranks, in_turn, ranks, trainers
from functaconv.errors import UsageError


@dataclass
class Simulated:
    """What became of a run in which a rank took a random time for each task."""

    made: int = 0
    seconds: float = 0.0


def simulate(ranks: int, tasks: int, *, deaths: int = 0, spread: float = 0.3, seed: int = 0) -> Simulated:
    """`deaths` of the ranks die at once. A task that a rank is at is not seen by the others."""
    random, done, found = np.random.default_rng(seed), set[int](), Simulated()
    iterators = [
        in_turn(Ranks(rank, ranks), range(tasks), turn=lambda task: task, is_done=lambda task: task in done)
        for rank in range(deaths, ranks)
    ]
    # when a rank is free, and what it has made by then
    queue: list[tuple[float, int, int | None]] = [(0.0, rank, None) for rank in range(len(iterators))]
    while queue:
        now, rank, made = heapq.heappop(queue)
        if made is not None:
            done.add(made)
            found.seconds = max(found.seconds, now)
        if (task := next(iterators[rank], None)) is not None:
            found.made += 1
            heapq.heappush(queue, (now + random.uniform(1 - spread, 1 + spread), rank, task))
    assert len(done) == tasks
    return found


@pytest.mark.parametrize("deaths", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_all_is_made_and_little_of_it_twice(deaths: int, seed: int) -> None:
    ranks, tasks = 8, 800
    found = simulate(ranks, tasks, deaths=deaths, seed=seed)
    # with one that dies at once a few per cent, where walking on from one's own share would make three quarters twice
    assert found.made <= 1.05 * tasks
    assert found.seconds <= 1.06 * tasks / (ranks - deaths)


def test_a_share_is_made_in_order_and_what_is_done_is_passed_over() -> None:
    done = {4, 6, 1}
    found = in_turn(Ranks(0, 2), range(10), turn=lambda task: task, is_done=lambda task: task in done)
    own = [next(found) for _ in range(3)]
    assert own == [0, 2, 8]
    done |= {3, 5}
    # an order of its own, and another one for each rank
    assert sorted(found) == [7, 9]
    orders = {tuple(in_turn(Ranks(rank, 9), range(1, 9), turn=lambda _: 0, is_done=lambda _: False)) for rank in (1, 2)}
    assert len(orders) == 2


def test_one_process_makes_all_in_order() -> None:
    assert list(in_turn(Ranks(), range(5), turn=lambda task: task, is_done=lambda _: False)) == [0, 1, 2, 3, 4]


TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "job",
    "TORCHELASTIC_ERROR_FILE": "/logs/job_x/attempt_0/1/error.json",
}  # fmt: skip
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5",
         "SLURM_ARRAY_JOB_ID": "42"}  # fmt: skip
STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "42",
        "SLURM_STEP_ID": "3"}  # fmt: skip
STEPS = {**ARRAY, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_MAX": "9"}
ALONE_IN_TORCHRUN = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def test_a_process_knows_which_of_how_many_it_is() -> None:
    for environment, expected in [
        ({}, Ranks()),
        ({"RANK": "", "HOME": "/root"}, Ranks()),
        (TORCHRUN, Ranks(3, 4, 1, "job")),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, Ranks(3, 4, 1, "host:29500", is_named=False)),
        (
            {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "8"},
            Ranks(3, 4, 1, "host:29500/8"),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            Ranks(0, 2, 0, "localhost:29500", is_named=False),
        ),
        # all on one machine: the folder that torchrun makes for each launch tells launches apart
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, Ranks(3, 4, 1, "job/job_x")),
        (
            {**TORCHRUN, "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_ERROR_FILE": ""},
            Ranks(3, 4, 1, "job"),
        ),
        (ALONE_IN_TORCHRUN, Ranks(0, 1, 0, "job/job_x")),
        (ARRAY, Ranks(2, 3, 0, "42")),
        (STEPS, Ranks(2, 3, 0, "42")),
        ({**STEPS, "SLURM_ARRAY_TASK_STEP": ""}, Ranks(2, 3, 0, "42")),
        ({**ARRAY, **TORCHRUN}, Ranks(2 * 4 + 3, 12, 1, "42")),
        (STEP, Ranks(5, 8, 1, "42.3")),
        # torchrun's own count is over all machines
        ({**STEP, **TORCHRUN}, Ranks(3, 4, 1, "job")),
        ({**ARRAY, **STEP}, Ranks(2 * 8 + 5, 24, 1, "42")),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Ranks()),
        # a batch script, before any srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "42"}, Ranks()),
    ]:
        assert ranks(environment) == expected


def test_half_an_answer_is_an_error() -> None:
    for environment, message in [
        ({"RANK": "0"}, "RANK is set, but not WORLD_SIZE, LOCAL_RANK"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "RANK, WORLD_SIZE are set, but not LOCAL_RANK"),
        ({**TORCHRUN, "RANK": "4"}, r"rank 4 of 4: RANK=4, WORLD_SIZE=4"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "rank 3 of 0"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_ID is set, but not .*COUNT, .*MIN"),
        ({name: value for name, value in ARRAY.items() if "MIN" not in name}, "but not SLURM_ARRAY_TASK_MIN"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "8"}, "rank 3 of 3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "4"}, "rank -1 of 3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "6.5"}, "not a whole number"),
        ({**STEPS, "SLURM_ARRAY_TASK_ID": "8"}, "not evenly spaced"),
        ({**STEP, "SLURM_PROCID": "8"}, "srun make rank 8 of 8: SLURM_PROCID=8, SLURM_STEP_NUM_TASKS=8"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS is set, but not SLURM_PROCID"),
        # --array=5,6,9
        ({**ARRAY, "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_STEP": "1"}, "not evenly spaced"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            ranks(environment)
        assert caught.value.exit_code == 2


def test_a_run_has_one_name_whatever_the_rank_and_after_a_restart() -> None:
    one_machine = {**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}
    again = {**one_machine, "RANK": "0", "LOCAL_RANK": "0",
             "TORCHELASTIC_ERROR_FILE": "/logs/job_x/attempt_1/0/error.json"}  # fmt: skip
    other = {**one_machine, "TORCHELASTIC_ERROR_FILE": "/logs/job_y/attempt_0/1/error.json"}
    assert ranks(one_machine).run == ranks(again).run != ranks(other).run


def test_the_tasks_of_an_array_do_not_train_one_base() -> None:
    with pytest.raises(UsageError, match="3 tasks of a SLURM array") as caught:
        trainers(ARRAY)
    assert "torchrun" in str(caught.value.hint)
    assert trainers({**ARRAY, "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "1"}) == Ranks()
    assert trainers({**ARRAY, **TORCHRUN}) == ranks(TORCHRUN)


def test_the_tasks_of_srun_do_not_train_one_base() -> None:
    with pytest.raises(UsageError, match="8 tasks of srun"):
        trainers(STEP)
    assert trainers({**STEP, **TORCHRUN}) == ranks(TORCHRUN)


def test_what_is_to_be_replaced_needs_a_run_with_a_name() -> None:
    nameless = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}
    with pytest.raises(UsageError, match="which run this is") as caught:
        ranks(nameless).check_named()
    assert "--rdzv-id" in str(caught.value.hint)
    for environment in ({}, TORCHRUN, {**nameless, "LOCAL_WORLD_SIZE": "4"}, {**nameless, "SLURM_JOB_ID": "8"}):
        ranks(environment).check_named()
    assert trainers({}) == Ranks()
