"""Runs that are killed, resumed or shared give what an undisturbed run gives."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from functaconv.functaset.verify import verify

from .conftest import LAYOUTS, begin, encode, tree


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
