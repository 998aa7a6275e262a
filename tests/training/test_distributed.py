"""Several processes that train one base: they learn what one would, and none of them is left waiting."""

import gzip
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

from functaconv.documents import merged
from functaconv.training.distributed import Group
from functaconv.training.state import read_state

from .rank import fit


def test_the_shares_are_the_whole_batch_and_nearly_equal() -> None:
    for items, count in [(0, 3), (1, 2), (2, 3), (7, 3), (64, 8), (5, 1)]:
        found: list[int] = []
        sizes = set()
        for rank in range(count):
            member = Group()
            member.rank, member.count = rank, count
            share = list(range(items))[member.share(items)]
            found += share
            sizes.add(len(share))
        assert found == list(range(items))
        assert max(sizes) - min(sizes) <= 1


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
                        [sys.executable, "-m", "tests.training.rank", *arguments], env=environment, text=True,
                        stdout=subprocess.PIPE, stderr=stderr, cwd=Path(__file__).parents[2],
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
    "mixup": ("few", {"solver": GRADIENT, "latent": {"sites": [3, 3], "numbers": 2},
                       "training": {"mixup": 0.3, "inner_points": 50}}, {}),
    "gauss-newton": ("few", {"solver": GAUSS_NEWTON, "training": {"one_step": 0.3, "optimizer": "muon"}},
                     {"double": True}),
    "not converged": ("few", {"solver": GAUSS_NEWTON, "training": {**ENVELOPE, "converged": 1e-9}}, {"double": True}),
    "one item": ("one", {"solver": GAUSS_NEWTON, "training": {**ENVELOPE, "converged": 0.9}}, {"double": True}),
    "sizes": ("mixed", {"solver": GRADIENT, "training": {"inner_points": 40, "outer_points": 60}}, {"double": True}),
    "range": ("arrays", {"solver": GAUSS_NEWTON, "latent": {"numbers": 3}}, {"double": True}),
    "corrected": ("few", {"solver": GAUSS_NEWTON | {"chord": True}, "network": {"kind": "fourier"},
                          "latent": {"sites": [2, 2], "numbers": 3, "interpolation": "window", "map_width": 4}},
                  {"double": True}),
    "nan": ("few", {"solver": GRADIENT}, {"what": "nan", "whose": 1, "at": [2, 5]}),
    "again": ("few", {"solver": GRADIENT}, {"what": "nan", "whose": 1, "at": [2, 5]}),
}  # fmt: skip


QUICK = ("sizes", "nan", "again")


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(RUNS.keys() - set(QUICK)), marks=pytest.mark.slow)], ids=["quick", "others"]
)
def test_two_ranks_learn_what_one_process_does(
    names: tuple[str, ...],
    few: Path,
    image_shards: Callable[..., Path],
    array_shards: Callable[..., Path],
    tmp_path: Path,
    tiny: Settings,
    launch: Launcher,
) -> None:
    data = {"few": few, "one": image_shards(2), "arrays": array_shards(12, (9, 10)), "mixed": tmp_path / "mixed.tar.gz"}
    (shard,) = image_shards(14, shapes=[(12, 12), (7, 10), (16, 5)]).glob("*.tar")
    data["mixed"].write_bytes(gzip.compress(shard.read_bytes()))
    runs = [
        {"shards": str(data[shards]), "output": str(tmp_path / ("nan" if name == "again" else name)), "plan": plan,
         "settings": merged(merged(tiny, {"training": {"steps": 6}}), settings)}
        for name, (shards, settings, plan) in ((name, RUNS[name]) for name in names)
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
    assert [one["already_finished"] for one in json.loads(out)] == [name == "again" for name in names]
    # compressed shards are copied once for all ranks of a machine
    assert "".join([stderr, other_stderr]).count("copying ") == ("sizes" in names)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on(
    few: Path, tmp_path: Path, recipe: Path, launch: Launcher
) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu", "--json"]
    ended = launch({"what": "SIGTERM", "whose": 1, "at": [4]}, *asked).end()
    assert [code for code, _, _ in ended] == [75, 75], ended
    # a signal is handed on with the gradients of the next update
    assert all("stopped by SIGTERM; 5 updates are saved" in stderr for _, _, stderr in ended)
    assert not (tmp_path / "base").exists()
    ended = launch({}, *asked).end()
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "going on after 5 updates" in ended[0][2]
    # of the ranks one talks
    assert (json.loads(ended[0][1])["updates"], ended[1][1:]) == (9, ("", ""))
    fit(str(few), str(tmp_path / "alone"), {}, recipe=recipe)
    assert_alike(tmp_path / "base", tmp_path / "alone", 2e-5)


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_that_of_all(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    (tmp_path / "base").write_bytes(b"mine")
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    ended = launch({}, *asked).end()
    assert [code for code, _, _ in ended] == [73, 73], ended
    assert all("exists and is not a base" in stderr for _, _, stderr in ended)
    assert (tmp_path / "base").read_bytes() == b"mine"


@pytest.mark.slow
def test_an_error_of_another_rank_is_told_by_that_rank(
    few: Path, tmp_path: Path, recipe: Path, launch: Launcher
) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    (code, _, stderr), (other_code, _, other_stderr) = launch({"what": "fail", "whose": 1, "at": [4]}, *asked).end()
    assert (code, other_code) == (69, 65)
    assert "error: rank 1 (process" in stderr
    assert "error: this disk is gone\nhint: buy another" in other_stderr


def torchrun(plan: Settings, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *launcher, "-m"]
    module = "tests.training.rank" if plan else "functaconv"
    return subprocess.run(
        [*command, module, *arguments], env={**clean(), "PLAN": json.dumps(plan), "FUNCTACONV_RANK_TIMEOUT": "240"},
        text=True, capture_output=True, check=False, cwd=Path(__file__).parents[2], timeout=250,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again(few: Path, tmp_path: Path, recipe: Path) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu", "--json"]
    plan = {"what": "SIGKILL", "whose": 1, "at": [6]}
    done = torchrun(plan, *asked, launcher=("--max-restarts=1",))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 9
    assert "going on after 5 updates" in done.stderr
    fit(str(few), str(tmp_path / "alone"), {}, recipe=recipe)
    assert_alike(tmp_path / "base", tmp_path / "alone", 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "whose"), [("SIGKILL", 0), ("SIGSTOP", 1)])
def test_a_rank_that_is_gone_or_stands_still_is_named(
    few: Path, tmp_path: Path, recipe: Path, launch: Launcher, what: str, whose: int
) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    launched = launch({"what": what, "whose": whose, "at": [4]}, *asked, timeout=10)
    [(code, _, stderr)] = launched.end(1 - whose)
    assert code == 69
    pid = launched.children[whose].pid
    assert re.search(rf"error: rank {whose}( \(process {pid} on .*\))?: gone, or without an answer", stderr), stderr
    assert "hint: its own message says why; run the same command again" in stderr
    if whose:
        # what the first one had learned is not lost
        assert read_state(tmp_path / "base.training" / "state.safetensors").values["updates"] == 3


@pytest.mark.slow
def test_a_rank_that_never_comes_is_an_error(few: Path, tmp_path: Path, recipe: Path, launch: Launcher) -> None:
    asked = ["fit-base", str(few), str(tmp_path / "base"), "--recipe", str(recipe), "--device", "cpu"]
    launched = launch({}, *asked, timeout=10)
    launched.children[1].send_signal(signal.SIGSTOP)
    [(code, _, stderr)] = launched.end(0)
    assert code == 69
    assert "did not find together" in stderr


@pytest.mark.slow
def test_the_clock_of_the_first_rank_counts(few: Path, tmp_path: Path, tiny: Settings, launch: Launcher) -> None:
    budget = {"solver": GRADIENT, "training": {"minutes": 0.03}}
    settings = merged({**tiny, "training": {k: v for k, v in tiny["training"].items() if k != "steps"}}, budget)
    launched = launch(
        {"runs": [{"shards": str(few), "output": str(tmp_path / "base"), "plan": {}, "settings": settings}]}
    )
    (code, out, stderr), other = launched.end()
    assert (code, out) == other[:2]
    [found] = json.loads(out)
    assert found["updates"] > 9
    assert 1.5 <= found["seconds"] < 60
    assert math.isfinite(found["validation_psnr"]), stderr
