"""From latents that a model made to values, differentiably."""

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.checkpoint import base_of
from functaconv.errors import UsageError
from functaconv.functaset.forms import Form, as_tokens
from functaconv.functaset.reader import Functaset
from functaconv.signals.grid import AnyGrid, Region, View

# reading a base takes longer than to decode a few latents: each functaset keeps its own, by device
_BASES: WeakKeyDictionary[Functaset, dict[torch.device, Base]] = WeakKeyDictionary()


def decode(
    functaset: Functaset,
    latents: Tensor | np.ndarray,
    *,
    form: Form = "grid",
    size: tuple[int, ...] | None = None,
    scale: float = 1.0,
    region: Region | None = None,
    level: str | None = None,
) -> Tensor:
    """Values `[item, *grid, channel]` float32 of latents of any origin, on the latents' device; gradients reach them.

    `latents` have the scale of `functaset.latents()` (not normalized) and one of the forms of `Functaset.latents`.
    Without a `size` the grid is that of the first item, times `scale`; `region` is a part of the unit interval, square
    or cube (beyond it one extrapolates), of grids on the earth one in degrees. Images have values in 0..1 (not
    clipped), voxels occupancy, others their own units; where levels have ranges of their own, `level` says which.
    """
    latents = torch.as_tensor(latents)
    of_these = Latents(functaset, latents.device)
    base = of_these.base
    if base.normalizer.levels and level is None:
        known = ", ".join(sorted(base.normalizer.levels))
        raise UsageError("the levels of these items have ranges of their own", hint=f"say which it is: {known}")
    if not len(functaset):
        raise UsageError(f"{functaset.path} holds no items", hint="no item says on which grid they lie")
    grid = functaset.native_grid(0).resampled(View(size, scale, region))
    features = of_these.features(latents, grid, form)
    return base.normalizer.values(features.flatten(1, -2), (level,) * len(features)).reshape(features.shape)


class Latents:
    """The latents of a functaset and any others of their kind, on a device."""

    def __init__(self, functaset: Functaset, device: torch.device) -> None:
        if functaset.layout.tiled:
            raise UsageError(f"{functaset.path} holds tiles of items", hint="`functaconv render` joins them")
        self.functaset, self.base = functaset, _kept(functaset, device)

    def features(self, latents: Tensor, grid: AnyGrid, form: Form = "grid") -> Tensor:
        """Normalised values on a grid, `[item, *grid, channel]`; gradients reach the latents."""
        base = self.base
        tokens: Tensor = as_tokens(latents, self.functaset.layout.sites, base.latent, form)
        features = base.decode(tokens.to(base.start.dtype), base.geometry.points(grid).to(base.start))
        return features.reshape(len(features), *grid.shape, base.axes.channels)


def interpolate(functaset: Functaset, a: int | str, b: int | str, steps: int) -> Tensor:
    """Latents `[step, *sites, latent]` on the straight way from item `a` to item `b` (numbers or keys), both included:
    `functaset.decode` makes values of them.
    """
    if steps < 2:
        raise UsageError(f"interpolation takes 2 steps or more, its ends, not {steps}")
    rows = [functaset.index(item) if isinstance(item, str) else functaset.item_rows[item] for item in (a, b)]
    first, last = torch.from_numpy(functaset.latents(np.array(rows)))
    share = torch.linspace(0, 1, steps).reshape(-1, *(1,) * first.dim())
    return torch.lerp(first, last, share)


def _kept(functaset: Functaset, device: torch.device) -> Base:
    bases = _BASES.setdefault(functaset, {})
    if device not in bases:
        # it serves later calls with gradients, too
        with torch.inference_mode(False):
            bases[device] = base_of(functaset, device)
    return bases[device]
