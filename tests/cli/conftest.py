"""A tiny world, made once by the commands themselves, and ways to run a command in process or in a shell."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from functaconv.cli.app import run
from functaconv.functaset.opening import open_functaset
from tests.conftest import png

SIDE = 16
SMALL = ("--set", "network.width=16", "--set", "network.depth=3", "--latent", "8")
"""a network that is fitted in milliseconds"""


@dataclass(frozen=True)
class World:
    """What the commands made, by their defaults."""

    images: Path
    """two folders of twenty images each"""
    shards: Path
    """five of eight items"""
    base: Path
    store: Path


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    raw: bytes
    errors: str

    @property
    def output(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; there must be nothing else."""
        lines = self.output.splitlines()
        assert len(lines) == 1, self.output
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


Invoke = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """The environment of whoever runs the tests must not reach the commands."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FUNCTACONV_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, no_settings_from_outside: None) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(folder / "images", folder / "shards", folder / "base.safetensors", folder / "store.zarr")
    for number in range(40):
        path = made.images / ("cat", "dog")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, (SIDE, SIDE)))
    commands: Sequence[Sequence[object]] = (
        ("pack", made.images, made.shards, "--items-per-shard", 8),
        ("fit-base", made.shards, made.base, "--steps", 3, "--device", "cpu", *SMALL),
        ("encode", made.base, made.shards, made.store, "--device", "cpu"),
    )
    for command in commands:
        assert run([*map(str, command), "-q"]) == 0
    return made


@pytest.fixture
def invoke(capfdbinary: pytest.CaptureFixture[bytes]) -> Invoke:
    """Runs a command in this process."""

    def call(*arguments: object) -> Ran:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        sys.stdout.flush()
        written = capfdbinary.readouterr()
        return Ran(code, written.out, written.err.decode())

    return call


@pytest.fixture
def environment() -> dict[str, str]:
    """For processes: the command is on the path, and sums come out as in this process."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def shell(tmp_path: Path, environment: Mapping[str, str]) -> Callable[[str], Ran]:
    """Runs a line as bash does, in a new folder; the code is that of the first command that fails."""

    def call(line: str) -> Ran:
        done = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", line], cwd=tmp_path, env=environment, capture_output=True, timeout=120
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    return call


def wait_until(holds: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Until something holds of a process that is at work."""
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, f"ended too early: {process.communicate()[1].decode()}"
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.005)


def assert_same_base(one: Path, other: Path) -> None:
    """The same tensors, bit for bit."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def assert_same_functaset(one: Path, other: Path) -> None:
    """The same rows in the same order, bit for bit, the same failures, the same report but for the speed."""
    first, second = open_functaset(one), open_functaset(other)
    assert first.keys.tolist() == second.keys.tolist()
    for name in ("labels", "shapes", "mse", "psnr", "shards"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    np.testing.assert_array_equal(first.latents(), second.latents())
    assert first.failures == second.failures
    reports = [{**functaset.report, "items_per_second": None} for functaset in (first, second)]
    assert reports[0] == reports[1]
    assert not list(one.glob("_parts*"))
