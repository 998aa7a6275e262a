"""Shapes told apart by their latents, and by their voxels: `run.py DATA WORK`, DATA with train*.tar and test*.tar."""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch import nn
from torch.nn import functional

import functaconv

HERE = Path(__file__).parent
CLASSES = 10


@dataclass(frozen=True)
class Items:
    """What a classifier reads, and what it is to say."""

    values: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def latents(cls, path: Path) -> "Items":
        functaset = functaconv.open_functaset(path)
        return cls(torch.from_numpy(functaset.latents(normalize=True)), torch.from_numpy(functaset.labels))

    @classmethod
    def voxels(cls, files: list[str]) -> "Items":
        pairs = list(wds.WebDataset(files, shardshuffle=False).decode().to_tuple("npz", "cls"))
        volumes = np.stack([npz["occupancy"] for npz, _ in pairs])
        return cls(torch.from_numpy(volumes)[:, None], torch.tensor([label for _, label in pairs]))


def mlp(numbers: int) -> nn.Module:
    """83,000 parameters for 256 numbers. Later latents are finer detail: they begin with less weight."""
    layers = [nn.Linear(numbers, 256), nn.GELU(), nn.Dropout(0.5), nn.Linear(256, 64), nn.GELU(), nn.Dropout(0.3)]
    network = nn.Sequential(*layers, nn.Linear(64, CLASSES))
    with torch.no_grad():
        network[0].weight.mul_((1 + torch.arange(numbers) / 16) ** -0.5)
    return network


def cnn(size: int) -> nn.Module:
    """A 3D CNN of 550,000 parameters for 32 x 32 x 32 voxels, as functa's rival has (Dupont et al. 2022)."""
    channels, layers = [1, 16, 32, 64, 128], []
    for number, (into, out) in enumerate(pairwise(channels)):
        kernel = 5 if number == 0 else 3
        layers += [nn.Conv3d(into, out, kernel, stride=2, padding=kernel // 2), nn.BatchNorm3d(out), nn.ReLU()]
    values = 128 * max(1, -(-size // 16)) ** 3
    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(values, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, CLASSES)]
    return nn.Sequential(*layers, *head)


def trained(network: nn.Module, items: Items, epochs: int, rate: float, noise: float) -> float:
    """Learn, with noise on what is read; seconds per epoch."""
    begun, batch = time.time(), min(64, len(items.labels))
    steps = epochs * (len(items.labels) // batch)
    # so that what the network says does not depend on how common a class is in training
    prior = (torch.bincount(items.labels, minlength=CLASSES) + 1.0).log()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = torch.randperm(len(items.labels))
        chosen = order[batch * (step % (steps // epochs)) :][:batch]
        values = items.values[chosen].float()
        values = values + noise * torch.randn_like(values)
        loss = functional.cross_entropy(network(values) + prior, items.labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return (time.time() - begun) / epochs


@torch.no_grad()
def accuracy(network: nn.Module, items: Items) -> float:
    network.eval()
    said = torch.cat([network(part.float()).argmax(1) for part in items.values.split(100)])
    return 100 * float((said == items.labels).float().mean())


def main(data: Path, work: Path, epochs: int, seeds: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    work.mkdir(parents=True, exist_ok=True)
    files = {split: sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")}
    functaconv.fit_base(files["train"], base, recipe=HERE / "recipe.toml")
    for split, names in files.items():
        functaconv.encode(base, names, work / f"{split}.zarr")
    train = functaconv.open_functaset(work / "train.zarr")
    latents = {split: Items.latents(work / f"{split}.zarr") for split in files}
    voxels = {split: Items.voxels(names) for split, names in files.items()}
    size, count = voxels["train"].values.shape[-1], train.layout.numbers
    kinds: dict[str, tuple[dict[str, Items], Callable[[], nn.Module], int, float, float]] = {
        "MLP on latents": (latents, lambda: mlp(count), 10 * epochs, 2e-3, 0.3),
        "3D CNN on voxels": (voxels, lambda: cnn(size), epochs, 3e-3, 0.0),
    }
    scores: dict[str, dict[str, float]] = {}
    for name, (items, make, rounds, rate, noise) in kinds.items():
        found, seconds, network = [], 0.0, make()
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = make()
            seconds = trained(network, items["train"], rounds, rate, noise)
            found.append(accuracy(network, items["test"]))
        each = {
            "accuracy": float(np.mean(found)),
            "lowest": min(found),
            "highest": max(found),
            "seconds_per_epoch": seconds,
        }
        scores[name] = {key: round(value, 2) for key, value in each.items()}
        scores[name] |= {"epochs": rounds, "parameters": sum(one.numel() for one in network.parameters())}
    read = {"MLP on latents": 2 * count, "3D CNN on voxels": size**3}
    for name, values in read.items():
        scores[name]["bytes_read_per_item"] = values
    ours, rival = scores.values()
    result = {
        "task": "classify-voxels", "data": f"{data.name}, {seeds} seeds", "ours": f"{ours['accuracy']:.1f} % (MLP)",
        "rival": f"3D CNN {rival['accuracy']:.1f} %", "numbers": count,
        "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/classify-voxels/run.py DATA/modelnet10_vox32 WORK", "scores": scores,
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
