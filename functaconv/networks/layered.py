"""Networks of layers: hidden ones that modulations change, then a linear readout."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from functaconv.networks.modulations import MODULATIONS, Gate, Layer, Modulation, ModulationName
from functaconv.networks.network import Network, NetworkOptions, Pullback
from functaconv.networks.placement import Placement
from functaconv.options import STRICT, Width
from functaconv.shapes import CellCoords, CellFeatures, Modulations

READOUT = "readout"
# coordinates of a point at most: two times three, in its cell and in the domain
MOST_COORDS = 6
MODULATION = (
    "how latents change the layers: shift, film (scales as well), lowrank, adain, mfilm; fmm, gate, hyper, factorized "
    "form matrices, for global latents; readout: the output's weights alone"
)
RANK = "fmm, factorized: of the matrices; lowrank: numbers per layer; 0: 10, of lowrank 32"


@dataclass(frozen=True, config=STRICT)
class LayeredOptions(NetworkOptions):
    """What networks of layers have in common."""

    kind: str = ""
    # described here, since a class that inherits a setting does not inherit the lines below it
    width: Annotated[Width, Field(description="numbers of a hidden layer")] = 128
    modulation: Annotated[ModulationName, Field(description=MODULATION)] = "shift"
    rank: Annotated[int, Field(ge=0, le=1024, description=RANK)] = 0
    gate: Annotated[Gate, Field(description="fmm: the factor of a weight is 1 + tanh or 2 sigmoid")] = "tanh"

    table: ClassVar[Mapping[str, type[Modulation]]] = MODULATIONS
    """the modulations that the network takes"""

    @property
    def layers_modulated(self) -> Sequence[Layer]:
        """Of what size each hidden layer is at most."""
        return ()

    def sized(self, layers: Iterable[Layer]) -> list[Layer]:
        """The layers with what the options say of their modulation."""
        return [replace(layer, rank=self.rank, gate=self.gate) for layer in layers]

    @property
    def modulations(self) -> int:
        if self.modulation == READOUT:
            return self.width
        sizes = self.table[self.modulation].sizes
        return sum(sum(sizes(layer)) for layer in self.sized(self.layers_modulated))

    def tells_apart(self, numbers: int) -> bool:
        return self.modulation == READOUT or numbers <= self.modulations

    @property
    def wants_chords(self) -> bool:
        return self.table[self.modulation].forms_matrix

    @property
    def why_global(self) -> str:
        if not self.table[self.modulation].forms_matrix:
            return ""
        return (
            f"network.modulation={self.modulation} forms a matrix of each layer for every item, and would for every "
            "site: it costs more than the few points of a cell; lowrank is the cheap one"
        )


class Layered(Network):
    """A network whose `hidden` layers, made by `layer`, are modulated, or whose readout is.

    The numbers of its modulation are sorted by kind (shifts, scales, ...), then by layer. In `weights` and `biases` a
    subclass has those of its hidden layers first; what modulates them are `bends`.
    """

    weights: nn.ParameterList
    biases: nn.ParameterList
    reach = 1.0
    """by how much a modulated readout is changed"""

    def __init__(
        self,
        options: LayeredOptions,
        layers: Sequence[Layer],
        *,
        channels: int,
        features: int | None = None,
        generator: torch.Generator | None,
    ) -> None:
        """`features` is how many numbers the readout takes: those of the last layer unless it is given."""
        kind, layers = options.table[options.modulation], options.sized(layers)
        is_readout = options.modulation == READOUT
        read = layers[-1].fan_out if features is None else features
        sizes = [kind.sizes(layer) for layer in layers]
        parts = [read * channels] if is_readout else [part for kinds in zip(*sizes, strict=True) for part in kinds]
        widest = max([read, *(layer.fan_out for layer in layers)])
        super().__init__(parts, width=widest, layers=max(1, len(layers)))
        self.channels, self.is_readout, self.is_linear = channels, is_readout, is_readout
        self.forward_mode = kind.forms_matrix
        self.absorbs_constants = options.modulation in (READOUT, "shift")
        self.bends = nn.ModuleList(kind(layer, generator=generator) for layer in layers)

    @property
    def output(self) -> Float[Tensor, "number channel"]:
        """The weights of the readout."""
        assert isinstance(self.readout, Tensor)
        return self.readout

    @abstractmethod
    def hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point, `[#item, cell, point, number]`; without items where none is modulated."""

    def layer(
        self, number: int, x: Tensor, modulations: Sequence[Tensor], activation: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The values of a hidden layer, given those before."""
        bend, own = self.bends[number], modulations[number :: len(self.bends)]
        assert isinstance(bend, Modulation)
        return bend.activated(activation(bend.product(x, self.weights[number], self.biases[number], own)), own)

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights of the hidden layers."""
        return [weight for weight in list(self.weights)[: len(self.bends)] if weight.numel()]

    @torch.no_grad()
    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        """Make a modulation that all items share part of the network."""
        if self.is_readout:
            self.output.copy_(self.output + self.reach * modulation.reshape(self.output.shape))
            return
        for bias, shift in zip(self.biases, self._split(modulation), strict=False):
            bias.copy_(bias + shift)

    def forward(self, coords: CellCoords, modulations: Sequence[Float[Tensor, "item cell #point _"]]) -> CellFeatures:
        """Features of every point of every cell, without what all items have in `common`."""
        if self.is_readout:
            return self._read_by_items(self.hidden(coords), self._weights(modulations[0]))
        return self.hidden(coords, modulations) @ self.output

    def features(self, modulation: Modulations, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        if not self.is_readout:
            return super().features(modulation, placement)
        if not self._is_one_cell(placement):
            return self._whole(self._read(self.hidden(placement.coords), modulation, placement), placement)
        # one cell reads one site: items side by side
        weights = self._weights(modulation)[:, 0].reshape(len(modulation), -1, self.channels)
        read = self._read_out(placement, weights.permute(1, 0, 2).flatten(1))
        read = read.reshape(*placement.index.shape, len(weights), self.channels).permute(2, 0, 1, 3)
        return self._whole(read, placement)

    def vjp(self, modulation: Modulations, placement: Placement) -> tuple[CellFeatures, Pullback]:
        """Features, and the function that pulls a cotangent of them back onto the modulations."""
        if not self.is_readout:
            return super().vjp(modulation, placement)
        hidden = self.hidden(placement.coords)

        def pullback(cotangent: CellFeatures) -> Modulations:
            if placement.blend is None:
                by_weight = torch.einsum("cpf,icph->icfh", hidden, cotangent)[:, :, None]
            else:
                by_weight = torch.einsum("cpf,icph->icpfh", hidden, cotangent)
            return self.reach * placement.gather(by_weight.flatten(-2))

        return self._whole(self._read(hidden, modulation, placement), placement), pullback

    def jacobian(
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "*any modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "#item cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads: with a
        modulated readout the same for all items.
        """
        if not self.is_readout:
            return super().jacobian(modulation, placement, onto)
        weights = (self.reach * onto).reshape(len(onto) // self.channels, -1)
        shape = (1, *placement.index.shape, self.channels, onto.shape[1])
        if self._is_one_cell(placement):
            return self.features(modulation, placement), self._read_out(placement, weights).reshape(shape)
        hidden = self.hidden(placement.coords)
        features = self._whole(self._read(hidden, modulation, placement), placement)
        return features, (hidden @ weights).reshape(shape)

    def _is_one_cell(self, placement: Placement) -> bool:
        return len(placement.index) == 1 and placement.blend is None

    def _weights(self, modulation: Float[Tensor, "*any modulation"]) -> Float[Tensor, "*any modulation"]:
        """Of the readout."""
        return self.reach * modulation + self.output.flatten()

    def _read(
        self, hidden: Float[Tensor, "cell point number"], modulation: Modulations, placement: Placement
    ) -> CellFeatures:
        """Sums of what is read out; the weights are computed for the sites, which are fewer than what reads them."""
        return self._read_by_items(hidden, placement.spread(self._weights(modulation)))

    def _read_by_items(
        self, hidden: Float[Tensor, "cell point number"], weights: Float[Tensor, "item cell #point modulation"]
    ) -> CellFeatures:
        """Sums of what is read out, with weights that differ from item to item and from cell to cell."""
        weights = weights.reshape(*weights.shape[:3], -1, self.channels)
        if weights.shape[2] == 1:
            return torch.einsum("cpf,icfh->icph", hidden, weights[:, :, 0])
        return torch.einsum("cpf,icpfh->icph", hidden, weights)

    def _read_out(
        self, placement: Placement, weights: Float[Tensor, "number column"]
    ) -> Float[Tensor, "cell point column"]:
        """Sums of what is read out, with weights that are the same at all points."""
        return self.hidden(placement.coords) @ weights


def uniform_layer(fan_in: int, fan_out: int, bound: float) -> Layer:
    """A layer whose weights begin evenly between -`bound` and `bound`."""
    return Layer(fan_in, fan_out, bound / math.sqrt(3))
