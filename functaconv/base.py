"""The base: all that a dataset shares, with two verbs, encode and decode."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from functaconv.areas import Areas, CellMeans, Trained
from functaconv.cache import Cache
from functaconv.decoding import decoded
from functaconv.memory import Footprint
from functaconv.modalities import Axes
from functaconv.networks import ModulatedNetwork, Placement
from functaconv.shapes import Coords, Features, Latents
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Flat, Geometry, Points
from functaconv.signals.grid import AnyGrid
from functaconv.signals.normalizer import Normalizer
from functaconv.solvers import Fit, Linearization, Problem, Solver, best_fit, fit, fitting_problem
from functaconv.solvers.normal_matrix import MOST_ASSEMBLED
from functaconv.transfer import sent

# grids whose placement is kept (one for each shape of a dataset of mixed sizes, within reason), and their points
MOST_GRIDS, MOST_KEPT_POINTS = 64, 1 << 22
# bytes of a Jacobian that is kept for all batches, and of all that are kept
MOST_LINEARIZATION, MOST_LINEARIZATIONS = 1 << 29, 3 << 28
# how the names of the tensors of a correction, and of a refinement, begin
CORRECTION, REFINEMENT = "field.latent_map.correction.", "field.refinement."
# items per channel from which one Jacobian for all is less work than a pullback for each
PULLBACKS_PER_CHANNEL = 2


class Base(nn.Module):
    """Network, latent layout, solver, normaliser and geometry of a dataset.

    `start` is where every fit begins; it is learned or stays zero. With `by_area` the points of a grid count in a fit
    by the area they stand for. With `is_clipped` features are clipped to 0..1. With `areas` items are fitted as means
    over the cells of their grid.
    """

    is_clipped: bool = False
    start: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        field: ModulatedNetwork,
        solver: Solver,
        normalizer: Normalizer,
        axes: Axes,
        *,
        latent: int,
        learned_start: bool = False,
        geometry: Geometry | None = None,
        by_area: bool = False,
    ) -> None:
        super().__init__()
        self.geometry, self.by_area = geometry or Flat(axes.dims), by_area
        self.field, self.solver, self.normalizer = field, solver, normalizer
        self.axes, self.latent = axes, latent
        self.areas: Areas | None = None
        self.trained = Trained()
        start = torch.zeros(1, field.sites.count, latent)
        self.learned_start = learned_start
        if learned_start:
            self.start = nn.Parameter(start)
        else:
            self.register_buffer("start", start)
        # what latents of training items look like: the range of 8-bit codes
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_std", torch.ones(latent))
        self._grids: Cache[_Placed] = Cache(MOST_KEPT_POINTS, MOST_GRIDS)
        self._linearizations: Cache[Linearization] = Cache(MOST_LINEARIZATIONS)
        self._linearized_state: tuple[object, ...] = ()

    @torch.no_grad()
    def describe_latents(self, latents: Latents) -> None:
        """Keep mean and spread of each of a site's numbers, over items and sites."""
        flat = latents.flatten(0, 1).double()
        self.latent_mean.copy_(flat.mean(0))
        self.latent_std.copy_(flat.std(0, correction=0))

    @property
    def device(self) -> torch.device:
        return self.start.device

    @property
    def sites(self) -> tuple[int, ...]:
        """Sites per axis of the grid; empty for a global latent."""
        shape = self.field.sites.shape
        return shape if self.field.sites.count > 1 else ()

    @property
    def is_canonical(self) -> bool:
        """Latents are uncorrelated, the most important number first, in units of the output's error."""
        return self.solver.is_canonical

    @property
    def is_coupled(self) -> bool:
        """True when a point's features depend on several sites' latents."""
        return self.field.sites.interpolation != "nearest" or self.field.latent_map.kernel > 1

    @property
    def numbers(self) -> int:
        """How many numbers an item becomes."""
        return self.field.sites.count * self.latent

    def problem(self, batch: Batch, *, chunk: int | None = None, points: Tensor | None = None) -> Problem:
        """The batch as a fitting problem on the base's device, `chunk` points of each item at a time.

        With `points` (indices into the batch's grid, on the CPU) only those; whole cells of them where the latents
        are spatial.
        """
        batch, field = batch.to(self.device), self.field
        if points is None:
            placed = self._grid(batch.grid, self.device)
            placement, weights = placed.placement, placed.weights
            if self.areas is not None:
                field, placement = self.areas.of(self.field, batch.grid, placed.points, placement)
        else:
            # sorted on the CPU: a GPU would be waited for several times
            placed = self._grid(batch.grid, torch.device("cpu"))
            placement = self.place(placed.points[points]).to(self.device)
            weights = None if placed.weights is None else sent(placed.weights[points], self.device)
            batch = batch.select(sent(points, self.device))
        features = self.normalizer.features(batch).to(self.start.dtype)
        valid = None if batch.valid is None else batch.valid.to(features.dtype)
        if weights is not None:
            known = features.new_ones(1, 1, features.shape[-1]) if valid is None else valid
            valid = weights[None, :, None] * known
        are_means = isinstance(field, CellMeans)
        chunk = None if are_means else chunk
        problem = fitting_problem(field, placement, features, valid, chunk=chunk, is_clipped=self.is_clipped)
        if self.is_coupled or are_means:
            return replace(problem, sites=self.field.sites.count)
        # a start that is learned may differ from site to site
        alike = valid is None and placement.is_uniform and not self.learned_start
        return replace(problem, cells_alike=alike)

    def fit(
        self,
        problem: Problem,
        *,
        steps: int | None = None,
        second_order: bool = True,
        recompute: bool = False,
        careful: bool = False,
    ) -> Fit:
        """Fit latents to a problem, differentiably unless gradients are off or the fit is `careful`: then every item
        keeps its best.
        """
        if not second_order:
            problem = problem.as_numbers()
        if problem.linearization is None and self._is_linearized(problem):
            problem = problem.at(self.start)
        # one start for all items: the first step's forward is computed once, not once per item
        if careful:
            return best_fit(problem, self.start, self.solver, steps=self.solver.steps if steps is None else steps)
        return fit(problem, self.start, self.solver, steps=steps, second_order=second_order, recompute=recompute)

    @torch.no_grad()
    def encode(
        self, batch: Batch, *, steps: int | None = None, min_gain: float | None = None, chunk: int | None = None
    ) -> Fit:
        """Fit latents to a batch, as many points at a time as suit the device.

        An item keeps its best where a step may make it worse: with a solver that looks before it goes on, and with
        more steps than were learned. With `min_gain` (dB) it is done when a step brings less.
        """
        steps = self.solver.steps if steps is None else steps
        problem = self.prepared(batch, chunk=self.chunk(len(batch)) if chunk is None else chunk)
        if min_gain is None and steps <= (1 if self.solver.is_adaptive else self.solver.steps):
            return fit(problem, self.start, self.solver, steps=steps)
        return best_fit(problem, self.start, self.solver, steps=steps, min_gain=min_gain)

    def decode(self, latents: Latents, points: Points | Coords) -> Features:
        """Normalised features at any points: of the unit cube (coordinates alone will do), or beyond it.

        Differentiable by the latents.
        """
        points = points if isinstance(points, Points) else Points(points)
        chunk, like = self.chunk(len(latents)), self.start
        return self.clipped(decoded(self.field, latents, points, chunk=chunk, channels=self.axes.channels, like=like))

    def clipped(self, features: Features) -> Features:
        """Features of the field as the base gives them: changed in place where they are clipped."""
        return features.clamp_(0, 1) if self.is_clipped else features

    def chunk(self, items: int, kind: str | None = None) -> int:
        """How many points of each item to take at a time on a kind of device: this one's, or `cpu` or `cuda`."""
        return self.footprint.points(items, kind or self.device.type)

    @property
    def footprint(self) -> Footprint:
        """What the memory of a fit depends on."""
        network = self.field.network
        return Footprint(
            width=network.width,
            layers=network.layers,
            channels=self.axes.channels,
            read=self.read_numbers,
            matrix_entries=self.field.cells * self.read_numbers**2,
            needs_jacobian=self.solver.needs_jacobian,
            is_linear=self.field.network.is_linear,
        )

    @torch.no_grad()
    def prepared(self, batch: Batch, *, chunk: int | None = None) -> Problem:
        """The batch as a fitting problem whose first step is ready: computed once for all batches of these points
        with this mask, and kept. A constant to an outer derivative.
        """
        problem = self.problem(batch, chunk=chunk)
        if not self._is_linearized(problem):
            return problem
        if batch.valid is not None and batch.mask_key is None:
            return problem.at(self.start)
        # a base that learns on, or moves to another device, is another base; a correction is not seen at a zero latent
        state = tuple(
            (tensor.data_ptr(), tensor._version)
            for name, tensor in self.state_dict(keep_vars=True).items()
            if not is_of_correction(name)
        )
        if state != self._linearized_state:
            self._linearizations.clear()
            self._linearized_state = state
        pieces = tuple(piece.targets.shape[1:3] for piece in problem.pieces)
        key = (batch.grid, batch.mask_key, pieces, self.field.network.sweep_dtype)
        # with it its matrices are kept, and a factor of them all
        size = self._linearization_bytes(problem) + 4 * (
            self.footprint.matrix_entries + min(self.numbers, MOST_ASSEMBLED) ** 2
        )
        linearization = self._linearizations.get(key, size, lambda: problem.linearized(self.start))
        return replace(problem, linearization=linearization)

    def _is_linearized(self, problem: Problem) -> bool:
        """The first step is computed for all items at once, and its Jacobian may be kept."""
        if not self.solver.needs_jacobian and (
            not problem.is_shared or problem.items <= PULLBACKS_PER_CHANNEL * self.axes.channels
        ):
            # so few pullbacks cost less than a Jacobian
            return False
        return self._linearization_bytes(problem) <= MOST_LINEARIZATION

    def _linearization_bytes(self, problem: Problem) -> int:
        return 4 * problem.values * (self.numbers if isinstance(problem.field, CellMeans) else self.read_numbers)

    @property
    def read_numbers(self) -> int:
        """How many numbers a point depends on."""
        corners = 2**self.axes.dims if self.field.sites.interpolation != "nearest" and self.sites else 1
        return corners * self.field.latent_map.read

    def place(self, points: Points) -> Placement:
        """Points sorted into cells."""
        return self.field.sites.place(points.coords, points.positions)

    def points(self, grid: AnyGrid) -> Points:
        """A grid's points on the base's device."""
        return self._grid(grid, self.device).points

    def placement(self, grid: AnyGrid, device: torch.device | None = None) -> Placement:
        """A grid's points sorted into cells, on the base's device or another."""
        return self._grid(grid, device or self.device).placement

    def _grid(self, grid: AnyGrid, device: torch.device) -> "_Placed":
        def placed() -> _Placed:
            like = torch.empty(0, dtype=self.start.dtype, device=device)
            points = self.geometry.points(grid).to(like)
            areas = grid.areas() if self.by_area else None
            return _Placed(points, self.place(points), None if areas is None else areas.to(like))

        return self._grids.get((grid, device, self.start.dtype), math.prod(grid.shape), placed)


def is_of_correction(name: str) -> bool:
    """A tensor of this name belongs to a correction or refinement, which a zero latent does not see."""
    return name.startswith((CORRECTION, REFINEMENT))


@dataclass(frozen=True)
class _Placed:
    """The points of a grid."""

    points: Points
    placement: Placement
    weights: Tensor | None
    """`[point]`, how much each counts in a fit; None when all count the same"""
