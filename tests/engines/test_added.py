"""An engine is a function and a line in the table: one of a few lines makes the bytes that this process makes."""

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from functaconv.cli.app import run
from functaconv.engines import ENGINES
from functaconv.engines.local import Job
from functaconv.functaset.verify import verify
from functaconv.interruption import Stop
from tests.benchmarks.kills import contents


def backwards(job: Job, tasks: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The last task first."""
    for task in reversed(list(tasks)):
        yield from job.encode(job.read(task))


def test_an_engine_is_one_function_and_one_line(
    base_file: Path, image_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "backwards", backwards)
    shards = image_shards(24, items_per_shard=8, seed=3)
    for engine in ("local", "backwards"):
        command = ("encode", base_file, shards, tmp_path / engine, "--engine", engine, "--device", "cpu", "-q")
        assert run([*map(str, command)]) == 0
        assert verify(tmp_path / engine) == []
    assert contents(tmp_path / "local") == contents(tmp_path / "backwards")
    assert run(["render", str(tmp_path / "backwards"), str(tmp_path / "images"), "-q"]) == 0
    assert len(list((tmp_path / "images").iterdir())) == 24


def test_an_unknown_engine_is_named(base_file: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["encode", str(base_file), str(images), str(tmp_path / "o.zarr"), "--engine", "bakwards"]) == 2
    assert "engine" in capsys.readouterr().err
