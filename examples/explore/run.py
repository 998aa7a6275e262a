"""What lies between, beyond and behind items: `run.py DATA WORK`, DATA with train*.tar and test*.tar of images."""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image

import functaconv
from functaconv.signals.grid import Grid

HERE = Path(__file__).parent


def images(files: list[str]) -> torch.Tensor:
    """`[item, row, column, channel]` in 0..1."""
    pairs = wds.WebDataset(files, shardshuffle=False).decode("rgb8").to_tuple("png")
    return torch.from_numpy(np.stack([image for (image,) in pairs])).float() / 255


class Linear:
    """Images as a mean and a normal prior along rows of `directions`: of a base in closed form, or of PCA."""

    def __init__(self, mean: torch.Tensor, directions: torch.Tensor, spread: torch.Tensor, noise: float) -> None:
        self.mean, self.directions, self.spread, self.noise = mean, directions, spread, noise

    @classmethod
    def of_functaset(cls, functaset: functaconv.Functaset, size: tuple[int, int]) -> "Linear":
        """A closed form is linear in its latents: it is known from those of length one."""
        latents = torch.from_numpy(functaset.latents(form="tokens"))
        _, sites, numbers = latents.shape
        units = torch.eye(sites * numbers).reshape(-1, sites, numbers)
        with torch.no_grad():
            mean = functaset.decode(torch.zeros_like(latents[:1]), form="tokens", size=size).flatten()
            parts = [functaset.decode(part, form="tokens", size=size).flatten(1) for part in units.split(64)]
        return cls(mean, torch.cat(parts) - mean, latents.std((0, 1)).repeat(sites), float(functaset.mse.mean()))

    @classmethod
    def of_pca(cls, train: torch.Tensor, numbers: int) -> "Linear":
        values = train.flatten(1)
        mean = values.mean(0)
        _, lengths, directions = torch.linalg.svd(values - mean, full_matrices=False)
        noise = lengths[numbers:].square().sum() / values.numel()
        return cls(mean, directions[:numbers], lengths[:numbers] / len(values) ** 0.5, float(noise))

    def filled(self, values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The most probable whole of what is known: `values` [item, value], `known` [value]."""
        seen = self.directions[:, known]
        matrix = seen @ seen.T + torch.diag(self.noise / self.spread.square())
        scores = torch.linalg.solve(matrix, seen @ (values - self.mean)[:, known].T)
        return self.mean + scores.T @ self.directions


def nearest(items: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Every pixel as the known one next to it; `known` [row, column]."""
    places = torch.cartesian_prod(*map(torch.arange, known.shape)).float()
    pixels = items.flatten(1, 2)[:, known.flatten()]
    return pixels[:, torch.cdist(places, places[known.flatten()]).argmin(1)].reshape(items.shape)


def psnr(found: torch.Tensor, wanted: torch.Tensor, where: torch.Tensor) -> float:
    """Mean over items, of the pixels where nothing was known."""
    error = (found.clamp(0, 1) - wanted)[:, where].square().mean((1, 2))
    return float((-10 * error.log10()).mean())


def picture(base: Path, work: Path, size: int) -> torch.Tensor:
    """Rows: between two photographs of scikit-learn's, a fifth of the size beyond the border, sites of both."""
    from sklearn.datasets import load_sample_images

    with wds.TarWriter(str(work / "photos.tar")) as tar:
        for number, photo in enumerate(load_sample_images().images):
            tar.write({"__key__": f"photo{number}", "png": photo[40:424, 128:512][::6, ::6][:size, :size]})
    functaconv.encode(base, str(work / "photos.tar"), work / "photos.zarr", overwrite=True)
    photos = functaconv.open_functaset(work / "photos.zarr")
    one, other = torch.from_numpy(photos.latents())
    columns = torch.arange(one.shape[1])[None, :, None]
    with torch.no_grad():
        between = photos.decode(functaconv.interpolate(photos, 0, 1, 5), size=(128, 128))
        beyond = photos.decode(torch.stack([one, other]), size=(180, 180), region=((-0.2, 1.2), (-0.2, 1.2)))
        beyond = torch.nn.functional.pad(torch.cat(list(beyond), 1), (0, 0, 140, 140), value=1.0)
        mixed = [torch.where(columns < cut, one, other) for cut in np.linspace(0, one.shape[1], 5).round()]
        mixture = photos.decode(torch.stack(mixed), size=(128, 128))
    return torch.cat([torch.cat(list(between), 1), beyond, torch.cat(list(mixture), 1)])


def mixed_by_layer(path: Path, size: int) -> torch.Tensor:
    """Rows: two made-up items, the one with more and more of the other's modulations, of the last layers first."""
    base = functaconv.read_base(path).base
    made = base.latent_mean + base.latent_std * torch.randn(4, 1, base.latent)
    with torch.no_grad():
        one, other = base.field.latent_map(made).unflatten(2, (-1, base.field.network.width)).split(2)
        layers, placement = torch.arange(one.shape[2])[:, None], base.placement(Grid((size, size)))
        cuts = [torch.where(layers < cut, one, other).flatten(2) for cut in range(len(layers), -1, -1)]
        values = [base.field.network.features(cut, placement).reshape(2, size, size, -1) for cut in cuts]
    return torch.cat(values, 2).flatten(0, 1)


def main(data: Path, work: Path, sites: str, minutes: float) -> None:
    begun = time.process_time()
    work.mkdir(parents=True, exist_ok=True)
    files = {split: sorted(map(str, data.glob(f"{split}*.tar"))) for split in ("train", "test")}
    train, test = images(files["train"]), images(files["test"])
    size, models = tuple(test.shape[1:3]), {}
    for name, recipe, latent in (("global latent", HERE / "recipe.toml", None), (f"{sites} latent", None, sites)):
        base = work / f"{name.split()[0]}.safetensors"
        functaconv.fit_base(files["train"], base, recipe=recipe, latent=latent, minutes=0.0)
        functaconv.encode(base, files["train"], base.with_suffix(".zarr"))
        models[name] = Linear.of_functaset(functaconv.open_functaset(base.with_suffix(".zarr")), size)
    models |= {f"PCA, {n} numbers": Linear.of_pca(train, min(n, len(train) - 1)) for n in (256, 1024)}
    siren = {"network": {"kind": "siren"}}
    layered = functaconv.fit_base(files["train"], work / "layers", latent="256", settings=siren, minutes=minutes).path
    torch.manual_seed(0)
    left = torch.arange(size[1]) < size[1] // 2
    masks = {"right half missing": left.expand(size), "90 % missing": torch.rand(size) < 0.1}
    scores: dict[str, dict[str, float]] = {}
    for name, known in masks.items():
        values = known[..., None].expand(*size, test.shape[-1]).flatten()
        found = {kind: model.filled(test.flatten(1), values).reshape(test.shape) for kind, model in models.items()}
        found["nearest"] = nearest(test, known)
        scores[name] = {kind: round(psnr(array, test, ~known), 2) for kind, array in found.items()}
    ten = scores["90 % missing"]
    best, rival = (max(list(models)[part], key=lambda kind: ten[kind]) for part in (slice(2), slice(2, None)))
    result = {
        "task": "explore", "data": f"{data.name}, 90 % of the pixels missing", "ours": f"{ten[best]:.2f} dB ({best})",
        "rival": f"{rival} {ten[rival]:.2f} dB, nearest {ten['nearest']:.2f} dB",
        "numbers": len(models[best].directions), "minutes": round((time.process_time() - begun) / 60, 1),
        "commit": subprocess.check_output(["git", "describe", "--always"], cwd=HERE, text=True).strip(),
        "command": "python examples/explore/run.py DATA/lfw64 WORK", "scores": scores,
    }  # fmt: skip
    (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    rows = picture(work / f"{sites}.safetensors", work, min(size))
    for name, values in (("explore", rows), ("layers", mixed_by_layer(layered, 128))):
        Image.fromarray((values.clamp(0, 1) * 255).round().byte().numpy()).save(work / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--sites", default="8x8x16")
    parser.add_argument("--minutes", type=float, default=3.0)
    main(**vars(parser.parse_args()))
