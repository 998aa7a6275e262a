"""Data that are not the function's values at points, but what an operator makes of them: averages, integrals, rays."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.network import Network
from functaconv.shapes import CellCoords, CellFeatures


@runtime_checkable
class Operator(Protocol):
    """From values of the function to what was observed at a point."""

    @property
    def samples(self) -> int:
        """How many values an observation is made of."""

    def places(self, coords: CellCoords) -> Float[Tensor, "cell sample coord"]:
        """Where the values of each point are taken, those of a point side by side, in coordinates as the network sees
        them.
        """

    def observe(self, values: Float[Tensor, "item cell point sample channel"]) -> CellFeatures:
        """The observations; differentiable."""


class Observed(Network):
    """A network whose features are an operator's output. All values of a point are modulated as the point is."""

    def __init__(self, network: Network, operator: Operator) -> None:
        super().__init__(network.parts, width=network.width * operator.samples, layers=network.layers)
        self.network, self.operator = network, operator
        self.absorbs_constants, self.forward_mode = network.absorbs_constants, network.forward_mode

    def forward(self, coords: CellCoords, modulations: Sequence[Float[Tensor, "item cell #point _"]]) -> CellFeatures:
        places, samples = self.operator.places(coords), self.operator.samples
        spread = [part.repeat_interleave(samples, 2) if part.shape[2] > 1 else part for part in modulations]
        values = self.network(places, spread)
        if (common := self.network.common(places)) is not None:
            values = values + common
        return self.operator.observe(values.unflatten(2, (-1, samples)))

    @property
    def matrices(self) -> list[nn.Parameter]:
        return self.network.matrices

    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        self.network.absorb(modulation)


class Average:
    """The mean over places around a point: the footprint of a cell or of an instrument."""

    def __init__(self, offsets: Float[Tensor, "sample coord"]) -> None:
        """Places relative to the point."""
        self.offsets = offsets

    @property
    def samples(self) -> int:
        return len(self.offsets)

    def places(self, coords: CellCoords) -> Float[Tensor, "cell sample coord"]:
        return (coords[:, :, None] + self.offsets.to(coords)).flatten(1, 2)

    def observe(self, values: Float[Tensor, "item cell point sample channel"]) -> CellFeatures:
        return values.mean(3)
