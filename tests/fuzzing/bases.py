"""Small bases, made in milliseconds: nobody has learned them."""

import json
from typing import Any

import torch

from functaconv.checkpoint import base_to_bytes
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.recipe import Recipe
from functaconv.signals.normalizer import Normalizer
from functaconv.solvers import GaussNewton


def undigested(content: bytes) -> bytes:
    """A base as an older functaconv wrote it: what is wrong with it is not told by its sha256."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["functaconv"])
    del said["sha256"]
    header["__metadata__"]["functaconv"] = json.dumps(said)
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


def small_base(axes: Axes, solver: str, *, sites: tuple[int, ...] = (2, 2), numbers: int = 2) -> bytes:
    """The content of a base file; canonical where the solver is gauss-newton."""
    torch.set_num_threads(1)
    latent: dict[str, Any] = {"numbers": numbers, "sites": list(sites)}
    recipe = Recipe().changed(
        {"network": {"width": 4, "depth": 3}, "latent": latent, "solver": {"kind": solver, "steps": 2}}
    )
    base = build(recipe, axes, Normalizer((0.0,) * axes.channels, (1.0,) * axes.channels))
    base.describe_latents(torch.arange(4.0 * base.numbers).reshape(4, -1, numbers))
    if isinstance(base.solver, GaussNewton):
        base.solver.metric = torch.eye(numbers)
    return base_to_bytes(base, recipe, {"updates": 7, "shapes": [[8] * axes.dims], "psnr": 30.0})
