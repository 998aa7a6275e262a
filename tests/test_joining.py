"""Items in tiles, decoded as one."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from functaconv.functaset.schema import Layout
from functaconv.joining import Joined
from functaconv.signals.grid import Grid
from functaconv.signals.signal import Signal
from functaconv.signals.tiles import cuts, tiles_of

SIZES = {1: (40,), 2: (25, 40), 3: (9, 25, 18)}


class Levels:
    """Stands for a base whose items have one value everywhere: their latent."""

    latent, device = 1, torch.device("cpu")

    class axes:  # noqa: N801 - as a base has it
        channels = 1

    def decode(self, latents: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        assert coords.shape[1] in SIZES
        return latents.reshape(-1, 1, 1).expand(-1, len(coords), 1).clone()


def joined(size: tuple[int, ...], overlap: tuple[int, ...], levels: Any) -> tuple[Joined, np.ndarray]:
    """An item in tiles of at most 12 points along a side, and the level of each of them."""
    item = Signal("key", np.zeros((*size, 1), np.float32))
    tiles = list(tiles_of(item, 12, overlap))
    values = np.array([levels(number) for number in range(len(tiles))], np.float32)[:, None]
    origins, shapes = np.array([tile.origin for tile in tiles]), np.array([tile.signal.shape for tile in tiles])
    return Joined(Levels(), origins, shapes, size, overlap, lambda some: values[some]), values  # type: ignore[arg-type]


def whole(item: Joined, grid: Grid) -> np.ndarray:
    bands = list(item.bands([grid.axis(axis) for axis in range(len(grid.shape))]))
    assert [rows.start for rows, _ in bands] == np.cumsum([0, *(len(band) for _, band in bands[:-1])]).tolist()
    return torch.cat([band for _, band in bands])[..., 0].numpy()


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize(("size", "tile"), [(13, 12), (24, 12), (25, 12), (1001, 128), (4000, 128), (12, 12), (5, 12)])
def test_tiles_cover_an_axis_and_share_what_is_asked(size: int, tile: int, overlap: int) -> None:
    found = cuts(size, tile, overlap)
    assert (found[0][0], found[-1][1]) == (0, size)
    lengths = {stop - start for start, stop in found}
    assert max(lengths) <= tile
    assert len(lengths) == 1 or (not overlap and max(lengths) - min(lengths) == 1)
    for (_, stop), (start, _) in itertools.pairwise(found):
        assert stop - start >= overlap
        assert overlap or stop == start
    # one tile less would not do
    assert len(found) == 1 or (len(found) - 1) * (tile - overlap) + overlap < size


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("overlap", [0, 3])
def test_tiles_that_agree_join_without_a_trace(dims: int, overlap: int) -> None:
    item, _ = joined(SIZES[dims], (overlap,) * dims, lambda _: 0.7)
    beyond = ((-0.3, 1.2),) * dims
    for grid in (Grid(SIZES[dims]), Grid(tuple(size // 2 + 1 for size in SIZES[dims]), beyond)):
        np.testing.assert_allclose(whole(item, grid), 0.7, rtol=1e-6)


@pytest.mark.parametrize("dims", SIZES)
def test_tiles_that_differ_are_blended_without_a_step(dims: int) -> None:
    item, levels = joined(SIZES[dims], (3,) * dims, lambda number: number % 2)
    at = whole(item, Grid(SIZES[dims]))
    assert (at.min(), at.max()) == (0, 1)
    seen = np.zeros(SIZES[dims], int)
    for origin, shape in zip(item.origins, item.shapes, strict=True):
        seen[tuple(slice(o, o + s) for o, s in zip(origin, shape, strict=True))] += 1
    assert set(np.unique(at[seen == 1])) == {0, 1}
    # along the last axis, at ever more points: of a step nothing would go
    steps = []
    for scale in (4, 40):
        lines = Grid((*(2,) * (dims - 1), scale * SIZES[dims][-1]))
        steps.append(np.abs(np.diff(whole(item, lines), axis=-1)).max())
    assert steps[1] < 0.12 * steps[0] < 0.05
    assert len(levels) > 2


def test_tiles_of_older_functasets_lie_next_to_each_other() -> None:
    item, levels = joined((25, 40), (), lambda number: number)
    at = whole(item, Grid((25, 40)))
    for origin, shape, level in zip(item.origins, item.shapes, levels, strict=True):
        assert (at[tuple(slice(o, o + s) for o, s in zip(origin, shape, strict=True))] == level).all()


def test_an_overlap_is_one_of_tiles_along_every_axis() -> None:
    for changes in ({"overlap": (1, 1)}, {"tiled": True, "overlap": (1,)}, {"tiled": True, "overlap": (-1, 1)}):
        with pytest.raises(ValueError, match="overlap"):
            Layout(axes=("row", "column"), latent=4, bits="8", **changes)  # type: ignore[arg-type]


def test_a_large_item_is_decoded_some_rows_at_a_time() -> None:
    item, _ = joined((25, 40), (2, 2), lambda number: number)
    grid, rows, least = Grid((3000, 1500)), 0, 1.0
    for band, features in item.bands([grid.axis(0), grid.axis(1)]):
        assert features.numel() <= 1 << 20
        assert band.start == rows
        rows, least = rows + len(features), min(least, float(features.min()))
    assert (rows, least) == (3000, 0)
