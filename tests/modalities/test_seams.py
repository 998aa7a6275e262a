"""How much the cells of spatial latents show in enlarged renders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from functaconv.conversion import encode
from functaconv.metrics import seam_ratio, seams, steps_across
from functaconv.reporting import report
from functaconv.reporting.pca import analysis
from functaconv.training import fit_base
from tests.conftest import npy, png, tar

SCALE, SIDE = 4, 32


def textures(count: int = 24) -> np.ndarray:
    """Photograph-like: noise with a falling spectrum, `[item, row, column, channel]` in 0..1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    noise = np.fft.fft2(rng.normal(size=(count, SIDE, SIDE))) / np.maximum(frequency, 1 / SIDE)
    values = np.fft.ifft2(noise).real
    return ((values - values.min()) / np.ptp(values))[..., None]


def enlarged(items: np.ndarray) -> np.ndarray:
    size = (items.shape[1] * SCALE, items.shape[2] * SCALE)
    pictures = [
        Image.fromarray(item[..., 0].astype(np.float32)).resize(size, Image.Resampling.LANCZOS) for item in items
    ]
    return np.stack([np.asarray(picture) for picture in pictures])[..., None]


@pytest.mark.parametrize("sites", [(8, 8), (4, 4)])
def test_an_interpolation_has_none(sites: tuple[int, int]) -> None:
    ratio = seam_ratio(*seams(enlarged(textures()), sites, SCALE))
    assert ratio is not None
    assert ratio < 1.05


def test_cells_of_their_own_show() -> None:
    big = enlarged(textures())
    side = 8 * SCALE
    rng = np.random.default_rng(1)
    # every cell is off by an amount of its own
    shifts = 0.02 * rng.normal(size=(len(big), 4, 4, 1))
    big = big + shifts.repeat(side, 1).repeat(side, 2)
    ratio = seam_ratio(*seams(big, (4, 4), SCALE))
    assert ratio is not None
    assert ratio > 1.2


def test_windows_have_none_and_independent_cells_have(tmp_path: Path) -> None:
    """Of as many numbers: a base in closed form, and principal components of the cells, each enlarged by itself."""
    items, sites, numbers = textures(32).astype(np.float32), 8, 4
    members = {f"{number:03d}.npy": npy(item[..., 0]) for number, item in enumerate(items)}
    shard = tar(tmp_path / "textures.tar", members)
    settings = {"latent": {"numbers": numbers, "sites": [sites, sites]}, "training": {"minutes": 0},
                "closed_form": {"features": 100, "rounds": 4}}  # fmt: skip
    base = fit_base(str(shard), tmp_path / "base", settings=settings, device="cpu").path
    encode(base, str(shard), tmp_path / "store", device="cpu")
    windows = report(tmp_path / "store", against=str(shard)).summary["seams"]

    cell = SIDE // sites
    cells = items.reshape(-1, sites, cell, sites, cell).transpose(0, 1, 3, 2, 4).reshape(-1, cell * cell)
    pca = analysis(cells.shape[1], len(cells))
    assert pca is not None
    pca.add(torch.from_numpy(cells))
    known = pca.pca(numbers).reconstruct(torch.from_numpy(cells)).numpy().reshape(-1, cell, cell, 1)
    side = cell * SCALE
    joined = enlarged(known).reshape(-1, sites, sites, side, side).transpose(0, 1, 3, 2, 4)
    independent = seam_ratio(*seams(joined.reshape(-1, SIDE * SCALE, SIDE * SCALE, 1), (sites, sites), SCALE))
    assert independent is not None
    assert windows < 1.05
    assert independent > 1.2


def test_a_border_of_tiles_shows_where_they_differ() -> None:
    found = {}
    for shift in (0, 0.02):
        sums, counts = np.zeros(4), np.zeros(4)
        for big in enlarged(textures()):
            big[13 * SCALE :] += shift
            steps = steps_across(big[10 * SCALE : 16 * SCALE], 0, (3, 3), SCALE)
            sums, counts = sums + steps[0], counts + steps[1]
        found[shift] = seam_ratio(sums, counts)
        assert counts.tolist() == [24, 96, 24, 96]
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[0.02] is not None
    assert found[0.02] > 1.2


@pytest.mark.parametrize(("sites", "numbers"), [((), 100), ((4, 4), 6)])
def test_borders_of_tiles_do_not_show(tmp_path: Path, sites: tuple[int, ...], numbers: int) -> None:
    shard = tar(tmp_path / "images.tar", {f"{number}.png": png(number, (56, 56)) for number in range(2)})
    settings = {"latent": {"numbers": numbers, "sites": sites}, "training": {"minutes": 0}, "data": {"tile": 32},
                "closed_form": {"features": 60, "rounds": 2}}  # fmt: skip
    base = fit_base(str(shard), tmp_path / "base", settings=settings, device="cpu").path
    encode(base, str(shard), tmp_path / "store", device="cpu", tile=32)
    found = report(tmp_path / "store", against=str(shard))
    assert found.complaint is None
    assert len(found.functaset) == 2 * 2 * 2
    assert found.summary["seams"] < 1.1


def test_what_cannot_be_compared_is_not() -> None:
    big = enlarged(textures(2))
    # cells of no whole pixels, of two pixels, one cell in all
    for sites in ((5, 5), (16, 16), (1, 1)):
        assert seam_ratio(*seams(big, sites, SCALE)) is None
