"""Runs that are killed, resumed or shared give what an undisturbed run gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from functaconv.errors import InputError
from functaconv.functaset import FunctasetWriter, Part, Quantiser, beginning, verify

from .conftest import BASE, LAYOUTS, attributes_of, block_of, encode, quantiser_of, tree

SETTINGS: dict[str, Any] = {"seed": 0, "solver": {"steps": 3}}


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def undisturbed(tmp_path: Path, chunks_of_two: None) -> dict[str, bytes]:
    return tree(encode(tmp_path / "undisturbed.zarr", LAYOUTS["two"]))


def test_a_run_killed_at_any_file_and_resumed_gives_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, the arrays' included, appears by a rename: fail at each in turn."""
    for kill_at in range(10_000):
        path = tmp_path / f"{kill_at}.zarr"
        left = kill_at

        def failing(rename: Any) -> Any:
            def rename_or_fail(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == -1:
                    raise KilledError
                return rename(*arguments, **options)

            return rename_or_fail

        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                encode(path, LAYOUTS["two"])
            except KilledError:
                killed = True
            else:
                killed = False
        encode(path, LAYOUTS["two"])
        assert tree(path) == undisturbed
        shutil.rmtree(path)
        if not killed:
            break
    # two parts of two blocks, nine arrays: far more than this many files
    assert kill_at > 30


@pytest.mark.parametrize("kill_at", [4, 12, 30])
def test_a_process_that_dies_leaves_nothing_that_stays(
    tmp_path: Path, kill_at: int, undisturbed: dict[str, bytes], chunks_of_two: None
) -> None:
    """No handler runs and temporary files stay behind, unlike when an exception is raised."""
    path = tmp_path / "out.zarr"
    program = f"""
import os, sys
from pathlib import Path
left = {kill_at}
def dying(rename):
    def rename_or_die(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return rename(*arguments, **options)
    return rename_or_die
os.rename, os.replace = dying(os.rename), dying(os.replace)
from functaconv.functaset import arrays
arrays._CHUNK_BYTES, arrays._CHUNKS_PER_SHARD = 128, 2
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest
conftest.encode(Path({str(path)!r}), conftest.LAYOUTS["two"])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert died.returncode == 9
    assert any(".tmp" in name or ".partial" in name for name in tree(path))
    assert tree(encode(path, LAYOUTS["two"])) == undisturbed


def test_killed_while_the_parts_are_removed_it_is_finished(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.zarr"

    def remove_one_file(folder: Path, **options: Any) -> None:
        if folder.name == "_parts":
            (folder / "settings.json").unlink()
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_one_file)
        with pytest.raises(KilledError):
            encode(path, LAYOUTS["two"])
    assert (path / "_parts").exists()
    assert verify(path) == []
    assert FunctasetWriter.open(path, LAYOUTS["two"], SETTINGS).finished
    assert tree(path) == undisturbed


def test_a_block_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = FunctasetWriter.open(tmp_path / "out.zarr", LAYOUTS["global"], SETTINGS)
    writer.begin(Part(0), {})
    folder = tmp_path / "out.zarr/_parts/000000"
    synced: list[tuple[str, list[str]]] = []

    def record(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, sorted(file.name for file in folder.glob("*.npz"))))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what is synced")
    monkeypatch.setattr(os, "fsync", record)
    writer.commit(Part(0), 0, block_of(LAYOUTS["global"], 0, 0))
    (file, before), (parent, after) = synced
    assert file.endswith(".tmp")
    assert before == []
    assert (parent, after) == ("000000", ["000000.npz"])


def test_assembling_twice_gives_the_same(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["two"]
    writer = FunctasetWriter.open(path, layout, SETTINGS)
    for part in range(2):
        writer.begin(Part(part), {"size": 100 + part})
        for number in range(2):
            writer.commit(Part(part), number, block_of(layout, part, number))
        writer.end(Part(part), 12)
    writer.assemble(quantiser_of(layout))
    writer.assemble(quantiser_of(layout))
    assert writer.nbytes() == sum(
        len(content) for name, content in undisturbed.items() if "/" in name or name == "failed.jsonl"
    )
    report = {"count": 20, "failed": 4, "psnr": 30.5}
    writer.seal(attributes_of(layout, 20, 4), BASE, report)
    assert tree(path) == undisturbed


def test_the_order_in_which_parts_are_written_does_not_matter(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["two"]
    for part in (1, 0):
        writer = FunctasetWriter.open(path, layout, SETTINGS)
        writer.begin(Part(part), {"size": 100 + part})
        for number in range(2):
            writer.commit(Part(part), number, block_of(layout, part, number))
        writer.end(Part(part), 12)
    assert tree(encode(path, layout)) == undisturbed


def test_progress_says_where_to_go_on(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    assert writer.progress(Part(0)).done is False
    fresh = writer.begin(Part(0), {"size": 1})
    assert (fresh.blocks, fresh.records, fresh.last_key, fresh.done) == (0, 0, None, False)
    writer.commit(Part(0), 0, block_of(layout, 0, 0))
    resumed = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS).begin(Part(0), {"size": 1})
    assert (resumed.blocks, resumed.records, resumed.last_key, resumed.done) == (1, 6, "0/0/bad", False)
    with pytest.raises(ValueError, match="not done"):
        writer.totals()
    writer.end(Part(0), 8)
    assert (writer.progress(Part(0)).records, writer.progress(Part(0)).done) == (8, True)
    totals = writer.totals()
    assert (totals.rows, totals.failed, totals.records) == (5, 1, 8)


def test_a_block_that_is_lost_is_made_again(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    writer.begin(Part(0), {"size": 1})
    for number in range(3):
        writer.commit(Part(0), number, block_of(layout, 0, number))
    writer.end(Part(0), 18)
    (tmp_path / "out.zarr/_parts/000000/000001.npz").unlink()
    progress = writer.begin(Part(0), {"size": 1})
    assert (progress.blocks, progress.records, progress.done) == (1, 6, False)


def test_a_flipped_bit_in_a_block_is_no_row(tmp_path: Path, flip: Any) -> None:
    layout = LAYOUTS["global"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    writer.begin(Part(0), {"size": 1})
    writer.commit(Part(0), 0, block_of(layout, 0, 0))
    writer.end(Part(0), 6)
    file = tmp_path / "out.zarr/_parts/000000/000000.npz"
    stored = block_of(layout, 0, 0).latent.tobytes()
    flip(file, file.read_bytes().index(stored) + 3)
    with pytest.raises(InputError, match="damaged") as caught:
        writer.assemble(Quantiser("float16"))
    assert f"delete {file}" in str(caught.value.hint)


def test_of_two_processes_that_create_it_both_get_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["global"]
    create = beginning._create

    def create_after_another(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        FunctasetWriter(path, layout, SETTINGS, finished=False).begin(Part(0), {"size": 100})
        create(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(beginning, "_create", create_after_another)
        FunctasetWriter.open(path, layout, SETTINGS)
    assert (path / "_parts/000000/source.json").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
