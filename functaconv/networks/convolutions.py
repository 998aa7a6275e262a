"""Convolutions over a grid of sites along one to three axes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.initial import uniform

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Convolutions(nn.Module):
    """Layers over a site's neighbourhood, three sites along every axis, then a linear one of the site alone: `[item,
    number, *site]` to `[item, out, *site]`. Where `is_residual` they add to what they are given (He et al. 2016).

    Without biases, so that zeros become zeros; the last layer begins at zero. Beyond the border its site is repeated;
    a closed last axis goes on at its other end.
    """

    def __init__(
        self,
        numbers: int,
        width: int,
        out: int,
        *,
        axes: int,
        depth: int,
        is_residual: bool = False,
        is_closed: bool = False,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.axes, self.is_residual, self.is_closed = axes, is_residual, is_closed
        # as matrices, which is what an optimiser orthogonalises
        fans = [fan_in * 3**axes for fan_in in (numbers, *[width] * (depth - 1))]
        self.layers = nn.ParameterList(
            uniform(width, fan_in, low=-(fan_in**-0.5), high=fan_in**-0.5, generator=generator) for fan_in in fans
        )
        self.out = nn.Parameter(torch.zeros(out, width))

    def forward(self, values: Float[Tensor, "item number *site"]) -> Float[Tensor, "item out *site"]:
        for number, weight in enumerate(self.layers):
            after = functional.gelu(self._convolved(values, weight))
            values = values + after if self.is_residual and number else after
        return (values.movedim(1, -1) @ self.out.T).movedim(-1, 1)

    def _convolved(self, values: Tensor, weight: Tensor) -> Tensor:
        for axis in range(2, 2 + self.axes):
            first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
            ends = (last, first) if self.is_closed and axis == 1 + self.axes else (first, last)
            values = torch.cat([ends[0], values, ends[1]], axis)
        convolved: Tensor = CONVOLUTIONS[self.axes](values, weight.reshape(len(weight), -1, *(3,) * self.axes))
        return convolved
