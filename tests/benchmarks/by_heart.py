"""How well each modulation tells fifty images apart: the table of INR-GAN's slides, made again.

One network and a set of modulations per image, without a latent, are learned by heart together by Adam. Minutes are
those of the processor: what else runs beside it does not count.
"""

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from functaconv.construction import build
from functaconv.data.decoders import decode
from functaconv.data.expansion import expand_shards
from functaconv.data.shards import read_records
from functaconv.modalities import Axes
from functaconv.networks.layered import Layered
from functaconv.recipe import Recipe
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer

IMAGES, WIDTH, LAYERS, WAVES = 50, 64, 4, 64
# points of every image in an update; rates of the network and of the images' own numbers
POINTS, RATE, OWN_RATE = 64, 4e-3, 2e-2
# mean absolute error of values from -1 to 1, and numbers per layer of width n, in the slides
PUBLISHED = {
    "hyper": (0.047, "n^2 + n"),
    "gate": (0.050, "n^2 + n"),
    "fmm": (0.059, "2 n r + n"),
    "adain": (0.089, "2 n"),
    "mfilm": (0.089, "3 n"),
    "factorized": (0.285, "2 n r + n"),
}
CASES = [*PUBLISHED, "film", "shift", "lowrank"]


def images(shards: str) -> Tensor:
    """`[image, height, width, channel]` from -1 to 1."""
    records = (record for name in expand_shards([shards]) for record in read_records(name))
    arrays = [decode(record).array for record in islice(records, IMAGES)]
    return torch.stack([torch.from_numpy(array.copy()) for array in arrays]).float() / 127.5 - 1


def learned(modulation: str, data: Path, minutes: float) -> dict[str, Any]:
    """A row of the table."""
    targets = images(str(data / "lfw64" / "train-*.tar"))
    network = {"kind": "fourier", "learned": True, "features": WAVES, "spread": 5.0, "layers": LAYERS, "width": WIDTH,
               "activation": "leaky-relu", "modulation": modulation}  # fmt: skip
    recipe = Recipe().changed({"network": network, "latent": {"numbers": 1}})
    base = build(recipe, Axes("image", 2, 3), Normalizer((0.0,) * 3, (1.0,) * 3))
    made = base.field.network
    assert isinstance(made, Layered)
    assert isinstance(made.constant, torch.Tensor)
    nn.init.zeros_(made.constant)
    placement = base.placement(Grid(tuple(targets.shape[1:3])))
    own = nn.Parameter(torch.zeros(len(targets), 1, made.modulations))
    full = [RATE, OWN_RATE]
    optimizer = torch.optim.Adam([{"params": list(made.parameters()), "lr": RATE}, {"params": [own], "lr": OWN_RATE}])
    flat, begun, updates = targets.flatten(1, 2), time.process_time(), 0
    generator, curve = torch.Generator().manual_seed(0), list[tuple[float, float]]()
    while (spent := (time.process_time() - begun) / (60 * minutes)) < 1:
        for group, rate in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = 0.5 * rate * (1 + math.cos(math.pi * spent))
        points = torch.randperm(flat.shape[1], generator=generator)[:POINTS]
        some = base.place(base.points(Grid(tuple(targets.shape[1:3])))[points])
        loss = (made.features(own, some)[:, 0] - flat[:, points]).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        updates += 1
        if updates % 50 == 0:
            curve.append((round(time.process_time() - begun, 1), round(loss.item(), 5)))
    seconds = time.process_time() - begun
    with FlopCounterMode(display=False) as counted:
        made.features(own[:1], placement)
    with torch.no_grad():
        error = torch.cat([made.features(part, placement)[:, 0] for part in torch.split(own, 10)]) - flat
    published, per_layer = PUBLISHED.get(modulation, (None, None))
    return {
        "mae": float(error.abs().mean()), "mse": float(error.square().mean()), "published_mae": published,
        "per_layer": per_layer, "numbers_per_item": made.modulations, "updates": updates, "seconds": round(seconds, 1),
        "shared_parameters": sum(parameter.numel() for parameter in made.parameters()),
        "multiply_adds_per_point": round(counted.get_total_flops() / 2 / flat.shape[1]),
        "images": len(targets), "width": WIDTH, "layers": LAYERS, "minutes": minutes, "loss_curve": list(_thin(curve)),
    }  # fmt: skip


def _thin(curve: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """At most twenty of the points."""
    step = max(1, len(curve) // 20)
    yield from curve[::step]
