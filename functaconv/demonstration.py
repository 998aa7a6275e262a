"""The whole pipeline on photographs that ship with scikit-learn: pack, learn, encode, report, render."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from functaconv import conversion, metalearning
from functaconv.checkpoint import write_atomically
from functaconv.errors import MissingExtraError, OutputExistsError
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.packing import pack
from functaconv.rendering import View, arrays, render
from functaconv.reporting import report, to_csv

SIDE = 32
STRIDE = 12
TRAIN_SHARE = 0.75
"""of a photograph's width; the rest is for testing, so that no test pixel was seen in training"""
COLUMNS = 8
ZOOM = 8
MARKER = "demo.json"
LATENT = {"numbers": 16, "sites": [4, 4]}


@dataclass(frozen=True)
class Demonstration:
    """What came of `demonstrate`."""

    summary: dict[str, Any]
    sheet: Path
    next_steps: tuple[str, ...]


def demonstrate(
    directory: Path | str,
    *,
    minutes: float = 1.5,
    device: str = "auto",
    training_watcher: metalearning.Watcher | None = None,
    encoding_watcher: conversion.Watcher | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Demonstration:
    """Run every workflow once in a directory that is new, empty, or holds an earlier demo, which is replaced."""
    directory = Path(directory)
    photographs = _photographs()
    _clear(directory)
    announce(f"1/5 pack: tiles of {len(photographs)} photographs, {SIDE}x{SIDE} pixels")
    for split in ("train", "test"):
        count = _write_tiles(photographs, directory / "images" / split, split)
        pack(directory / "images" / split, directory / split)
        announce(f"    {split}: {count} images in {directory / split}")
    base, store = directory / "base.safetensors", directory / "test.zarr"
    announce(f"2/5 fit-base: {minutes:g} minutes")
    settings = {"latent": LATENT, "training": {"minutes": minutes}, "network": {"w0_first": 10.0}}
    metalearning.fit_base(str(directory / "train"), base, settings=settings, device=device, watcher=training_watcher)
    announce("3/5 encode the test images")
    conversion.encode(base, str(directory / "test"), store, device=device, watcher=encoding_watcher)
    announce("4/5 report, against the data and PCA")
    told = report(store, against=str(directory / "test"), train=str(directory / "train"), baseline="pca", device=device)
    to_csv(told, directory / "items.csv")
    announce(f"5/5 render: the images at {ZOOM} times their size, and a contact sheet")
    functaset = open_functaset(store)
    chosen = np.linspace(0, len(functaset) - 1, min(COLUMNS, len(functaset))).astype(int).tolist()
    render(functaset, directory / "renders", items=chosen, view=View(scale=ZOOM), device=device)
    sheet = directory / "contact-sheet.png"
    _contact_sheet(functaset, chosen, directory / "images" / "test", device).save(sheet)
    return Demonstration(told.summary, sheet, _next_steps(directory))


def _photographs() -> dict[str, np.ndarray]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise MissingExtraError(
            "the demo needs the photographs of scikit-learn, which is not installed",
            hint="pip install 'functaconv[demo]'",
        ) from None
    bunch = load_sample_images()
    return {Path(name).stem: image for name, image in zip(bunch.filenames, bunch.images, strict=True)}


def _clear(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        if not (directory / MARKER).is_file():
            raise OutputExistsError(
                f"{directory} exists and is not an earlier demo", hint="functaconv demo ANOTHER-DIRECTORY"
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / MARKER, json.dumps({"made_by": "functaconv demo"}).encode())


def _write_tiles(photographs: dict[str, np.ndarray], folder: Path, split: str) -> int:
    count = 0
    for name, photograph in photographs.items():
        cut = int(photograph.shape[1] * TRAIN_SHARE)
        part = photograph[:, :cut] if split == "train" else photograph[:, cut:]
        stride = STRIDE if split == "train" else SIDE
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in range(0, part.shape[0] - SIDE + 1, stride):
            for column in range(0, part.shape[1] - SIDE + 1, stride):
                tile = Image.fromarray(part[row : row + SIDE, column : column + SIDE])
                tile.save(folder / name / f"{name}-{row:03d}-{column:03d}.png")
                count += 1
    return count


def _contact_sheet(functaset: Functaset, chosen: list[int], originals: Path, device: str) -> Image.Image:
    """Columns of items; rows: original, reconstruction at native size, render at eight times the size."""
    side, gap, left, top = SIDE * 4, 6, 150, 34
    rows = ("original", f"reconstruction\nat {SIDE}x{SIDE}", f"rendered\nat {SIDE * ZOOM}x{SIDE * ZOOM}")
    sheet = Image.new("RGB", (left + len(chosen) * (side + gap) + gap, top + len(rows) * (side + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    quality = functaset.psnr
    native = list(arrays(functaset, chosen, device=device))
    large = list(arrays(functaset, chosen, view=View(scale=ZOOM), device=device))
    for number, label in enumerate(rows):
        draw.text((10, top + number * (side + gap) + side // 2 - 12), label, fill="black")
    for column, item in enumerate(chosen):
        key = native[column][0]
        x = left + column * (side + gap)
        draw.text((x, 12), f"{quality[item]:.1f} dB", fill="black")
        with Image.open(originals / f"{key}.png") as original:
            pictures = [original.convert("RGB"), _picture(native[column][1]), _picture(large[column][1])]
        for row, picture in enumerate(pictures):
            how = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((side, side), how), (x, top + row * (side + gap)))
    return sheet


def _picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8))


def _next_steps(directory: Path) -> tuple[str, ...]:
    def quoted(name: str) -> str:
        return shlex.quote(str(directory / name))

    return (
        "functaconv pack PHOTOS/ shards/",
        "functaconv fit-base shards/ base.safetensors --minutes 10",
        "functaconv encode base.safetensors shards/ photos.zarr",
        "functaconv report photos.zarr --against shards/",
        "functaconv render photos.zarr pictures/ --scale 4",
        f"functaconv inspect {quoted('test.zarr')} --verify",
    )
