"""New images from latents: `run.py DATA WORK`, DATA with train*.tar and test*.tar of images."""

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import functaconv

HERE = Path(__file__).parent
STEPS = 50
# latents that the flow makes: the others are details, which few faces say little about
LEADING = 32


class Flow(nn.Module):
    """The velocity of a rectified flow (Liu et al. 2023) from a Gaussian to the latents: residual layers."""

    def __init__(self, numbers: int, width: int, layers: int = 4) -> None:
        super().__init__()
        self.into, self.time = nn.Linear(numbers, width), nn.Linear(16, width)
        parts = ((nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(layers))
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), *part) for part in parts)
        self.out = nn.Linear(width, numbers)
        nn.init.zeros_(self.out.weight)

    def forward(self, latents: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        waves = at[:, None] * torch.pi * torch.arange(1, 9)
        hidden = self.into(latents) + self.time(torch.cat([waves.sin(), waves.cos()], 1))
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        # from a Gaussian to one of the same covariance the velocity is known: the network learns the rest
        known = (2 * at - 1) / (at.square() + (1 - at).square())
        return known[:, None] * latents + self.out(hidden)


def learned(latents: torch.Tensor, epochs: int, width: int) -> Flow:
    """A flow for latents of mean 0 and covariance 1, averaged over the last updates."""
    flow, batch = Flow(latents.shape[1], width), min(128, len(latents))
    mean = torch.optim.swa_utils.AveragedModel(flow, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    steps = epochs * max(1, len(latents) // batch)
    optimizer = torch.optim.AdamW(flow.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        end = latents[torch.randint(len(latents), (batch,))]
        begin, at = torch.randn_like(end), torch.rand(len(end))
        between = at[:, None] * end + (1 - at[:, None]) * begin
        loss = functional.mse_loss(flow(between, at), end - begin)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean.update_parameters(flow)
    return mean.module.eval()


@torch.no_grad()
def sampled(flow: Flow, noise: torch.Tensor) -> torch.Tensor:
    """Where the flow leads, by Heun's steps."""
    latents = noise
    for step in range(STEPS):
        now, then = (torch.full((len(latents),), place / STEPS) for place in (step, step + 1))
        velocity = flow(latents, now)
        latents = latents + (velocity + flow(latents + velocity / STEPS, then)) / (2 * STEPS)
    return latents


def small(images: torch.Tensor) -> torch.Tensor:
    """Images of 16 x 16, flat: what the tests compare."""
    return functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).clamp(0, 1), 16).flatten(1)


def mmd(one: torch.Tensor, other: torch.Tensor) -> float:
    """Maximum mean discrepancy (squared, unbiased, times 1000), Gaussian kernels of the median distance."""
    both = torch.cat([one, other])
    distances = torch.cdist(both, both).square()
    kernel = torch.exp(-distances / distances.median()).fill_diagonal_(0)
    count, rest = len(one), len(other)
    within = kernel[:count, :count].sum() / count / (count - 1) + kernel[count:, count:].sum() / rest / (rest - 1)
    return float(1000 * (within - 2 * kernel[:count, count:].mean()))


def two_sample(one: torch.Tensor, other: torch.Tensor) -> float:
    """How often the nearest neighbour is of the own kind, in %: 50 where they cannot be told apart."""
    both = torch.cat([one, other])
    is_one = torch.arange(len(both)) < len(one)
    neighbour = torch.cdist(both, both).fill_diagonal_(torch.inf).argmin(1)
    return 100 * float((is_one == is_one[neighbour]).float().mean())


def sheet(images: torch.Tensor, columns: int) -> Image.Image:
    whole = torch.cat([torch.cat(list(row), 1) for row in images.split(columns)])
    return Image.fromarray((whole.clamp(0, 1) * 255).round().byte().numpy())


def main(data: Path, work: Path, epochs: int, width: int) -> None:
    begun, base = time.process_time(), work / "base.safetensors"
    torch.manual_seed(0)
    files = [sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")]
    functaconv.fit_base(files[0], base, recipe=HERE / "recipe.toml")
    paths = [functaconv.encode(base, names, work / f"{n}.zarr").path for n, names in enumerate(files)]
    train, test = map(functaconv.open_functaset, paths)
    latents = torch.from_numpy(train.latents())
    mean, spread = latents.mean(0), torch.linalg.cholesky(latents.T.cov() + 1e-9 * torch.eye(latents.shape[1]))
    white = torch.linalg.solve_triangular(spread, (latents - mean).T, upper=False).T
    flow = learned(white[:, :LEADING], epochs, width)

    @torch.no_grad()
    def decoded(made: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        return torch.cat([train.decode(part, size=size) for part in made.split(100)])

    noise = torch.randn(len(test), latents.shape[1])
    moved = torch.cat([sampled(flow, noise[:, :LEADING]), noise[:, LEADING:]], 1)
    gaussian, ours = mean + noise @ spread.T, mean + moved @ spread.T
    real, seen = small(decoded(torch.from_numpy(test.latents()))), small(decoded(latents))
    kinds = {"flow": small(decoded(ours)), "Gaussian": small(decoded(gaussian)), "training images": seen[: len(real)]}
    scores = {"test images": {"nearest_training_image": round(float(torch.cdist(real, seen).amin(1).mean()), 3)}}
    for name, images in kinds.items():
        # of a training image itself the second nearest
        nearest = torch.cdist(images, seen).topk(2, largest=False).values[:, int(name == "training images")]
        tests = {"mmd_1000": mmd(images, real), "nearest_neighbour_test": two_sample(images, real)}
        tests["nearest_training_image"] = float(nearest.mean())
        scores[name] = {key: round(value, 3) for key, value in tests.items()}
    result = {
        "task": "generate-faces", "data": data.name, "ours": f"MMD {scores['flow']['mmd_1000']:.1f}",
        "rival": f"Gaussian {scores['Gaussian']['mmd_1000']:.1f}", "numbers": train.layout.numbers,
        "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/generate-faces/run.py DATA/lfw64 WORK", "scores": scores,
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sheet(torch.cat([decoded(ours[:16]), decoded(gaussian[:16])]), 8).save(work / "samples.png")
    sheet(decoded(ours[:3], (256, 256)), 3).quantize(128).save(work / "samples-256.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--width", type=int, default=256)
    main(**vars(parser.parse_args()))
