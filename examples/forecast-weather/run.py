"""The next field from latents of the two before: `run.py DATA WORK`, DATA with train*.tar and test*.tar of grids."""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch import nn

import functaconv

HERE = Path(__file__).parent
MEMBERS = 4


@dataclass(frozen=True)
class Series:
    """Fields in the order of time, and latents of them."""

    # [time, row, column, variable] in their own units; [time, latent], normalized as those of the training are
    fields: torch.Tensor
    latents: torch.Tensor
    # numbers of fields that two others go before, an hour apart; sine and cosine of the time of day
    steps: torch.Tensor
    hours: torch.Tensor

    @classmethod
    def of(cls, functaset: functaconv.Functaset, learned: functaconv.Functaset, files: list[str]) -> "Series":
        raw = dict(wds.WebDataset(files, shardshuffle=False).decode().to_tuple("__key__", "npy"))
        times = functaset.measure("time")
        order = np.argsort(times)
        fields = torch.from_numpy(np.stack([raw[str(key)] for key in functaset.keys[order]]))
        are_next = np.diff(times[order]) == np.median(np.diff(times[order]))
        steps = 2 + np.flatnonzero(are_next[:-1] & are_next[1:])
        day = torch.from_numpy(times[order] % 86400 * (2 * np.pi / 86400)).float()
        latents = torch.from_numpy(learned.normalize(functaset.latents()[order]))
        hours = torch.stack([day.sin(), day.cos()], 1)
        return cls(fields.reshape(*fields.shape[:3], -1), latents, torch.from_numpy(steps), hours)

    @property
    def inputs(self) -> torch.Tensor:
        """What a forecast is made from: two latents and the time of day, `[step, number]`."""
        now, before = self.latents[self.steps - 1], self.latents[self.steps - 2]
        return torch.cat([now, now - before, self.hours[self.steps]], 1)


class Residual(nn.Module):
    """The change of the latents as linear regression has it, and a correction of that by an MLP."""

    def __init__(self, linear: torch.Tensor, latent: int, width: int = 64) -> None:
        super().__init__()
        self.linear, self.latent = nn.Parameter(linear.clone()), latent
        into, out = nn.Linear(len(linear) - 1, width), nn.Linear(width, latent)
        self.layers = nn.Sequential(into, nn.GELU(), nn.Dropout(0.2), out)
        nn.init.zeros_(out.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, : self.latent] + affine(inputs) @ self.linear + 0.1 * self.layers(inputs)


def affine(inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([inputs, torch.ones(len(inputs), 1)], 1)


def regression(series: Series, ridge: float) -> torch.Tensor:
    """The change of the latents by linear regression, `[input + 1, latent]`."""
    inputs, change = affine(series.inputs), series.latents[series.steps] - series.latents[series.steps - 1]
    matrix = inputs.T @ inputs + ridge * len(inputs) * torch.eye(inputs.shape[1])
    return torch.linalg.solve(matrix, inputs.T @ change)


def main(data: Path, work: Path, epochs: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    work.mkdir(parents=True, exist_ok=True)
    files = [sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")]
    functaconv.fit_base(files[0], base, recipe=HERE / "recipe.toml")
    paths = [functaconv.encode(base, names, work / f"{n}.zarr", bits="float32").path for n, names in enumerate(files)]
    learned, tested = map(functaconv.open_functaset, paths)
    train, test = Series.of(learned, learned, files[0]), Series.of(tested, learned, files[1])
    latitude = np.deg2rad(learned.grids[0].axes[0])
    weights = torch.from_numpy(np.cos(latitude) / np.cos(latitude).mean()).float()[:, None, None]

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        return learned.decode(learned.denormalize(latents))

    # the last eighth of the training chooses ridge and epoch
    cut = 7 * len(train.steps) // 8
    first, last = (replace(train, steps=train.steps[part]) for part in (slice(cut), slice(cut, None)))

    def error(series: Series, forecast: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The mean square weighted by area, in squared units."""
        return ((decoded(forecast(series.inputs)) - series.fields[series.steps]).square() * weights).mean()

    def learned_with(matrix: torch.Tensor) -> Residual:
        """The network of the epoch that is best for the last eighth."""
        network = Residual(matrix, train.latents.shape[1])
        optimizer, best = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.1), np.inf
        for _ in range(epochs):
            for part in torch.randperm(len(first.steps)).split(32):
                optimizer.zero_grad()
                error(replace(first, steps=first.steps[part]), network.train()).backward()
                optimizer.step()
            with torch.no_grad():
                if (now := float(error(last, network.eval()))) < best:
                    best, state = now, deepcopy(network.state_dict())
        network.load_state_dict(state)
        return network

    def linear(series: Series, ridge: float) -> Callable[[torch.Tensor], torch.Tensor]:
        matrix = regression(series, ridge)
        return lambda inputs: inputs[:, : matrix.shape[1]] + affine(inputs) @ matrix

    torch.manual_seed(0)
    with torch.no_grad():
        ridge = min((0.001, 0.01, 0.03, 0.1, 0.3, 1.0), key=lambda one: float(error(last, linear(first, one))))
    networks = [learned_with(regression(first, ridge)) for _ in range(MEMBERS)]
    with torch.no_grad():
        errors = {
            "residual MLP": error(test, lambda inputs: torch.stack([one(inputs) for one in networks]).mean(0)),
            "linear regression": error(test, linear(train, ridge)),
            "persistence": ((test.fields[test.steps - 1] - test.fields[test.steps]).square() * weights).mean(),
            "reconstruction floor": error(test, lambda _: test.latents[test.steps]),
        }
    rmse = {name: round(float(value.sqrt()), 4) for name, value in errors.items()}
    unit = learned.attributes.units[0]
    result = {
        "task": "forecast-weather", "data": data.name, "ours": f"{rmse['residual MLP']:.3f} {unit}",
        "rival": f"linear {rmse['linear regression']:.3f} {unit}, persistence {rmse['persistence']:.3f} {unit}",
        "numbers": 2 * learned.layout.numbers, "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/forecast-weather/run.py DATA/era5_t2m_uk WORK", "rmse": rmse,
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    main(**vars(parser.parse_args()))
