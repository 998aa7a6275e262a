"""Many processes: who they are, that they learn what one would, and that none of them is left waiting."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from functaconv.engines.ranks import Ranks, ranks, trainers
from functaconv.errors import UsageError
from functaconv.parallel import Ensemble
from functaconv.recipe import merged
from functaconv.signals import device as devices

from .rank import fit

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


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        ({"RANK": "", "HOME": "/root"}, Ranks()),
        (TORCHRUN, Ranks(3, 4, 1, "job", "torchrun")),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, Ranks(3, 4, 1, "host:29500", "torchrun", is_named=False)),
        (
            {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "8"},
            Ranks(3, 4, 1, "host:29500/8", "torchrun"),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            Ranks(0, 2, 0, "localhost:29500", "torchrun", is_named=False),
        ),
        # all on one machine: the folder that torchrun makes for each launch tells launches apart
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, Ranks(3, 4, 1, "job/job_x", "torchrun")),
        (
            {**TORCHRUN, "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_ERROR_FILE": ""},
            Ranks(3, 4, 1, "job", "torchrun"),
        ),
        (ALONE_IN_TORCHRUN, Ranks(0, 1, 0, "job/job_x", "torchrun")),
        (ARRAY, Ranks(2, 3, 0, "42", "slurm")),
        (STEPS, Ranks(2, 3, 0, "42", "slurm")),
        ({**STEPS, "SLURM_ARRAY_TASK_STEP": ""}, Ranks(2, 3, 0, "42", "slurm")),
        ({**ARRAY, **TORCHRUN}, Ranks(2 * 4 + 3, 12, 1, "42", "slurm")),
        (STEP, Ranks(5, 8, 1, "42.3", "slurm")),
        # torchrun's own count is over all machines
        ({**STEP, **TORCHRUN}, Ranks(3, 4, 1, "job", "torchrun")),
        ({**ARRAY, **STEP}, Ranks(2 * 8 + 5, 24, 1, "42", "slurm")),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Ranks()),
        # a batch script, before any srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "42"}, Ranks()),
    ],
)
def test_a_process_knows_which_of_how_many_it_is(environment: Mapping[str, str], expected: Ranks) -> None:
    assert ranks(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
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
    ],
)
def test_half_an_answer_is_an_error(environment: Mapping[str, str], message: str) -> None:
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


@pytest.mark.parametrize(("items", "count"), [(0, 3), (1, 2), (2, 3), (7, 3), (64, 8), (5, 1)])
def test_the_shares_are_the_whole_batch_and_nearly_equal(items: int, count: int) -> None:
    found: list[int] = []
    sizes = set()
    for rank in range(count):
        member = Ensemble()
        member.rank, member.count = rank, count
        share = list(range(items))[member.share(items)]
        found += share
        sizes.add(len(share))
    assert found == list(range(items))
    assert max(sizes) - min(sizes) <= 1


def test_only_one_module_knows_torch_distributed() -> None:
    package = Path(devices.__file__).parents[1]
    assert [
        path.name for path in sorted(package.rglob("*.py")) if re.search(r"torch\.distributed|c10d", path.read_text())
    ] == ["parallel.py"]


@pytest.mark.parametrize(
    ("name", "local", "gpus", "expected"),
    [
        ("auto", None, 4, "cuda"), ("auto", "3", 4, "cuda:3"), ("cuda", "3", 4, "cuda:3"), ("cuda", "3", 1, "cuda:0"),
        ("cuda:2", "3", 4, "cuda:2"), ("cpu", "3", 4, "cpu"), ("auto", "3", 0, "cpu"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("launcher", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_a_rank_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, launcher: str, name: str, local: str | None, gpus: int, expected: str
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    if local is not None:
        monkeypatch.setenv(launcher, local)
    assert devices.device_of(name) == torch.device(expected)
    assert chosen == ([expected] if local and name != "cuda:2" and "cuda:" in expected else [])


def test_ranks_are_not_all_put_on_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert devices.device_of("cuda:2") == torch.device("cuda:2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="all ranks on one GPU"):
        devices.device_of("cuda:2")
    # the launcher shows each rank its own
    gpus = 1
    assert devices.device_of("cuda:0") == torch.device("cuda:0")


Settings = dict[str, Any]


class Launch:
    """Ranks of our own making, without torchrun: each is a child whose end is seen."""

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], *arguments: str, count: int = 2, timeout: int = 60
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.children = []
        self._errors = [folder / f"stderr{rank}" for rank in range(count)]
        for rank in range(count):
            environment = {
                **clean(), "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                "PLAN": json.dumps(plan), "FUNCTACONV_RANK_TIMEOUT": str(timeout),
            }  # fmt: skip
            with self._errors[rank].open("w") as stderr:
                self.children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.rank", *arguments], env=environment, text=True,
                        stdout=subprocess.PIPE, stderr=stderr, cwd=Path(__file__).parents[1],
                    )
                )  # fmt: skip

    def end(self, *which: int, within: float = 250) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of all ranks, or of some."""
        found = []
        for rank in which or range(len(self.children)):
            out, _ = self.children[rank].communicate(timeout=within)
            found.append((self.children[rank].returncode, out, self._errors[rank].read_text()))
        return found

    def kill(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


def clean() -> dict[str, str]:
    """The environment, without the ranks of whatever runs the tests."""
    strange = re.compile("RANK|WORLD_SIZE|MASTER_|TORCHELASTIC|SLURM|FUNCTACONV")
    return {**{k: v for k, v in os.environ.items() if not strange.search(k)}, "OMP_NUM_THREADS": "1"}


Launcher = Callable[..., Launch]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launched: list[Launch] = []

    def start(*arguments: Any, **options: Any) -> Launch:
        launched.append(Launch(tmp_path, *arguments, **options))
        return launched[-1]

    yield start
    for each in launched:
        each.kill()


@pytest.fixture(scope="module")
def few(image_shards: Callable[..., Path]) -> Path:
    """20 images of which one is held out: epochs of two whole batches and a short one of 3."""
    return image_shards(20, seed=2)


@pytest.fixture
def recipe(tiny: Settings, tmp_path: Path) -> Path:
    """Of a short run on the command line."""
    path = tmp_path / "recipe.toml"
    sections = merged(tiny, {"training": {"steps": 9}, "solver": {"kind": "gradient"}})
    lines = [f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
             for name, values in sections.items()]  # fmt: skip
    path.write_text("".join(lines))
    return path


def assert_alike(first: Path, second: Path, tolerance: float) -> None:
    one, two = load(first.read_bytes()), load(second.read_bytes())
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=tolerance, atol=tolerance)


GRADIENT, GAUSS_NEWTON = {"kind": "gradient"}, {"kind": "gauss-newton", "steps": 3, "damping": 1e-3}
ENVELOPE = {"one_step": 0.2, "envelope": True}
RUNS: dict[str, tuple[str, Settings, Settings]] = {
    # data, settings, plan
    "gradient": ("few", {"solver": GRADIENT, "training": {"inner_points": 40, "outer_points": 60}}, {}),
    "mixing": ("few", {"solver": GRADIENT, "latent": {"sites": [3, 3], "numbers": 2},
                       "training": {"mixup": 0.3, "inner_points": 50}}, {}),
    "gauss-newton": ("few", {"solver": GAUSS_NEWTON, "training": {"one_step": 0.3, "optimizer": "muon"}},
                     {"double": True}),
    "envelope": ("few", {"solver": GAUSS_NEWTON, "training": {**ENVELOPE, "converged": 0.9}}, {"double": True}),
    "not converged": ("few", {"solver": GAUSS_NEWTON, "training": {**ENVELOPE, "converged": 1e-9}}, {"double": True}),
    "one item": ("one", {"solver": GAUSS_NEWTON, "training": {**ENVELOPE, "converged": 0.9}}, {"double": True}),
    "sizes": ("mixed", {"solver": GRADIENT}, {"double": True}),
    "range": ("arrays", {"solver": GAUSS_NEWTON, "latent": {"numbers": 3}}, {"double": True}),
    "nan": ("few", {"solver": GRADIENT}, {"what": "nan", "whose": 1, "at": [2, 5]}),
    "again": ("few", {"solver": GRADIENT}, {"what": "nan", "whose": 1, "at": [2, 5]}),
}  # fmt: skip


@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_two_ranks_learn_what_one_process_does(
    few: Path,
    image_shards: Callable[..., Path],
    array_shards: Callable[..., Path],
    tmp_path: Path,
    tiny: Settings,
    launch: Launcher,
) -> None:
    data = {"few": few, "one": image_shards(2), "mixed": image_shards(14, shapes=[(12, 12), (7, 10), (16, 5)]),
            "arrays": array_shards(12, (9, 10))}  # fmt: skip
    runs = [
        {"shards": str(data[shards]), "output": str(tmp_path / ("nan" if name == "again" else name)), "plan": plan,
         "settings": merged(merged(tiny, {"training": {"steps": 9}}), settings)}
        for name, (shards, settings, plan) in RUNS.items()
    ]  # fmt: skip
    launched = launch({"runs": runs})
    expected = []
    for run in runs:
        if run["output"].endswith("nan"):
            # one process has all items, and the whole gradient is not finite
            run["plan"] = {**run["plan"], "whose": 0}
        expected.append(fit(**{**run, "output": run["output"] + "-alone"}))
    (code, out, stderr), (other_code, other_out, other_stderr) = launched.end()
    assert (code, other_code) == (0, 0), stderr + other_stderr
    # each rank returns the same
    assert out == other_out
    for run, alone, together in zip(runs, expected, json.loads(out), strict=True):
        tolerance = 1e-9 if run["plan"].get("double") else 2e-5
        assert_alike(Path(run["output"]), Path(run["output"] + "-alone"), tolerance)
        assert not Path(run["output"] + ".training").exists()
        assert together.pop("validation_psnr") == pytest.approx(alone.to_json()["validation_psnr"], abs=2e-3)
        leave = ("base", "seconds", "validation_psnr", "closed_form", "learned")
        assert together["closed_form"]["psnr"] == alone.closed_form["psnr"]
        assert {k: v for k, v in together.items() if k not in leave} == {
            k: v for k, v in alone.to_json().items() if k not in leave
        }
    assert json.loads(out)[-1]["already_finished"]


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on(
    few: Path, tmp_path: Path, recipe: Path, launch: Launcher
) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu", "--json"]
    ended = launch({"what": "SIGTERM", "whose": 1, "at": [4]}, *asked).end()
    assert [code for code, _, _ in ended] == [75, 75], ended
    assert all("stopped by SIGTERM; 4 updates are saved" in stderr for _, _, stderr in ended)
    assert not (tmp_path / "base").exists()
    ended = launch({}, *asked).end()
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "going on after 4 updates" in ended[0][2]
    # of the ranks one talks
    assert (json.loads(ended[0][1])["updates"], ended[1][1:]) == (9, ("", ""))
    fit(str(few), str(tmp_path / "alone"), {}, recipe=recipe)
    assert_alike(tmp_path / "base", tmp_path / "alone", 2e-5)


def test_a_rank_that_stands_still_is_named(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    launched = launch({"what": "SIGSTOP", "whose": 1, "at": [4], "timeout": 4}, *asked)
    [(code, _, stderr)] = launched.end(0)
    assert code == 69
    who = rf"rank 1 \(process {launched.children[1].pid} on .*\), last seen at update 3"
    assert re.search(f"error: {who}: did not come to update 4 in 4 s", stderr), stderr
    assert "hint: " in stderr
    # what the others had learned is not lost
    assert (tmp_path / "base.training" / "state.safetensors").exists()


def test_an_error_of_one_rank_is_that_of_all(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    ended = launch({"what": "fail", "whose": 1, "at": [4]}, *asked).end()
    assert [code for code, _, _ in ended] == [65, 65], ended
    assert all("error: this disk is gone\nhint: buy another" in stderr for _, _, stderr in ended)


def torchrun(plan: Settings, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *launcher, "-m"]
    module = "tests.rank" if plan else "functaconv"
    return subprocess.run(
        [*command, module, *arguments], env={**clean(), "PLAN": json.dumps(plan), "FUNCTACONV_RANK_TIMEOUT": "240"},
        text=True, capture_output=True, check=False, cwd=Path(__file__).parents[1], timeout=250,
    )  # fmt: skip


def test_torchrun_trains_a_base(few: Path, tmp_path: Path, recipe: Path) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu", "--json"]
    done = torchrun({}, *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 9
    assert done.stderr.count("recipe 'images'") == 1


@pytest.mark.slow
def test_what_is_there_is_looked_after_by_one_rank(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    output = tmp_path / "base"
    asked = ["fit-base", str(few), str(output), "--recipe", str(recipe), "--device", "cpu", "--json"]
    output.write_bytes(b"mine")
    ended = launch({}, *asked).end()
    assert [code for code, _, _ in ended] == [73, 73], ended
    assert all("exists and is not a base" in stderr for _, _, stderr in ended)
    assert output.read_bytes() == b"mine"
    output.unlink()
    # an old state goes, and no rank starts from it
    launch({"what": "SIGTERM", "whose": 0, "at": [4]}, *asked).end()
    ended = launch({}, *asked, "--overwrite", "--seed", "1").end()
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "going on" not in ended[0][2]
    fit(str(few), str(tmp_path / "alone"), {}, recipe=recipe, settings={"training": {"seed": 1}})
    assert_alike(output, tmp_path / "alone", 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [GRADIENT, GAUSS_NEWTON], ids=["gradient", "gauss-newton"])
def test_after_200_updates_they_still_agree(
    images: Path, tmp_path: Path, tiny: Settings, launch: Launcher, solver: Settings
) -> None:
    run = {"shards": str(images), "plan": {"double": True},
           "settings": merged(tiny, {"solver": solver, "training": {"steps": 200}})}  # fmt: skip
    launched = launch({"runs": [{**run, "output": str(tmp_path / "base")}]})
    fit(output=str(tmp_path / "alone"), **run)
    assert [code for code, _, _ in launched.end()] == [0, 0]
    assert_alike(tmp_path / "base", tmp_path / "alone", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("whose", [0, 1])
def test_torchrun_starts_a_killed_rank_again(few: Path, tmp_path: Path, recipe: Path, whose: int) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu", "--json"]
    plan = {"what": "SIGKILL", "whose": whose, "at": [6], "save_every": -1}
    done = torchrun(plan, *asked, launcher=("--max-restarts=1",))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 9
    assert "going on after 5 updates" in done.stderr
    fit(str(few), str(tmp_path / "alone"), {}, recipe=recipe)
    assert_alike(tmp_path / "base", tmp_path / "alone", 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "whose", "message"), [
    ("SIGKILL", 1, r"rank 1 \(process \d+ on .*\), last seen at update 3: is gone"),
    ("SIGKILL", 0, r"rank 0 \(process \d+ on .*\), at which the ranks meet, does not answer any more"),
    ("SIGSTOP", 0, r"rank 0 \(process \d+ on .*\), at which the ranks meet, does not answer any more"),
])  # fmt: skip
def test_whoever_is_lost_is_named(
    few: Path, tmp_path: Path, recipe: Path, launch: Launcher, what: str, whose: int, message: str
) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    launched = launch({"what": what, "whose": whose, "at": [4], "timeout": 10}, *asked)
    [(code, _, stderr)] = launched.end(1 - whose)
    assert code == 69
    assert re.search(message, stderr), stderr


@pytest.mark.slow
def test_a_rank_that_never_comes_is_named(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    launched = launch({}, *asked, timeout=20)
    launched.children[1].send_signal(signal.SIGSTOP)
    [(code, _, stderr)] = launched.end(0)
    assert code == 69
    assert "did not find together" in stderr


@pytest.mark.slow
def test_the_clock_of_the_first_rank_counts(few: Path, tmp_path: Path, tiny: Settings, launch: Launcher) -> None:
    budget = {"solver": GRADIENT, "training": {"minutes": 0.05}}
    settings = merged({**tiny, "training": {k: v for k, v in tiny["training"].items() if k != "steps"}}, budget)
    launched = launch(
        {"runs": [{"shards": str(few), "output": str(tmp_path / "base"), "plan": {}, "settings": settings}]}
    )
    (code, out, stderr), other = launched.end()
    assert (code, out) == other[:2]
    [found] = json.loads(out)
    assert found["updates"] > 9
    assert 3 <= found["seconds"] < 60
    assert math.isfinite(found["validation_psnr"]), stderr
