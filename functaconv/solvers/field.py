"""The network, as a solver sees it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from functaconv.networks import Placement
from functaconv.networks.reads import Reads
from functaconv.shapes import CellFeatures, CellJacobian, Latents


@runtime_checkable
class Field(Protocol):
    """What a solver needs of a network: features, their cotangents pulled back onto the latents, their Jacobian: if it
    is corrected, that of its linear part; if that part is refined, what is added to it.
    """

    @property
    def is_linear(self) -> bool: ...
    @property
    def is_corrected(self) -> bool: ...
    @property
    def keeps_derivatives(self) -> bool: ...

    def __call__(self, latents: Latents, placement: Placement) -> CellFeatures: ...
    def vjp(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, Callable[[CellFeatures], Latents]]: ...
    def jacobian(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, CellJacobian]: ...
    def refined(self, linear: CellFeatures, latents: Latents, placement: Placement) -> CellFeatures: ...
    def reads(self, placement: Placement) -> Reads | None: ...
