"""The optimizers of the outer loop, and the course of their rates."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from functaconv.base import Base
from functaconv.recipe import TrainingRecipe


def optimizers_of(
    base: Base, shared: Sequence[nn.Parameter], solver: Sequence[nn.Parameter], training: TrainingRecipe
) -> dict[str, torch.optim.Optimizer]:
    """By name. Muon (Jordan et al. 2024) takes the matrices between hidden layers, and from latents to modulations;
    Adam takes the rest, and the solver's own at a rate of their own.
    """
    network, latent_map = base.field.network, base.field.latent_map
    matrices: list[nn.Parameter] = []
    if training.optimizer == "muon":
        corrections = [] if base.field.nonlinear is None else list(base.field.nonlinear.parameters())
        mapping = [] if latent_map.mapping is None else list(latent_map.mapping.weights)
        matrices = [*network.matrices, latent_map.weight, *corrections, *mapping]
        matrices = [matrix for matrix in matrices if matrix.requires_grad]
    taken = {id(matrix) for matrix in matrices}
    groups = [
        {"params": [parameter for parameter in shared if id(parameter) not in taken], "full_rate": training.rate},
        {"params": list(solver), "full_rate": training.solver_rate},
    ]
    optimizers: dict[str, torch.optim.Optimizer] = {"adam": torch.optim.Adam(groups)}
    if matrices:
        optimizers["muon"] = torch.optim.Muon(
            [{"params": matrices, "full_rate": training.matrix_rate}],
            weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
    return optimizers


def schedule(training: TrainingRecipe, spent: float) -> float:
    """The share of its full rate that an optimizer has when a fraction of the budget is spent."""
    if training.warmup and spent < training.warmup:
        # the very first update of a run by the clock would otherwise have no rate at all
        return max(spent / training.warmup, 0.01)
    if training.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (spent - training.warmup) / max(1e-9, 1 - training.warmup)))
