"""A command that is stopped or killed and started again ends as if nothing had happened."""

import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from functaconv.cli.app import run
from tests.cli.conftest import SMALL, Invoke, World, assert_same_base, assert_same_functaset, wait_until

SLOWLY = ("--batch-size", "1", "--steps", "20")
"""so that encoding the five shards takes a second or two"""
MANY = ("--steps", "60", "--batch-size", "4", "--seed", "3", *SMALL)
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(environment: Mapping[str, str]) -> Start:
    def call(*arguments: object) -> subprocess.Popen[bytes]:
        command = ["functaconv", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return call


def test_encode_goes_on(world: World, tmp_path: Path, start: Start, invoke: Invoke) -> None:
    out = tmp_path / "store.zarr"
    command = ["encode", world.base, world.shards, out, *SLOWLY]
    process = start(*command)
    wait_until(lambda: list(out.glob("_parts/*.npz")), process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 75, errors
    assert "error: stopped by " in errors
    assert "hint: run the same command again" in errors
    assert "Traceback" not in errors
    assert not (out / "zarr.json").exists()
    ran = invoke(*command)
    assert ran.code == 0
    assert re.search(r"going on: \d+ records", ran.errors)
    assert run(["encode", str(world.base), str(world.shards), str(tmp_path / "whole.zarr"), *SLOWLY, "-q"]) == 0
    assert_same_functaset(out, tmp_path / "whole.zarr")


@pytest.mark.slow
def test_fit_base_goes_on_after_ctrl_c_and_after_kill(
    world: World, tmp_path: Path, start: Start, invoke: Invoke
) -> None:
    base = tmp_path / "base.safetensors"
    state = tmp_path / "base.safetensors.training" / "state.safetensors"
    command = ["fit-base", world.shards, base, *MANY]
    process = start(*command)
    # the closed form: what is learned comes next
    wait_until(lambda: list(state.parent.glob("closed*")), process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, errors
    assert "error: stopped by " in errors
    assert "updates are saved" in errors
    assert "Traceback" not in errors
    assert state.exists()
    assert not base.exists()
    assert invoke("encode", base, world.shards, tmp_path / "out.zarr").errors.count("run fit-base again") == 1
    with start(*command) as process:
        assert process.stderr is not None
        assert any(b"going on after" in line for line in iter(process.stderr.readline, b""))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    ran = invoke(*command)
    assert ran.code == 0
    assert "going on" in ran.errors
    assert not state.parent.exists()
    assert run(["fit-base", str(world.shards), str(tmp_path / "whole"), *MANY, "-q"]) == 0
    assert_same_base(base, tmp_path / "whole")
