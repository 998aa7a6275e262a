"""Images told apart by maps of latents, pixels and PCA: `run.py DATA WORK`, DATA with train*.tar and test*.tar."""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch import nn
from torch.nn import functional

import functaconv

HERE = Path(__file__).parent
BATCH = 64
Batch = Callable[[torch.Tensor], torch.Tensor]


def pixels(files: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[item, channel, row, column]` in 0..1, and labels."""
    pairs = list(wds.WebDataset(files, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([label for _, label in pairs])


def augmented(images: torch.Tensor, most: int = 4) -> torch.Tensor:
    """Mirrored or not, and shifted by up to four pixels, as `encode --augment flip,crop:4` does it."""
    padded = functional.pad(images, [most] * 4, mode="reflect")
    size = images.shape[-1]
    result = []
    for image in padded:
        row, column, flip = (int(torch.randint(count, ())) for count in (2 * most + 1, 2 * most + 1, 2))
        part = image[:, row : row + size, column : column + size]
        result.append(part.flip(-1) if flip else part)
    return torch.stack(result)


class Patches:
    """PCA of patches of 4 x 4 pixels: maps of the same shape as the latents'."""

    def __init__(self, images: torch.Tensor, sites: int, numbers: int) -> None:
        self.side = images.shape[-1] // sites
        patches = functional.unfold(images[:2000], self.side, stride=self.side).transpose(1, 2).flatten(0, 1)
        self.mean = patches.mean(0)
        lengths, directions = torch.linalg.eigh((patches - self.mean).T.cov())
        self.directions = directions.flip(1)[:, :numbers] / lengths.flip(0)[:numbers].clamp(min=1e-8).sqrt()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        patches = functional.unfold(images, self.side, stride=self.side).transpose(1, 2)
        scores = (patches - self.mean) @ self.directions
        sites = images.shape[-1] // self.side
        return scores.transpose(1, 2).unflatten(2, (sites, sites))


def network(channels: int, side: int, width: int) -> nn.Module:
    """Convolutions on a map of sites; `side` pixels of each site become its numbers first."""

    def layer(into: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

    stem = [nn.Conv2d(channels, width, side, stride=side), nn.BatchNorm2d(width), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * width, 10)]
    return nn.Sequential(*stem, *layer(width, width), nn.MaxPool2d(2), *layer(width, 2 * width), *head)


def trained(net: nn.Module, batch_of: Batch, labels: torch.Tensor, epochs: int) -> None:
    """Learn from what `batch_of` gives for the numbers of items."""
    steps = epochs * (len(labels) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
            loss = functional.cross_entropy(net(batch_of(chosen)), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(net: nn.Module, values: torch.Tensor, labels: torch.Tensor) -> float:
    net.eval()
    said = torch.cat([net(part).argmax(1) for part in values.split(200)])
    return round(100 * float((said == labels).float().mean()), 1)


def main(data: Path, work: Path, epochs: int, width: int, views: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    work.mkdir(parents=True, exist_ok=True)
    files = {split: sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")}
    functaconv.fit_base(files["train"], base, recipe=HERE / "recipe.toml")
    functaconv.encode(base, files["test"], work / "test.zarr")
    functaconv.encode(base, files["train"], work / "views.zarr", views=views, augment="flip,crop:4")
    store, tested = (functaconv.open_functaset(work / name) for name in ("views.zarr", "test.zarr"))
    (images, labels), (test_images, test_labels) = pixels(files["train"]), pixels(files["test"])
    sites, numbers = store.layout.sites[0], store.layout.latent
    side, pca = images.shape[-1] // sites, Patches(images, sites, numbers)
    # small enough to be held: functaset.torch_dataset draws views of larger ones from the disk
    maps = torch.from_numpy(store.latents(normalize=True, form="map").astype(np.float16))
    rows = torch.from_numpy(store.item_rows)
    test_maps = torch.from_numpy(store.normalize(tested.latents(form="map"), form="map"))

    def of_views(chosen: torch.Tensor) -> torch.Tensor:
        return maps[rows[chosen] + torch.randint(views, (len(chosen),))].float()

    kinds: dict[str, tuple[int, int, Batch, torch.Tensor]] = {
        f"latents, {views} views": (numbers, 1, of_views, test_maps),
        "latents, 1 view": (numbers, 1, lambda chosen: maps[rows[chosen]].float(), test_maps),
        "pixels, augmented": (3, side, lambda chosen: augmented(images[chosen]), test_images),
        "PCA of patches, augmented": (numbers, 1, lambda chosen: pca(augmented(images[chosen])), pca(test_images)),
    }
    scores = {}
    for name, (channels, stride, batch_of, values) in kinds.items():
        torch.manual_seed(0)
        net = network(channels, stride, width)
        trained(net, batch_of, labels, epochs)
        scores[name] = accuracy(net, values, test_labels)
    ours, _, rival, _ = scores.values()
    result = {
        "task": "classify-images", "data": f"{data.name}, {len(labels)} training images", "ours": f"{ours} %",
        "rival": f"pixels {rival} %", "numbers": store.layout.numbers,
        "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/classify-images/run.py DATA/cifar10 WORK",
        "accuracy": scores, "views": len(store),
        "seconds_of_the_views": round(len(labels) / store.report["items_per_second"]),
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--views", type=int, default=10)
    main(**vars(parser.parse_args()))
