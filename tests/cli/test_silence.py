"""Input that does not come: one signal ends the wait at once, with what is finished saved."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from functaconv.conversion import Watcher, encode
from tests.cli.conftest import World, wait_until
from tests.data.servers import Answer, Script, serving

PATIENCE = 20.0
"""seconds: far more than an end takes, on a busy machine too"""


def begin(environment: Mapping[str, str], *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["functaconv", "encode", "--device", "cpu", *map(str, arguments)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: "subprocess.Popen[bytes]", number: int) -> str:
    """Send a signal; what the process says by its end."""
    process.send_signal(number)
    began = time.monotonic()
    # its stdin stays open meanwhile
    process.wait(PATIENCE)
    assert time.monotonic() - began < PATIENCE
    assert process.stderr is not None
    return process.stderr.read().decode()


@pytest.mark.slow
def test_stdin_that_is_silent(world: World, tmp_path: Path, environment: Mapping[str, str]) -> None:
    shard = sorted(world.shards.glob("*.tar"))[0].read_bytes()
    with begin(environment, world.base, "-", tmp_path / "out.zarr") as process:
        assert process.stdin is not None
        process.stdin.write(shard[: len(shard) // 2])
        process.stdin.flush()
        wait_until((tmp_path / "out.zarr/_parts/settings.json").exists, process)
        # until it waits
        time.sleep(0.3)
        errors = end(process, signal.SIGINT)
    assert process.returncode == 130, errors
    assert "error: stopped by " in errors
    assert "what came through a pipe cannot be resumed" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_command_that_is_silent_ends_too(world: World, tmp_path: Path, environment: Mapping[str, str]) -> None:
    command = f"pipe:cat {sorted(world.shards.glob('*.tar'))[0]}; echo $$ > {tmp_path}/pid; sleep 1000"
    with begin(environment, "--allow-pipe", world.base, command, tmp_path / "out.zarr") as process:
        wait_until((tmp_path / "pid").exists, process)
        time.sleep(0.3)
        errors = end(process, signal.SIGTERM)
    assert process.returncode == 75, errors
    deadline = time.monotonic() + PATIENCE
    pid = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline, "the command lives on"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_server_that_is_silent(world: World, tmp_path: Path, environment: Mapping[str, str]) -> None:
    shard = sorted(world.shards.glob("*.tar"))[0].read_bytes()
    local = Path(tmp_path / "local.tar")
    local.write_bytes(shard)
    with (
        serving(Script(shard, [Answer(stop=2000, silent=True)])) as script,
        begin(environment, world.base, local, f"{script.url}/a.tar", tmp_path / "out.zarr") as process,
    ):
        wait_until(lambda: script.asked and list(tmp_path.glob("out.zarr/_parts/*.npz")), process)
        errors = end(process, signal.SIGTERM)
    assert process.returncode == 75, errors
    assert "8 records are saved" in errors
    assert "run the same command again" in errors


def test_in_python_a_signal_while_nothing_comes_ends_it_too(world: World, tmp_path: Path) -> None:
    """The thread that reads is left behind; it ends with its input."""
    read, write = os.pipe()

    class Asked(Watcher):
        def report(self, *_: object) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    shard = sorted(world.shards.glob("*.tar"))[0].read_bytes()
    try:
        with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb") as source:
            source.write(shard)
            source.flush()
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(Exception, match="stopped by SIGUSR1") as caught:
                encode(world.base, "-", tmp_path / "out.zarr", device="cpu", stdin=stdin)
            assert caught.value.exit_code == 75  # type: ignore[attr-defined]
            source.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
