"""Shapes told apart by their latents, and by their voxels: `run.py DATA WORK`, DATA with train*.tar and test*.tar."""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch import nn
from torch.nn import functional

import functaconv

HERE = Path(__file__).parent
CLASSES, MOST = 10, 2
Drawn = Callable[[torch.Tensor], torch.Tensor]


def voxels(files: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Occupancy uint8 `[item, 1, x, y, z]`, and labels."""
    pairs = list(wds.WebDataset(files, shardshuffle=False).decode().to_tuple("npz", "cls"))
    volumes = np.stack([npz["occupancy"] for npz, _ in pairs])
    return torch.from_numpy(volumes)[:, None], torch.tensor([label for _, label in pairs])


def augmented(volumes: torch.Tensor) -> torch.Tensor:
    """Mirrored left to right or not, and shifted by up to two voxels, as `encode --augment flip,crop:2` does it."""
    padded, size, result = functional.pad(volumes.float(), [MOST] * 6, mode="reflect"), volumes.shape[-1], []
    for volume in padded:
        x, y, z, flip = (int(torch.randint(count, ())) for count in (*[2 * MOST + 1] * 3, 2))
        part = volume[:, x : x + size, y : y + size, z : z + size]
        result.append(part.flip(1) if flip else part)
    return torch.stack(result)


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


def trained(net: nn.Module, drawn: Drawn, labels: torch.Tensor, epochs: int, rate: float, *, mixes: bool) -> float:
    """Learn from what is drawn for the numbers of items, or mixes of two (Zhang et al. 2018); seconds per epoch."""
    begun, batch = time.time(), min(64, len(labels))
    # so that what the network says does not depend on how common a class is in training
    prior = (torch.bincount(labels, minlength=CLASSES) + 1.0).log()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(labels) // batch))
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels))[: len(labels) // batch * batch].split(batch):
            values, wanted = drawn(chosen), functional.one_hot(labels[chosen], CLASSES).float()
            if mixes:
                share, other = torch.distributions.Beta(0.4, 0.4).sample((batch, 1)), torch.randperm(batch)
                values = torch.lerp(values[other], values, share.reshape(batch, *[1] * (values.dim() - 1)))
                wanted = torch.lerp(wanted[other], wanted, share)
            loss = functional.cross_entropy(net(values) + prior, wanted, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return (time.time() - begun) / epochs


@torch.no_grad()
def accuracy(network: nn.Module, values: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    said = torch.cat([network(part.float()).argmax(1) for part in values.split(100)])
    return 100 * float((said == labels).float().mean())


def main(data: Path, work: Path, epochs: int, seeds: int, views: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    work.mkdir(parents=True, exist_ok=True)
    files = {split: sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")}
    functaconv.fit_base(files["train"], base, recipe=HERE / "recipe.toml")
    # a quarter of the usual steps: what is left to improve does not tell classes apart
    functaconv.encode(base, files["train"], work / "train.zarr", steps=6, views=views, augment=f"flip,crop:{MOST}")
    functaconv.encode(base, files["test"], work / "test.zarr", steps=6)
    store, tested = (functaconv.open_functaset(work / f"{split}.zarr") for split in files)
    latents, rows = torch.from_numpy(store.latents(normalize=True)), torch.from_numpy(store.item_rows)
    test_latents = torch.from_numpy(store.normalize(tested.latents()))
    (volumes, labels), (test_volumes, test_labels) = voxels(files["train"]), voxels(files["test"])
    assert [*store.labels[store.item_rows], *tested.labels] == [*labels.tolist(), *test_labels.tolist()]
    size, count = volumes.shape[-1], store.layout.numbers

    def of_views(chosen: torch.Tensor) -> torch.Tensor:
        values = latents[rows[chosen] + torch.randint(views, (len(chosen),))]
        return values + 0.1 * torch.randn_like(values)

    kinds: dict[str, tuple[Callable[[], nn.Module], Drawn, torch.Tensor, int, float, bool]] = {
        "MLP on latents": (lambda: mlp(count), of_views, test_latents, 25 * epochs, 2e-3, True),
        "3D CNN on voxels": (lambda: cnn(size), lambda some: volumes[some].float(), test_volumes, epochs, 3e-3, False),
        "3D CNN, augmented": (
            lambda: cnn(size), lambda some: augmented(volumes[some]), test_volumes, 2 * epochs, 3e-3, True
        ),
    }  # fmt: skip
    scores: dict[str, dict[str, float]] = {}
    for name, (make, drawn, test, rounds, rate, mixes) in kinds.items():
        found, seconds, network = [], 0.0, make()
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = make()
            seconds = trained(network, drawn, labels, rounds, rate, mixes=mixes)
            found.append(accuracy(network, test, test_labels))
        scores[name] = {
            "accuracy": round(float(np.mean(found)), 2), "lowest": round(min(found), 2),
            "highest": round(max(found), 2), "seconds_per_epoch": round(seconds, 2), "epochs": rounds,
            "parameters": sum(one.numel() for one in network.parameters()),
            "bytes_read_per_item": 2 * count if test is test_latents else size**3,
        }  # fmt: skip
    ours, rival, more = (score["accuracy"] for score in scores.values())
    result = {
        "task": "classify-voxels", "data": f"{data.name}, {seeds} seeds", "ours": f"{ours:.1f} % (MLP)",
        "rival": f"3D CNN {rival:.1f} %, augmented {more:.1f} %", "numbers": count,
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
    parser.add_argument("--views", type=int, default=8)
    main(**vars(parser.parse_args()))
