"""The best base that validations on the way have found."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from functaconv.base import Base


class Best:
    """What the average was when a validation found most; nothing before the first one."""

    def __init__(self) -> None:
        self.psnr, self._average = -math.inf, dict[str, Tensor]()

    def note(self, psnr: float, average: Base) -> None:
        """A validation found so many dB on held-out items."""
        if psnr > self.psnr:
            self.psnr = psnr
            self._average = {name: tensor.clone() for name, tensor in average.state_dict().items()}

    def put_into(self, average: Base) -> None:
        """Make it what it was."""
        average.load_state_dict(self._average)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on: tensors by name, and plain values."""
        values = {"best": self.psnr} if self._average else {}
        return {f"best.{name}": tensor for name, tensor in self._average.items()}, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Be as when `state` was called."""
        if "best" in values:
            self.psnr = float(values["best"])
            self._average = {
                name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")
            }
