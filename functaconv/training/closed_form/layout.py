"""The cells of a grid as a windowed fit sees them: alike cells share one matrix; and the same grid twice as fine."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.base import Base
from functaconv.networks import Fourier, Placement
from functaconv.shapes import Latents
from functaconv.signals.geometry import Geometry
from functaconv.signals.grid import AnyGrid
from functaconv.training.closed_form.domain import Transform
from functaconv.training.closed_form.sample import Group

ALIKE = 1e-4
"""of a cell's side, or of the largest weight: less is rounding"""
MOST_PRODUCTS = 1 << 26
"""numbers in the matrices of all kinds of cells"""
MOST_AXES = 2
LOBES = 3
"""of Lanczos' kernel"""


@dataclass(frozen=True)
class Layout:
    """The cells of one grid: where cells see the same coordinates, one matrix serves them all.

    Where sizes are no multiples of each other, nearly every cell is of a kind of its own. Then only the cells around
    some of the sites are kept: the readout is the same for all.
    """

    placement: Placement
    cells: tuple[Int[Tensor, " cell"], ...]
    """of each kind"""
    weights: Float[Tensor, "kind point"]
    """what the points of a cell of each kind count"""
    basis: Float[Tensor, "kind point corner_feature"]
    """windowed features of one cell of each kind"""
    gram: Float[Tensor, "kind corner_feature corner_feature"]
    whole_sites: Int[Tensor, " site"]
    """sites of which all cells are kept"""

    @classmethod
    def of(cls, base: Base, grid: AnyGrid, share: Float[Tensor, " point"]) -> "Layout":
        """`share` is what each point counts."""
        network = base.field.network
        assert isinstance(network, Fourier)
        placement = base.place(base.points(grid))
        assert placement.by_corner is not None
        assert placement.blend is not None
        assert placement.corners is not None
        weights = share[placement.index]
        if placement.valid is not None:
            weights = weights * placement.valid[..., 0]
        local = placement.by_corner[..., : network.axes]
        signature = torch.cat([local.flatten(1) / ALIKE, weights / weights.max() / ALIKE], 1).round()
        kinds, kind = torch.unique(signature, dim=0, return_inverse=True)
        corners = placement.corners.shape[1]
        most = max(corners, MOST_PRODUCTS // (corners * network.width) ** 2)
        is_kept = torch.ones(len(kind), dtype=torch.bool, device=kind.device)
        if len(kinds) > most:
            sites = torch.linspace(0, placement.sites - 1, most // corners, device=kind.device).long()
            is_kept = torch.isin(placement.corners, sites).any(1)
        chosen = torch.unique(kind[is_kept])
        cells = tuple(((kind == number) & is_kept).nonzero()[:, 0] for number in chosen)
        first = torch.stack([own[0] for own in cells])
        features = network.encoded(placement.by_corner[first])
        blended = torch.einsum("cpk,ckpf->cpkf", placement.blend[first], features).flatten(2)
        gram = (blended * weights[first][..., None]).mT @ blended
        every = torch.arange(placement.sites, device=kind.device)
        whole = every[~torch.isin(every, placement.corners[~is_kept])]
        return cls(placement, cells, weights[first], blended, gram, whole)

    def rows(self, values: Float[Tensor, "item point channel"], kind: int) -> Float[Tensor, "item cell value"]:
        """Values in the cells of one kind, points and channels side by side."""
        return values[:, self.placement.index[self.cells[kind]]].flatten(2)

    def at_corners(self, latents: Latents, kind: int) -> Float[Tensor, "item cell corner_number"]:
        """What the cells of one kind read."""
        assert self.placement.corners is not None
        return self.placement.poles.extended(latents)[:, self.placement.corners[self.cells[kind]]].flatten(2)


def finer(grid: AnyGrid, geometry: Geometry, device: torch.device) -> tuple[AnyGrid, Transform]:
    """A grid twice as fine, and what gives values there (`synthesise`) as Lanczos interpolation of the items has them:
    what the functions are to do between the points, where the items say nothing.
    """
    closed = [geometry.is_closed and axis == len(grid.shape) - 1 for axis in range(len(grid.shape))]
    tables = (_lanczos(size, around).to(device) for size, around in zip(grid.shape, closed, strict=True))
    return grid.halved(), Transform(tuple(tables))


@dataclass(frozen=True)
class Between:
    """The points of a finer grid, as far as they count in a fit."""

    layout: Layout
    transform: Transform
    """from the grid of the items"""

    @classmethod
    def of(cls, base: Base, group: Group, weight: float) -> "Between | None":
        """None where they do not count: beside missing values, and in volumes, which have edges."""
        if not weight or group.weights is not None or len(group.grid.shape) > MOST_AXES:
            return None
        grid, transform = finer(group.grid, base.geometry, base.device)
        share = torch.full((grid.points,), weight / grid.points, device=base.device)
        return cls(Layout.of(base, grid, share), transform)


def _lanczos(size: int, is_closed: bool) -> Float[Tensor, "fine coarse"]:
    """Interpolation at the centres of half cells, three lobes; beyond the ends the outermost value goes on."""
    place = (torch.arange(2 * size, dtype=torch.float64) + 0.5) / 2 - 0.5
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for offset in range(-LOBES, LOBES + 1):
        neighbour = place.round() + offset
        distance = place - neighbour
        weight = torch.where(distance.abs() < LOBES, torch.sinc(distance) * torch.sinc(distance / LOBES), 0.0)
        column = (neighbour % size if is_closed else neighbour.clamp(0, size - 1)).long()
        matrix.scatter_add_(1, column[:, None], weight[:, None])
    return (matrix / matrix.sum(1, keepdim=True)).float()
