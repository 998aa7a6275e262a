"""Signals and bases to check a device with."""

import numpy as np

from functaconv.base import Base
from functaconv.construction import build
from functaconv.defaults import Situation
from functaconv.modalities import Axes
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.modalities.sphere import Globe
from functaconv.presets import preset
from functaconv.signals.grid import AnyGrid, Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal

IMAGES = Axes("image", 2, 3)


def images(count: int, side: int) -> list[Signal]:
    """Smooth random colour images, uint8."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    found = []
    for number in range(count):
        waves = generator.normal(size=(8, 3)) / 4
        where = generator.uniform(-12, 12, size=(8, 2))
        field = sum(np.sin(a * y + b * x)[..., None] * wave for (a, b), wave in zip(where, waves, strict=True))
        found.append(Signal(str(number), (np.clip(0.5 + 0.3 * field, 0, 1) * 255).astype(np.uint8), 255.0))
    return found


def voxels() -> tuple[Base, list[Signal], AnyGrid]:
    """A fresh base for voxels, boxes to encode with it, and where to render them."""
    recipe = preset("voxels", Situation((16, 16, 16), 1, False))
    generator = np.random.default_rng(0)
    signals = []
    for number in range(16):
        volume = np.zeros((16, 16, 16, 1), np.uint8)
        volume[tuple(slice(*sorted(generator.choice(17, 2, replace=False))) for _ in range(3))] = 1
        signals.append(Signal(str(number), volume))
    return build(recipe, Axes("voxels", 3, 1, "none"), Normalizer.of_code_range(1)), signals, Grid((24, 24, 24))


def grids() -> tuple[Base, list[Signal], AnyGrid]:
    """The same for global grids with a mask that all share."""
    globe = GlobeGrid(tuple(np.linspace(90, -90, 37).tolist()), tuple(np.arange(0.0, 360, 5).tolist()))
    recipe = preset("grids", Situation(globe.shape, 1, False))
    land = np.zeros((*globe.shape, 1), bool)
    land[10:20, 30:50] = True
    down, along = np.meshgrid(np.radians(globe.latitude), np.radians(globe.longitude), indexing="ij")
    signals = [
        Signal(str(number), field.astype(np.float32)[..., None], valid=~land, own_grid=globe)
        for number, field in enumerate(np.cos(down) * np.sin(along + shift) for shift in range(16))
    ]
    axes = Axes("grid", 2, 1, "last", 4, ("t",), ("K",))
    geometry = Globe.around([globe], "sphere")
    return build(recipe, axes, Normalizer.of_range(signals), geometry), signals, globe
