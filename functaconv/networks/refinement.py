"""What is added to a linear decode: a small convolutional network that looks at it.

The linear part is evaluated at fixed knots, a grid over the domain. Residual convolutions see these
values, as the networks do that sharpen an enlarged picture (Dong et al. 2014), and what they make of them is read
between the knots by cubic convolution (Keys 1981): so the sum is a function of the point alone, at any resolution.
"""

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from functaconv.networks.convolutions import Convolutions
from functaconv.networks.cosines import PointGrid
from functaconv.shapes import Coords

DEPTH = 6
"""layers of the network, the linear output left out"""
# knots that are one site to the network, along each axis
TOGETHER = 2
# of the linear part's spread: what an output of one adds
REACH = 1.2
# share of the way between two knots below which a point is at a knot
CLOSE = 1e-4
# knots along all axes together, unless more are asked for
USUAL_KNOTS = 1 << 12


class Refinement(nn.Module):
    """Values at the knots to what is added there: `[item, knot, channel]` to the same.

    `spread` is the standard deviation of the values it sees.
    """

    spread: Tensor
    places: Tensor

    def __init__(self, knots: tuple[int, ...], channels: int, width: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        self.knots, self.channels = knots, channels
        self.sides = tuple(1 if size % TOGETHER else TOGETHER for size in knots)
        numbers = channels * math.prod(self.sides)
        self.network = Convolutions(
            numbers, width, numbers, axes=len(knots), depth=DEPTH, is_residual=True, generator=generator
        )
        self.register_buffer("spread", torch.ones(()))
        centres = [(torch.arange(size) + 0.5) / size for size in knots]
        places = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1).reshape(-1, len(knots))
        self.register_buffer("places", places, persistent=False)

    def forward(self, values: Float[Tensor, "item knot channel"]) -> Float[Tensor, "item knot channel"]:
        """What is added at the knots."""
        added: Tensor = self.network(self._gathered(values / self.spread))
        return REACH * self.spread * self._parted(added)

    def _gathered(self, values: Float[Tensor, "item knot channel"]) -> Float[Tensor, "item number *site"]:
        """The knots of a site as its numbers."""
        dims = len(self.knots)
        split = [part for size, side in zip(self.knots, self.sides, strict=True) for part in (size // side, side)]
        values = values.reshape(len(values), *split, self.channels)
        order = [0, *range(2, 2 * dims + 1, 2), 2 * dims + 1, *range(1, 2 * dims, 2)]
        return values.permute(order).flatten(1, dims + 1)

    def _parted(self, numbers: Float[Tensor, "item number *site"]) -> Float[Tensor, "item knot channel"]:
        """The inverse of `_gathered`."""
        dims = len(self.knots)
        sites = numbers.shape[2:]
        numbers = numbers.reshape(len(numbers), *self.sides, self.channels, *sites)
        order = [0, *itertools.chain(*((2 + dims + axis, 1 + axis) for axis in range(dims))), 1 + dims]
        return numbers.permute(order).reshape(len(numbers), -1, self.channels)

    def read(self, added: Float[Tensor, "item knot channel"], coords: Coords) -> Float[Tensor, "item point channel"]:
        """What is added at points of the domain, or beyond it, where it is reflected as cosines are."""
        # along a single axis a point's four knots are less than all of them
        grid = PointGrid.of(coords) if len(self.knots) > 1 else None
        if grid is None:
            taps = zip(*between(coords, self.knots), strict=True)
            values: Tensor = sum(share[:, None] * added[:, knot] for knot, share in taps)
            return values
        values = added.reshape(len(added), *self.knots, self.channels)
        for size, along in zip(self.knots, grid.axes, strict=True):
            knots, shares = between(along[:, None], (size,))
            table = shares.new_zeros(size, len(along)).scatter_add(0, knots, shares)
            # one axis after the other: its knots become points
            values = torch.tensordot(values, table, dims=([1], [0]))
        return values.flatten(2)[..., grid.places].mT


def knots_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where a refinement sees items of this shape: at each point, or at as many as suit all axes together."""
    knots, left = [2] * len(shape), USUAL_KNOTS
    for place, axis in enumerate(sorted(range(len(shape)), key=shape.__getitem__)):
        share = round(left ** (1 / (len(shape) - place)))
        knots[axis] = max(2, min(share, shape[axis]) // 2 * 2)
        left = max(1, left // knots[axis])
    return tuple(knots)


def between(coords: Coords, knots: tuple[int, ...]) -> tuple[Int[Tensor, "tap point"], Float[Tensor, "tap point"]]:
    """Which knots a point reads, four along each axis, and how much of each: cubic convolution."""
    numbers, shares = coords.new_zeros(1, len(coords), dtype=torch.long), coords.new_ones(1, len(coords))
    for size, along in zip(knots, coords.unbind(-1), strict=True):
        inside = 1 - ((along % 2) - 1).abs()
        place = inside * size - 0.5
        place = torch.where((place - place.round()).abs() < CLOSE, place.round(), place)
        low = place.floor()
        t = place - low
        # Keys' weights with a = -1/2: exact for quadratics
        weights = torch.stack([
            t * (t * (2 - t) - 1), t * t * (3 * t - 5) + 2, t * (t * (4 - 3 * t) + 1), t * t * (t - 1)
        ]) / 2  # fmt: skip
        taps = low.long() + torch.arange(-1, 3, device=coords.device)[:, None]
        # half a step beyond the border they are reflected
        taps = torch.where(taps < 0, -1 - taps, taps)
        taps = torch.where(taps >= size, 2 * size - 1 - taps, taps).clamp(0, size - 1)
        numbers = (numbers[:, None] * size + taps).flatten(0, 1)
        shares = (shares[:, None] * weights).flatten(0, 1)
    return numbers, shares
