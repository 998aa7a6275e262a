"""Runs that are killed, resumed or shared give what an undisturbed run gives."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from functaconv.functaset.unfinished import Parts
from functaconv.functaset.verify import verify

from .conftest import LAYOUTS, begin, block_of, encode, tree


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def undisturbed(stores: dict[str, Path]) -> dict[str, bytes]:
    return tree(stores["two"])


def encoded(path: Path) -> Path:
    return encode(path, LAYOUTS["two"], canonical=True)


def test_killed_while_the_blocks_are_removed_it_is_finished(
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
            encoded(path)
    assert (path / "_parts").exists()
    assert verify(path) == []
    assert tree(encoded(path)) == undisturbed


def test_a_block_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is one file, for which the disk is waited for twice: for its content, and for its name."""
    parts = begin(tmp_path / "out.zarr", LAYOUTS["global"])
    synced: list[tuple[str, list[str]]] = []

    def record(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, sorted(file.name for file in parts.root.glob("*.npz"))))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what is synced")
    monkeypatch.setattr(os, "fsync", record)
    before = set(tree(tmp_path))
    parts.write(block_of(LAYOUTS["global"], 0, 0))
    (file, unnamed), (parent, named) = synced
    assert file.endswith(".tmp")
    assert unnamed == []
    assert (parent, named) == ("_parts", ["000000-000000.npz"])
    assert set(tree(tmp_path)) - before == {"out.zarr/_parts/000000-000000.npz"}


def test_the_list_of_blocks_says_what_is_done(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    parts = begin(tmp_path / "out.zarr", layout)
    assert parts.listed() == {}
    parts.write(block_of(layout, 0, 1))
    parts.write(block_of(layout, 3, 0, is_last=True))
    # what a killed process left, and what is somebody else's
    for name in (".000000-000000.npz.1234.tmp", "000000-000000.npz.txt", "0-0.npz", "settings.json"):
        (parts.root / name).touch()
    listed = parts.listed()
    assert {shard: (list(one.files), one.last, one.is_complete) for shard, one in listed.items()} == {
        0: ([1], None, False),
        3: ([0], 0, True),
    }
    assert [parts.has(0, 0), parts.has(0, 1), parts.has(3, 0), parts.has(3, 1)] == [False, True, True, False]
    parts.write(block_of(layout, 0, 2, is_last=True))
    assert not parts.listed()[0].is_complete
    parts.write(block_of(layout, 0, 0))
    assert Parts(parts.root).listed()[0].is_complete


@pytest.mark.parametrize("failing", ["first", "second"])
def test_what_a_killed_replacement_took_away_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Between the two renames there is nothing at the place of the functaset."""
    path, other = encode(tmp_path / "out.zarr", LAYOUTS["global"]), LAYOUTS["codes"]
    before, rename, renamed = tree(path), Path.rename, list[Path]()

    def kill(self: Path, target: Path) -> Any:
        if self.name in ("out.zarr", ".out.zarr.new"):
            renamed.append(self)
            if len(renamed) == ("first", "second").index(failing) + 1:
                raise KilledError
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill)
        with pytest.raises(KilledError):
            begin(path, other, overwrite=True)
    assert path.exists() == (failing == "first")
    begin(path, LAYOUTS["global"])
    assert tree(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
