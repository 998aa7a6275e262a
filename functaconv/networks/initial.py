"""Values that parameters begin with."""

import torch
from torch import Tensor


def uniform(*shape: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """Drawn evenly between `low` and `high`; without a generator whatever the memory holds, to be loaded over."""
    values = torch.empty(*shape)
    return values if generator is None else values.uniform_(low, high, generator=generator)
