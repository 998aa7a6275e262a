"""Images at half and quarter size, rendered at full size: `run.py DATA WORK`, DATA with train*.tar and test*.tar."""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.nn import functional

import functaconv

HERE = Path(__file__).parent
RIVALS = ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")


def images(files: list[str]) -> tuple[list[str], np.ndarray]:
    """Keys, and images uint8 `[item, row, column, channel]`."""
    pairs = list(wds.WebDataset(files, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png"))
    return [key for key, _ in pairs], np.stack([image for _, image in pairs])


def coarse(fine: np.ndarray, ratio: int) -> np.ndarray:
    """Cell means, rounded to 8 bits as a file has them."""
    items, rows, columns, channels = fine.shape
    cells = fine.reshape(items, rows // ratio, ratio, columns // ratio, ratio, channels)
    return np.rint(cells.astype(np.float64).mean((2, 4))).astype(np.uint8)


def encoded(base: Path, keys: list[str], codes: np.ndarray, path: Path) -> functaconv.Functaset:
    """A functaset of coarse images: a pixel is the mean over its cell."""
    with wds.TarWriter(f"{path}.tar") as tar:
        for key, image in zip(keys, codes, strict=True):
            tar.write({"__key__": key, "png": image})
    functaconv.encode(base, f"{path}.tar", f"{path}.zarr", footprint="area", overwrite=True)
    return functaconv.open_functaset(f"{path}.zarr")


def decoded(functaset: functaconv.Functaset, latents: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    with torch.no_grad():
        parts = [functaset.decode(part, form="map", size=size) for part in latents.split(64)]
    return torch.cat(parts).clamp(0, 1).numpy()


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean(-10 * np.log10(np.square(found - wanted).mean((1, 2, 3)))))


def ssim(found: np.ndarray, wanted: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) in windows of 7 x 7."""
    a, b = (torch.from_numpy(array).permute(0, 3, 1, 2).double() for array in (found, wanted))

    def mean(values: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(values, 7, 1)

    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    ratio = (2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    return float(ratio.mean())


class Refined(torch.nn.Module):
    """Residual convolutions over the sites, from latents of coarse images to those of fine ones."""

    def __init__(self, latents: torch.Tensor, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        numbers = latents.shape[1]
        self.spread = latents.std((0, 2, 3), keepdim=True)
        sizes = [9 * numbers] + [9 * width] * (depth - 1)
        self.matrices = torch.nn.ParameterList((2 * torch.rand(width, size) - 1) / size**0.5 for size in sizes)
        self.biases = torch.nn.ParameterList(torch.zeros(width) for _ in sizes)
        self.out = torch.nn.Parameter(torch.zeros(numbers, width, 1, 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = latents / self.spread
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            around = functional.pad(hidden, [1] * 4, mode="replicate")
            added = functional.gelu(functional.conv2d(around, matrix.unflatten(1, (-1, 3, 3)), bias))
            hidden = hidden + added if layer else added
        return latents + 0.3 * self.spread * functional.conv2d(hidden, self.out)


def learned(functaset: functaconv.Functaset, wanted: np.ndarray, epochs: int) -> Refined:
    """Learned through what is decoded, not on the latents: several of them may be the same function."""
    latents, size = torch.from_numpy(functaset.latents(form="map")), wanted.shape[1:3]
    network, batch = Refined(latents), min(16, len(latents))
    steps = epochs * (len(latents) // batch)
    optimizers = (torch.optim.Muon(network.matrices, lr=0.02), torch.optim.AdamW([*network.biases, network.out], 2e-3))
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in optimizers]
    for _ in range(steps):
        chosen = torch.randperm(len(latents))[:batch]
        images = functaset.decode(network(latents[chosen]), form="map", size=size)
        loss = functional.mse_loss(images, torch.from_numpy(wanted[chosen.numpy()]) / 255)
        network.zero_grad()
        loss.backward()
        for stepped in (*optimizers, *schedules):
            stepped.step()
    return network


def main(data: Path, work: Path, epochs: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    files = {split: sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")}
    functaconv.fit_base(files["train"], base, recipe=HERE / "recipe.toml")
    (train_keys, train), (keys, test) = images(files["train"]), images(files["test"])
    # each face in a mirror, too
    train, train_keys = np.concatenate([train, train[:, :, ::-1]]), [*train_keys, *(f"{key}-m" for key in train_keys)]
    wanted, size, scores = test / 255.0, test.shape[1:3], {}
    for ratio in (2, 4):
        codes = coarse(test, ratio)
        ours = encoded(base, keys, codes, work / f"test-{ratio}")
        learn = encoded(base, train_keys, coarse(train, ratio), work / f"train-{ratio}")
        latents, network = torch.from_numpy(ours.latents(form="map")), learned(learn, train, epochs)
        with torch.no_grad():
            refined = network(latents)
        found = {"footprint area": decoded(ours, latents, size), "refined": decoded(ours, refined, size)}
        for name in RIVALS:
            way = Image.Resampling[name]
            found[name.lower()] = (
                np.stack([np.asarray(Image.fromarray(c).resize(size[::-1], way)) for c in codes]) / 255
            )
        scores[f"1/{ratio}"] = {
            name: {"psnr": round(psnr(array, wanted), 2), "ssim": round(ssim(array, wanted), 4)}
            for name, array in found.items()
        }
    half = scores["1/2"]
    result = {
        "task": "super-resolve", "data": f"{data.name}, half size to full size",
        "ours": f"{half['refined']['psnr']:.2f} dB", "rival": f"bicubic {half['bicubic']['psnr']:.2f} dB",
        "numbers": ours.layout.numbers, "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/super-resolve/run.py DATA/lfw64 WORK", "scores": scores,
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=7)
    main(**vars(parser.parse_args()))
