"""What every modality and every render format does."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from functaconv.data.items import Item
from functaconv.errors import ItemError, UsageError
from functaconv.functaset.attributes import Normaliser
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import Layout, columns
from functaconv.modalities import MODALITIES, Axes, modality_of
from functaconv.modalities.compared import Compared
from functaconv.presets import PRESETS
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats import FORMATS, format_of
from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.summary import of_measures
from tests.conftest import smooth


def image(number: int) -> Item:
    return Item(f"{number}", np.rint(255 * smooth(number, (6, 5), 3)).astype(np.uint8), "image", 255.0)


def voxels(number: int) -> Item:
    return Item(f"{number}", (smooth(number, (6, 5, 7), 1)[..., 0] > 0.5).astype(np.uint8), "array")


def grid(number: int) -> Item:
    values = smooth(number, (6, 5), 2).astype(np.float32)
    values[number % 6, 0, 0] = math.nan
    said = {"latitude": [*range(6)], "longitude": [*range(5)], "variable": ["t", "q"], "units": ["K", ""],
            "time": f"2020-01-0{number + 1}", "level": 500}  # fmt: skip
    return Item(f"{number}", values, "grid", attributes=said)


def array(number: int) -> Item:
    return Item(f"{number}", smooth(number, (9,), 1)[..., 0].astype(np.float32) - 3, "array")


@dataclass(frozen=True)
class Case:
    item: Callable[[int], Item]
    kind: str
    """item kinds are those of decoders"""
    axes: int
    channels: int


CASES = {
    "array": Case(array, "array", 1, 1),
    "voxels": Case(voxels, "array", 3, 1),
    "image": Case(image, "image", 2, 3),
    "grid": Case(grid, "grid", 2, 2),
}


def test_every_modality_has_a_case() -> None:
    assert CASES.keys() == MODALITIES.keys()


@pytest.mark.parametrize("name", CASES)
def test_items_are_recognised_and_keep_their_values(name: str) -> None:
    case, items = CASES[name], [CASES[name].item(number) for number in range(3)]
    axes = Axes.of(items)
    assert (axes.kind, axes.dims, axes.channels) == (name, case.axes, case.channels)
    assert axes.dims in axes.modality.dims
    for item in items:
        signal = axes.signal(item)
        assert signal.values.shape == (*item.array.shape[: case.axes], case.channels)
        expected = np.nan_to_num(item.array.astype(float)).reshape(signal.values.shape)
        np.testing.assert_array_equal(signal.values, expected)
        assert (signal.valid is None) == bool(np.isfinite(item.array).all())
        assert signal.peak == item.peak


@pytest.mark.parametrize("name", CASES)
def test_items_of_other_kinds_are_refused(name: str) -> None:
    axes = Axes.of([CASES[name].item(number) for number in range(3)])
    for other, case in CASES.items():
        if case.kind not in axes.modality.item_kinds:
            with pytest.raises(ItemError, match=f"the base was made for {MODALITIES[name].plural}"):
                axes.signal(CASES[other].item(0))


@pytest.mark.parametrize("name", CASES)
def test_measures_are_columns_and_lines_and_of_perfect_items_none_is_wrong(name: str) -> None:
    kind = MODALITIES[name]
    items = [CASES[name].item(number) for number in range(3)]
    axes = Axes.of(items)
    batch = Batch.of([axes.signal(item) for item in items], range(3))
    normalizer = Normalizer.of_code_range(axes.channels)
    features = normalizer.features(batch)
    found = Compared(batch, features, features.clone(), torch.zeros_like(features), torch.ones(axes.channels))
    measured = {measure: values.float().numpy() for measure, values in kind.compare(found).items()}
    assert tuple(measured) == kind.measure_names
    layout = Layout(axes=("a",) * axes.dims, latent=4, bits="float32", modality=name, variables=axes.variables)
    shapes = {column.name: column.tail for column in columns(layout, meta=False)}
    for measure in kind.measures:
        assert measured[measure.name].shape == (3, *shapes[measure.name])
    summary = of_measures(kind, measured, axes.variables, axes.units)
    json.dumps(summary, allow_nan=False)
    assert {measure.report for measure in kind.measures} <= summary.keys()
    assert bool(kind.measures) == bool(list(kind.lines(summary)))
    names = [measure.name for measure in kind.agreement_measures]
    for decoded, share in ((features, 1.0), (1 - features, 0.0)):
        agreement = kind.agreement(decoded, features)
        assert {name: values.tolist() for name, values in agreement.items()} == {name: [share] * 3 for name in names}
    assert bool(names) == bool(kind.agreement_text(summary))


@pytest.mark.parametrize("name", CASES)
def test_geometry_preset_and_format_are_there(name: str) -> None:
    kind, item = MODALITIES[name], CASES[name].item(0)
    axes = Axes.of([item])
    signal = axes.signal(item)
    own = [] if signal.own_grid is None else [signal.own_grid]
    geometry = kind.geometry(own, axes, "sphere")
    points = geometry.points(signal.grid)
    assert points.coords.shape == (math.prod(signal.shape), geometry.coords)
    assert geometry.axes == axes.dims
    assert kind.preset in PRESETS
    assert {kind.usual_format, *kind.own_formats} <= FORMATS.keys()
    assert bool(own) == kind.has_coordinates


def test_what_is_not_known_is_read_as_plain_arrays() -> None:
    assert modality_of("of tomorrow") is MODALITIES["array"]


class Stored:
    """As much of a functaset as formats look at."""

    def __init__(self, name: str) -> None:
        case = CASES[name]
        item = case.item(0)
        axes = Axes.of([item])
        self.layout = Layout(axes=("a",) * axes.dims, latent=4, bits="float32", modality=name, variables=axes.variables)
        self.attributes = self
        self.normaliser = Normaliser(offset=(0.0,) * axes.channels, scale=(1.0,) * axes.channels)
        self.variables, self.units, self.path = axes.variables, axes.units, Path("stored")
        signal = axes.signal(item)
        self.picture = Picture("0", signal.values.astype(np.float32), signal.grid, 0)

    def measure(self, name: str) -> np.ndarray:
        assert name == "time"
        return np.zeros(1, np.int64)

    def meta(self, row: int) -> dict[str, int]:
        return {"level": 500 + row}


@pytest.mark.parametrize("name", CASES)
def test_formats_write_the_items_that_they_are_for(name: str, tmp_path: Path) -> None:
    for suffix in FORMATS:
        assert_written_or_refused(suffix, name, tmp_path)


def assert_written_or_refused(suffix: str, name: str, tmp_path: Path) -> None:
    stored = Stored(name)
    functaset: Functaset = stored  # type: ignore[assignment]
    owners = [kind.name for kind in MODALITIES.values() if suffix in kind.own_formats]
    if (owners and name not in owners) or (suffix == "png" and name in ("array", "grid")):
        with pytest.raises(UsageError, match=f"^{suffix} "):
            format_of(suffix, functaset)
        return
    found = format_of(suffix, functaset)
    path = tmp_path / f"one.{suffix}"
    if not found.is_store:
        path.write_bytes(found.to_bytes(stored.picture, functaset))
        assert path.stat().st_size > 0
        assert found.may_replace(path)
    if found.holds_many:
        found.write([stored.picture], functaset, path)
        assert found.may_replace(path)
    assert not found.may_replace(tmp_path / "nothing")
