"""How many points are computed together, from the base and the kind of device alone.

What memory is free at the moment does not count: another number of points would be another sum.
"""

from dataclasses import dataclass

BYTES_PER_NUMBER = 4
# bytes of one layer's activations on the CPU
CPU_CACHE = 8 << 20
# bytes of all activations on a GPU: half of a small one
GPU_ACTIVATIONS = 4 << 30
# bytes of the values and derivatives of a linear network on the CPU
LINEAR_CACHE = 64 << 20
LEAST_POINTS = 256
# tensors of activation size alive per layer while one gradient is computed (sine, cosine, angle, cotangent)
TAPE_PER_LAYER = 4


@dataclass(frozen=True)
class Footprint:
    """What the memory of a fit depends on."""

    width: int
    """numbers of the network's widest layer"""
    layers: int
    channels: int
    read: int
    """numbers that a point depends on"""
    matrix_entries: int
    """of the normal matrices of an item"""
    needs_jacobian: bool
    is_linear: bool

    def points(self, items: int, kind: str) -> int:
        """How many points of each item to take at a time on a kind of device, `cpu` or `cuda`."""
        rows = self.channels * self.read if self.needs_jacobian else 0
        if self.is_linear:
            # nothing is kept per item and point but its values
            share = LINEAR_CACHE if kind == "cpu" else GPU_ACTIVATIONS
            fitting = share // (self.channels * (items + self.read) * BYTES_PER_NUMBER)
        elif kind == "cpu":
            fitting = CPU_CACHE // (items * max(self.width, rows) * BYTES_PER_NUMBER)
        else:
            per_point = items * (self.width * self.layers * TAPE_PER_LAYER + 2 * rows) * BYTES_PER_NUMBER
            fitting = GPU_ACTIVATIONS // per_point
        return max(LEAST_POINTS, fitting)

    @property
    def workspace(self) -> int:
        """How many numbers it takes to fit an item, `LEAST_POINTS` points at a time."""
        activations = LEAST_POINTS * self.width * TAPE_PER_LAYER
        if not self.needs_jacobian:
            return activations
        return activations + LEAST_POINTS * self.channels * self.read + self.matrix_entries
