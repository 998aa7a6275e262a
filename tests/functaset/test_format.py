"""The page about the format is true: its example reads what is written, and its tables name all that there is."""

import re
from pathlib import Path

import numpy as np
import pytest

import functaconv
from functaconv.functaset.attributes import Attributes
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.schema import Layout, columns, vectors

PAGE = (Path(functaconv.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`([a-z_0-9]+)`", PAGE))


def test_the_example_reads_it_with_nothing_but_zarr(
    stores: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    functaset = open_functaset(stores[name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.zarr").symlink_to(stores[name])
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "functaconv." not in example
    read: dict[str, np.ndarray] = {}
    exec(example, read)  # noqa: S102 - the page is ours
    assert np.array_equal(read["latents"], functaset.latents())
    assert read["keys"].tolist() == functaset.keys.tolist()
    assert np.array_equal(read["labels"], functaset.labels)
    assert capsys.readouterr().out.startswith(f"{len(functaset)} items, the first is {functaset.keys[0]}")


@pytest.mark.parametrize("modality", ["array", "image", "voxels", "grid"])
def test_every_array_is_on_the_page(modality: str) -> None:
    layout = Layout(axes=("row", "column"), latent=4, bits="8", tiled=True, modality=modality, variables=("t",))
    assert {column.name for column in columns(layout, meta=True)} | set(vectors(layout)) <= NAMES


def test_every_attribute_is_on_the_page() -> None:
    assert set(Attributes.model_fields) <= NAMES
