"""What a network is: coordinates and modulations to features, point by point.

A new network defines `Options`, `forward`, and in its constructor says which modulations it takes. Derivatives come
from autograd; a network that knows faster ones overrides `vjp` and `jacobian`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.cosines import OPEN, Closure
from functaconv.networks.placement import Placement
from functaconv.networks.sites import SiteGrid
from functaconv.shapes import CellCoords, CellFeatures, Coords, Features, Modulations

# values of a layer that are moved together along several numbers of the latents
FORWARD_TOGETHER = 1 << 22

Pullback = Callable[[CellFeatures], Modulations]


@dataclass(frozen=True)
class Inputs:
    """What a network is built for, besides its options."""

    coords: int
    """coordinates of a point"""
    channels: int
    axes: int
    """axes of the grids; of the coordinates the first `axes` lie within a cell, the last `axes` in the whole domain"""
    is_planar: bool = True
    """the coordinates are places along the axes, not points in space"""
    closure: Closure = OPEN
    """of the whole domain"""


class NetworkOptions:
    """The section `network` of a recipe; a subclass is a frozen pydantic dataclass that gives `kind` its name."""

    kind: str
    wants_unit_coords: ClassVar[bool] = False
    """coordinates that run on from cell to cell are too large for it"""
    haste: ClassVar[float] = 1.0
    """rates with which it learns in minutes, as multiples of those of a SIREN"""

    @property
    def modulations(self) -> int:
        """How many numbers modulate the network, at most, per channel where that matters; to bound memory."""
        return 0

    def tells_apart(self, numbers: int) -> bool:
        """Latents of so many numbers modulate the network in as many ways."""
        return True

    @property
    def sweep_width(self) -> int:
        """Width of layers whose Jacobian can be computed in half precision; 0 where none can."""
        return 0

    @property
    def described(self) -> str:
        """The network in words."""
        return self.kind

    @property
    def why_global(self) -> str:
        """Why latents cannot be spatial, where they cannot."""
        return ""

    @property
    def wants_chords(self) -> bool:
        """A Jacobian of each item costs so much that Gauss-Newton goes on with that of the start."""
        return False

    @property
    def has_closed_form(self) -> bool:
        """The closed form is the best such network: nothing is to be learned."""
        return False

    @property
    def sees_cell_and_domain(self) -> bool:
        """Beside its place within a cell a point's place in the domain is seen, where latents are spatial."""
        return False


class Network(nn.Module, ABC):
    """A coordinate network that latents modulate.

    `parts` are the sizes of its modulations, by layer: as many numbers, side by side, are what a site's latent is
    mapped to. For each point of an item a forward pass leaves `layers` activations of `width` numbers.
    """

    Options: ClassVar[type[NetworkOptions]]

    sweep_dtype: torch.dtype | None = None
    """in which a Jacobian is computed, where the network can; None: that of the parameters. Rounding in a Jacobian
    slows a fit a little; it does not stay in the result, as it would from the residuals."""
    is_linear: bool = False
    """features are linear in the modulations"""
    forward_mode: bool = False
    """a Jacobian costs less by one forward derivative per number of a latent than by one pullback per channel, since a
    pullback at every point needs modulations of every point"""
    absorbs_constants: bool = False
    """a modulation that all items share can become part of the parameters, by `absorb`"""

    def __init__(self, parts: Sequence[int], *, width: int | None = None, layers: int | None = None) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.width, self.layers = width or max(self.parts), layers or len(self.parts)

    @abstractmethod
    def forward(self, coords: CellCoords, modulations: Sequence[Float[Tensor, "item cell #point _"]]) -> CellFeatures:
        """Features of every point, each of its own coordinates and modulations (one per part) alone."""

    @property
    def modulations(self) -> int:
        """How many numbers modulate the network."""
        return sum(self.parts)

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights between hidden layers, which an optimiser may orthogonalise."""
        return []

    @property
    def correction_scales(self) -> Float[Tensor, " modulation"]:
        """How much a nonlinear correction may change each modulation, relative to the others."""
        return torch.ones(self.modulations)

    def common(self, coords: CellCoords) -> Float[Tensor, "cell point channel"] | None:
        """What is added to the features whatever the modulations are: once, where windows overlap."""
        return None

    @property
    def sees_windows(self) -> bool:
        """The network may know a way to see many points through windows that is less work than point by point."""
        return False

    def through_windows(self, modulation: Modulations, sites: SiteGrid, coords: Coords) -> Features | None:
        """Features of points that see `sites` through windows, of a network that `sees_windows`; None where point by
        point is less work.
        """
        raise NotImplementedError

    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        """Make a modulation that all items share part of the parameters."""
        raise NotImplementedError

    def features(self, modulation: Modulations, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        return self._whole(self(placement.coords, self._split(placement.spread(modulation))), placement)

    def vjp(self, modulation: Modulations, placement: Placement) -> tuple[CellFeatures, Pullback]:
        """Features, and the function that pulls a cotangent of them back onto the modulations.

        Differentiable: the outer loop goes through it.
        """
        features, pullback = vjp(lambda given: self.features(given, placement), modulation)
        return features, pullback

    def jacobian(
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "*any modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "#item cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads. In forward
        mode it may be another map for each item and site.

        One pullback per channel: points do not depend on each other's modulations, so all are pulled back at once.
        """
        read = placement.spread(modulation)
        if self.forward_mode:
            return self._whole(self(placement.coords, self._split(read)), placement), self._forward(
                placement, read, onto
            )
        read = read.expand(*read.shape[:2], placement.index.shape[1], -1)
        features, pullback = vjp(lambda given: self(placement.coords, self._split(given)), read)
        units = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
        rows = [pullback(unit.expand_as(features)) @ onto for unit in units]
        return self._whole(features, placement), torch.stack(rows, 3)

    def _forward(
        self, placement: Placement, read: Tensor, onto: Float[Tensor, "*any modulation number"]
    ) -> Float[Tensor, "item cell point channel number"]:
        """The derivative of the features by the numbers, some of the numbers at a time. `onto` may be that of each item
        and site.
        """

        def along(direction: Float[Tensor, "*any modulation"]) -> CellFeatures:
            moved = direction if direction.dim() == 1 else placement.spread(direction)
            given, change = (read,), (moved.expand_as(read),)
            changes: Any = torch.func.jvp(lambda own: self(placement.coords, self._split(own)), given, change)[1]
            assert isinstance(changes, Tensor)
            return changes

        together = max(1, FORWARD_TOGETHER // (len(read) * placement.index.numel() * self.width))
        rows: Tensor = torch.func.vmap(along, in_dims=-1, out_dims=-1, chunk_size=together)(onto)
        return rows

    def _split(self, modulations: Float[Tensor, "*rest modulation"]) -> Sequence[Tensor]:
        return torch.split(modulations, list(self.parts), -1)

    def _whole(self, features: CellFeatures, placement: Placement) -> CellFeatures:
        common = None if placement.is_window else self.common(placement.coords)
        return features if common is None else features + common


def vjp(function: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The function's value, and its pullback, by autograd: differentiable in their turn where gradients are on.

    Where one item was given, which stands for all, the pullback takes cotangents of any number of items.
    """
    is_differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        at = given if given.requires_grad else given.detach().requires_grad_()
        value = function(at)

    def pullback(cotangent: Tensor) -> Tensor:
        if len(cotangent) > len(value):
            _, of_items = vjp(function, given.expand(len(cotangent), *given.shape[1:]))
            return of_items(cotangent)
        (pulled_back,) = torch.autograd.grad(
            value, at, cotangent, create_graph=is_differentiable, retain_graph=True, materialize_grads=True
        )
        return pulled_back

    return value if is_differentiable else value.detach(), pullback


class NetworkKind(Protocol):
    """An entry of the table of networks: a subclass of `Network`."""

    @property
    def Options(self) -> type[NetworkOptions]: ...  # noqa: N802 - a class

    def __call__(self, inputs: Inputs, options: Any, *, generator: torch.Generator | None) -> Network:
        """A network initialised from a generator; without one with whatever the memory holds, to be loaded over."""
