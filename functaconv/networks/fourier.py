"""A network that is linear in what modulates it: shared cosines, and output weights that the latents move.

At a point with coordinates v (one per axis, a cell or the whole domain being the unit interval) the features are
products of cosines, `g_f(v) = prod_a c(k_fa, v_a)`, and the network computes

    f(v) = g(v) . (readout + modulation) + mean(v)

with a mean of cosines of its own over the whole domain. The modulation is all of the output layer, so the Jacobian does
not depend on it, the first Gauss-Newton step is exact, and a base of this kind can be fitted in closed form.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.latents import Placement
from functaconv.shapes import CellFeatures, Modulations

MOST_BESIDE = 4
"""times as many points as there are may be computed to have a whole grid"""
MOST_PRODUCTS = 4
"""times as many products of the functions along the axes as there are features: more are not computed in vain"""


class Fourier(nn.Module):
    """Cosines read out by modulated weights.

    `axes` is how many axes the grid has. Of the coordinates the first `axes` are those of the features, the last `axes`
    those of the mean: the same ones for a global latent, within and across cells for spatial ones. `is_closed`: along
    the last axis of the whole domain the end meets the beginning (longitudes around the globe), so the functions there
    are sines and cosines of whole turns.
    """

    is_linear = True
    absorbs_constants = True
    layers = 1
    sweep_dtype: torch.dtype | None = None

    frequencies: Tensor
    mean_frequencies: Tensor

    def __init__(
        self,
        coords: int,
        channels: int,
        *,
        axes: int,
        features: int,
        mean_features: int = 1,
        is_closed: bool = False,
    ) -> None:
        super().__init__()
        assert coords in (axes, 2 * axes)
        self.axes, self.channels, self.width = axes, channels, features
        self.has_cells, self.is_closed = coords > axes, is_closed
        # which function along each axis, whole numbers; as float32 like all that a base file holds
        self.register_buffer("frequencies", torch.zeros(features, axes))
        self.register_buffer("mean_frequencies", torch.zeros(mean_features, axes))
        self.readout = nn.Parameter(torch.zeros(features * channels))
        self.mean = nn.Parameter(torch.zeros(mean_features, channels))

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights between hidden layers: there are none."""
        return []

    @property
    def modulations(self) -> int:
        """How many numbers modulate the network: a weight for each feature and channel, features first."""
        return self.width * self.channels

    def features(self, coords: Float[Tensor, "*point coord"]) -> Float[Tensor, "*point feature"]:
        """What is read out at each point."""
        return cosines(coords[..., : self.axes], self.frequencies, is_closed=self.is_closed and not self.has_cells)

    def common(self, coords: Float[Tensor, "*point coord"]) -> Float[Tensor, "*point channel"]:
        """What no modulation changes: the mean of the dataset at each point."""
        return weighed(coords[..., -self.axes :], self.mean_frequencies, self.mean, is_closed=self.is_closed)

    def forward(self, modulation: Modulations, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        return self._read_out(None, modulation, placement)

    def vjp(
        self, modulation: Modulations, placement: Placement
    ) -> tuple[CellFeatures, Callable[[CellFeatures], Modulations]]:
        """Features, and the function that pulls a cotangent of them back onto the modulations."""
        found = self.features(placement.coords)

        def pullback(cotangent: CellFeatures) -> Modulations:
            if placement.blend is None:
                by_weight = torch.einsum("cpf,icph->icfh", found, cotangent)[:, :, None]
            else:
                by_weight = torch.einsum("cpf,icph->icpfh", found, cotangent)
            return placement.gather(by_weight.flatten(-2))

        return self._read_out(found, modulation, placement), pullback

    def jacobian(
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "1 cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads: the same
        for all items.
        """
        weights = onto.reshape(self.width, -1)
        if len(placement.index) == 1:
            found, rows = None, self._weighed(placement, weights)
        else:
            found = self.features(placement.coords)
            rows = found @ weights
        rows = rows.reshape(1, *placement.index.shape, self.channels, -1)
        return self._read_out(found, modulation, placement), rows

    @torch.no_grad()
    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        """Make a modulation that all items share part of the network."""
        self.readout.copy_(self.readout + modulation)

    def _read_out(self, found: Tensor | None, modulation: Modulations, placement: Placement) -> CellFeatures:
        weights = modulation + self.readout
        if len(placement.index) == 1 and found is None and placement.blend is None:
            # one cell reads one site: items side by side
            columns = weights[:, 0].reshape(-1, self.width, self.channels).permute(1, 0, 2)
            read = self._weighed(placement, columns.flatten(1))
            read = read.reshape(*placement.index.shape, len(weights), self.channels).permute(2, 0, 1, 3)
        else:
            found = self.features(placement.coords) if found is None else found
            spread = placement.spread(weights)
            spread = spread.reshape(*spread.shape[:3], self.width, self.channels)
            if spread.shape[2] == 1:
                read = torch.einsum("cpf,icfh->icph", found, spread[:, :, 0])
            else:
                read = torch.einsum("cpf,icpfh->icph", found, spread)
        # seen through windows it is added once, not by each of them
        return read if placement.is_window else read + self.common(placement.coords)

    def _weighed(
        self, placement: Placement, weights: Float[Tensor, "feature column"]
    ) -> Float[Tensor, "cell point column"]:
        coords = placement.coords[..., : self.axes]
        return weighed(coords, self.frequencies, weights, is_closed=self.is_closed and not self.has_cells)


def weighed(
    coords: Float[Tensor, "*point axis"],
    frequencies: Float[Tensor, "feature axis"],
    weights: Float[Tensor, "feature column"],
    *,
    is_closed: bool = False,
) -> Float[Tensor, "*point column"]:
    """`cosines(coords, frequencies) @ weights`; where the points form a grid, or nearly so, axis by axis."""
    axes = coords.shape[-1]
    distinct, places = zip(*(torch.unique(coords[..., axis], return_inverse=True) for axis in range(axes)), strict=True)
    if math.prod(map(len, distinct)) > MOST_BESIDE * coords[..., 0].numel():
        return cosines(coords, frequencies, is_closed=is_closed) @ weights
    counts = [int(most) + 1 for most in frequencies.amax(0).tolist()]
    found = weights.new_zeros(math.prod(counts), weights.shape[1])
    found = found.index_add(0, _ravelled(frequencies.long().unbind(1), counts), weights).reshape(*counts, -1)
    for axis, (values, count) in enumerate(zip(distinct, counts, strict=True)):
        which = torch.arange(count, device=values.device)
        table = axis_cosines(values, which, is_closed=is_closed and axis == axes - 1)
        found = torch.tensordot(table, found, dims=([1], [axis])).movedim(0, axis)
    return found.flatten(0, axes - 1)[_ravelled(places, [len(values) for values in distinct])]


def _ravelled(places: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    index = torch.zeros_like(places[0])
    for place, count in zip(places, counts, strict=True):
        index = index * count + place
    return index


def cosines(
    coords: Float[Tensor, "*point axis"], frequencies: Float[Tensor, "feature axis"], *, is_closed: bool = False
) -> Float[Tensor, "*point feature"]:
    """Products over the axes of `axis_cosines`, one for each row of `frequencies`."""
    last = coords.shape[-1] - 1
    tables, places = [], []
    for axis in range(last + 1):
        # each function is computed once, however many features it is part of
        distinct, place = torch.unique(frequencies[:, axis].long(), return_inverse=True)
        tables.append(axis_cosines(coords[..., axis], distinct, is_closed=is_closed and axis == last))
        places.append(place)
    counts = [table.shape[-1] for table in tables]
    if math.prod(counts) > MOST_PRODUCTS * len(frequencies):
        return reduce(torch.mul, [table[..., place] for table, place in zip(tables, places, strict=True)])
    # nearly all products are wanted: to compute them all is less work than to pick factors
    products = tables[0]
    for table in tables[1:]:
        products = (products[..., None] * table[..., None, :]).flatten(-2)
    return products[..., _ravelled(places, counts)]


def axis_cosines(
    coords: Float[Tensor, "*point"], which: Tensor, *, is_closed: bool = False
) -> Float[Tensor, "*point feature"]:
    """Functions along one axis, of mean square one over the unit interval.

    Number k is `cos(pi k v)`: k half-waves. On a closed axis numbers 2m - 1 and 2m are cosine and sine of m turns.
    """
    which = which.to(coords)
    if is_closed:
        turns = ((which + 1) / 2).floor()
        phase = torch.where((which > 0) & (which % 2 == 0), math.pi / 2, 0.0)
        angle = 2 * math.pi * coords[..., None] * turns - phase
    else:
        angle = math.pi * coords[..., None] * which
    return angle.cos() * torch.where(which > 0, math.sqrt(2), 1.0)
