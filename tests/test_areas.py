"""Samples that are means over cells: averages of the function, with derivatives, and what they are for."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from functaconv.areas import Areas, CellMeans, exactly
from functaconv.base import Base
from functaconv.checkpoint import read_base
from functaconv.construction import build
from functaconv.conversion import encode
from functaconv.errors import UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.measuring import sample, samples
from functaconv.modalities import Axes
from functaconv.networks import ModulatedNetwork
from functaconv.recipe import validated
from functaconv.reporting import report
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.training import fit_base
from tests.conftest import png

LATENTS = {
    "cosines": {"numbers": 12},
    "windows": {"numbers": 4, "sites": [2, 3], "interpolation": "window"},
    "nearest": {"numbers": 4, "sites": [2, 3], "interpolation": "nearest"},
    "linear": {"numbers": 4, "sites": [2, 3], "interpolation": "linear"},
}


@pytest.fixture(scope="module", params=LATENTS)
def base_path(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base for RGB images of 12 x 12: closed forms, and learned networks with sites."""
    is_closed = request.param in ("cosines", "windows")
    network = {"kind": "fourier"} if is_closed else {"kind": "siren", "width": 16, "depth": 3}
    settings = {"network": network, "latent": LATENTS[request.param],
                "training": {"minutes": 0.0} if is_closed else {"steps": 5, "batch_size": 8}}  # fmt: skip
    path = tmp_path_factory.mktemp("base") / "base"
    return fit_base(str(images), path, settings=settings, device="cpu").path


@pytest.fixture
def base(base_path: Path) -> Base:
    return read_base(base_path).base


def latents_of(base: Base, items: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (items, base.field.sites.count, base.latent)
    return 0.1 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(6, 6), (3, 6), (4, 5), (5, 7)])
def test_means_are_averages_of_the_function_over_each_cell(base: Base, shape: tuple[int, int]) -> None:
    latents = latents_of(base, 2)
    sample(base, "area")
    # sub-points as close as the training's points
    each = [2 ** math.ceil(math.log2(max(12 / size for size in shape)))] * 2
    if isinstance(fields(base, shape), ModulatedNetwork):
        # cosines: their mean over the training's points themselves, where a cell has a whole number of them
        each = [12 // size for size in shape]
        shape = (12 // each[0], 12 // each[1])
    fine = base.decode(latents, base.points(Grid((each[0] * shape[0], each[1] * shape[1]))))
    expected = fine.reshape(2, shape[0], each[0], shape[1], each[1], 3).mean((2, 4)).flatten(1, 2)
    assert torch.allclose(samples(base, latents, Grid(shape)), expected, atol=1e-5)
    assert not torch.allclose(base.decode(latents, base.points(Grid(shape))), expected, atol=3e-3)


def fields(base: Base, shape: tuple[int, int]) -> "ModulatedNetwork | CellMeans":
    grid = Grid(shape)
    assert isinstance(base.areas, Areas)
    field: ModulatedNetwork | CellMeans
    field, _ = base.areas.of(base.field, grid, base.points(grid), base.placement(grid))
    return field


@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_derivatives_are_those_of_the_means(base: Base, shape: tuple[int, int]) -> None:
    grid = Grid(shape)
    sample(base, "area")
    assert base.areas is not None
    field, placement = base.areas.of(base.field, grid, base.points(grid), base.placement(grid))
    latents, direction = latents_of(base, 2), latents_of(base, 2)
    step = 1e-3
    ahead, behind = (field(latents + sign * step * direction, placement) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    _, rows = field.jacobian(latents, placement)
    if isinstance(field, CellMeans):
        along = torch.einsum("icphn,in->icph", rows.expand(2, *rows.shape[1:]), direction.flatten(1))
        assert torch.allclose(along, slope, rtol=1e-2, atol=2e-3)
    values, pullback = field.vjp(latents, placement)
    assert torch.allclose(values, field(latents, placement), atol=1e-6)
    cotangent = torch.randn_like(values)
    pulled = (pullback(cotangent) * direction).sum()
    assert float(pulled) == pytest.approx(float((cotangent * slope).sum()), rel=2e-2, abs=2e-3)


@pytest.fixture
def coarse(shards_of: Callable[..., Path]) -> Callable[[int], tuple[Path, np.ndarray]]:
    """Images of 12 x 12 as cell means of so many pixels each, in shards, and the whole images."""

    def make(ratio: int) -> tuple[Path, np.ndarray]:
        import io

        from PIL import Image

        files, whole = {}, []
        for number in range(70):
            with Image.open(io.BytesIO(png(number, (12, 12)))) as image:
                codes = np.asarray(image).astype(np.float64)
            whole.append(codes / 255)
            means = codes.reshape(12 // ratio, ratio, 12 // ratio, ratio, 3).mean((1, 3))
            buffer = io.BytesIO()
            Image.fromarray(np.rint(means).astype(np.uint8)).save(buffer, "PNG")
            files[f"image{number:04d}.png"] = buffer.getvalue()
        return shards_of(files), np.stack(whole)

    return make


def test_coarse_items_are_fitted_better_as_means_and_reports_agree(
    base_path: Path, coarse: Callable[[int], tuple[Path, np.ndarray]], tmp_path: Path
) -> None:
    shards, whole = coarse(3)
    errors = {}
    for footprint in ("point", "area"):
        store = open_functaset(encode(base_path, str(shards), tmp_path / footprint, footprint=footprint).path)
        decoded = store.decode(torch.from_numpy(store.latents()), size=(12, 12)).numpy()
        errors[footprint] = float(np.square(decoded - whole).mean())
        result = report(store, against=str(shards))
        assert result.complaint is None
        assert result.summary["against"]["largest_difference_db"] < 0.01
    if read_base(base_path).recipe.network.kind == "fourier":
        # the other bases have hardly learned anything
        assert errors["area"] < errors["point"]
    assert store.attributes.settings["footprint"] == "area"


def test_items_of_the_training_size_are_the_same_as_points_where_there_are_sub_points(
    base: Base,
) -> None:
    sample(base, "area")
    if isinstance(fields(base, (12, 12)), CellMeans):
        latents = latents_of(base, 2)
        expected = base.decode(latents, base.points(Grid((12, 12))))
        assert torch.allclose(samples(base, latents, Grid((12, 12))), expected, atol=1e-6)


def test_another_footprint_is_another_functaset(base_path: Path, images: Path, tmp_path: Path) -> None:
    encode(base_path, str(images), tmp_path / "a.zarr", limit=3)
    with pytest.raises(Exception, match="footprint"):
        encode(base_path, str(images), tmp_path / "a.zarr", limit=3, footprint="area")
    with pytest.raises(UsageError, match="footprint"):
        encode(base_path, str(images), tmp_path / "b.zarr", footprint="circle")
    with pytest.raises(UsageError, match="as a whole"):
        encode(base_path, str(images), tmp_path / "b.zarr", footprint="area", tile=8)


@pytest.mark.parametrize("latent", [{"sites": [1, 1], "interpolation": "window"}, {"knots": [4, 4]}])
def test_means_are_those_of_cosines_where_nothing_else_is_added(latent: dict[str, Any]) -> None:
    settings = {"network": {"kind": "fourier"}, "solver": {"kind": "gauss-newton", "chord": True}}

    def found(width: int) -> ModulatedNetwork | None:
        recipe = validated({**settings, "latent": {"numbers": 3, "map_width": width, **latent}})
        base = build(recipe, Axes("image", 2, 3), Normalizer.of_code_range(3))
        return exactly(base.field, (4, 4), (8, 8))

    assert found(0) is not None
    assert found(4) is None
