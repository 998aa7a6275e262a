"""Convolutions over a grid of sites along one to three axes, with weights as matrices."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def convolved(
    values: Float[Tensor, "item number *site"],
    weight: Float[Tensor, "out fan_in"],
    *,
    is_closed: bool = False,
) -> Float[Tensor, "item out *site"]:
    """What `weight` makes of each site's neighbourhood, three sites along every axis. As a matrix it is what an
    optimiser orthogonalises.

    Beyond the border its site is repeated; a closed last axis goes on at its other end.
    """
    dims = values.dim() - 2
    for axis in range(2, 2 + dims):
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
        ends = (last, first) if is_closed and axis == 1 + dims else (first, last)
        values = torch.cat([ends[0], values, ends[1]], axis)
    made: Tensor = CONVOLUTIONS[dims](values, weight.reshape(len(weight), -1, *(3,) * dims))
    return made
