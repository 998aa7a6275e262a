"""Files appear whole or not at all, and of two processes one writes an output."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from functaconv.errors import OutputExistsError
from functaconv.files import locked, replace_bytes, replacing


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "folder" / "file"
    replace_bytes(path, b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="No space"):
        replace_bytes(path, b"after")
    assert path.read_bytes() == b"before"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_bytes(path, b"before")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half of what comes af")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"before")]


def test_the_file_and_its_name_are_on_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().is_dir())
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", noting)
    replace_bytes(tmp_path / "file", b"content")
    assert synced == [False, True]


def test_a_second_process_is_told_who_has_an_output(tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "out.zarr"
    with locked(output):
        with pytest.raises(OutputExistsError, match=rf"out.zarr is being written by another run: pid {os.getpid()} on"):
            locked(output).__enter__()
        # asking has not taken it, nor wiped out who has it
        with pytest.raises(OutputExistsError, match=f"pid {os.getpid()} on"):
            locked(output).__enter__()
    with locked(output):
        pass
    assert list(output.parent.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from functaconv.files import locked
with locked(Path({str(tmp_path / "out")!r})):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert list(tmp_path.glob(".out.lock"))
    with locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_may_be_waited_for(tmp_path: Path) -> None:
    asked, done = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(tmp_path / "out", patience=60, check=asked.set):
            done.set()

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert asked.wait(30)
        assert not done.is_set()
    thread.join(30)
    assert done.is_set()


def test_who_waits_for_a_lock_may_give_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with locked(tmp_path / "out"), pytest.raises(KeyboardInterrupt):
        locked(tmp_path / "out", patience=60, check=give_up).__enter__()
