"""The smallest network there can be: options and a forward. All else comes from `Network`."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from functaconv.networks import Inputs, Network, NetworkOptions
from functaconv.options import STRICT, Width


@dataclass(frozen=True, config=STRICT)
class ToyOptions(NetworkOptions):
    """One hidden layer of hyperbolic tangents."""

    kind: Literal["toy"] = "toy"
    width: Width = 16
    """numbers of the hidden layer"""


class Toy(Network):
    """`tanh(first(coords) + shift)`, read out."""

    Options = ToyOptions

    def __init__(self, inputs: Inputs, options: ToyOptions, *, generator: torch.Generator | None) -> None:
        super().__init__([options.width])
        self.first, self.last = nn.Linear(inputs.coords, options.width), nn.Linear(options.width, inputs.channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)

    def forward(self, coords: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        features: Tensor = self.last(torch.tanh(self.first(coords) + modulations[0]))
        return features
