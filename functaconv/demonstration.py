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

from functaconv import conversion, training
from functaconv.errors import MissingExtraError, OutputExistsError
from functaconv.files import replace_bytes
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.packing import pack
from functaconv.rendering import View, arrays, render
from functaconv.reporting import report, to_csv

SIDE = 32
# photographs are halved first: tiles of the full size show little but sky
SHRINK = 2
# no multiple of a cell: overlapping tiles must not share cells, which would compress to nothing
STRIDES = {"train": 6, "validation": 20, "test": 20}
# part of a photograph's width that is for validation and testing: none of its pixels is seen in training
TEST_BAND = (0.35, 0.68)
# pixels down and to the right, from test tiles to those that choose the base: nothing in training is like the flower in
# the middle of a photograph, so training tiles held out would look 5 dB better than test tiles
VALIDATION_SHIFT = 10
COLUMNS = 6
ZOOM = 8
MARKER = "demo.json"
# files of an earlier demo, which are replaced; others in its directory stay
MADE = (
    "images",
    "train",
    "validation",
    "test",
    "base.safetensors",
    "base.safetensors.training",
    "test.zarr",
    "items.csv",
    "renders",
    "contact-sheet.png",
)
LATENT = {"numbers": 32, "sites": [4, 4]}


@dataclass(frozen=True)
class Demonstration:
    """The result of `demonstrate`."""

    summary: dict[str, Any]
    sheet: Path
    next_steps: tuple[str, ...]


def demonstrate(
    directory: Path | str,
    *,
    minutes: float = 0.0,
    device: str = "auto",
    training_watcher: training.Watcher | None = None,
    encoding_watcher: conversion.Watcher | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Demonstration:
    """Run every workflow once in a directory that is new, empty, or holds an earlier demo, which is replaced."""
    directory = Path(directory)
    photographs = _photographs()
    _clear(directory)
    announce(f"1/5 pack: tiles of {len(photographs)} photographs, {SIDE}x{SIDE} pixels")
    for split in STRIDES:
        count = _write_tiles(photographs, directory / "images" / split, split)
        pack(directory / "images" / split, directory / split)
        announce(f"    {split}: {count} images in {directory / split}")
    base, store = directory / "base.safetensors", directory / "test.zarr"
    announce(f"2/5 fit-base: {minutes:g} minutes")
    settings = {"latent": LATENT, "training": {"minutes": minutes}}
    training.fit_base(
        str(directory / "train"), base, settings=settings, validation=str(directory / "validation"),
        device=device, watcher=training_watcher,
    )  # fmt: skip
    announce("3/5 encode the test images")
    conversion.encode(base, str(directory / "test"), store, device=device, watcher=encoding_watcher)
    announce("4/5 report, against the data and PCA")
    result = report(
        store, against=str(directory / "test"), train=str(directory / "train"), baseline="pca", device=device
    )
    to_csv(result, directory / "items.csv")
    announce(f"5/5 render: the images at {ZOOM} times their size, and a contact sheet")
    functaset = open_functaset(store)
    chosen = _worth_seeing(functaset, device)
    render(functaset, directory / "renders", items=chosen, view=View(scale=ZOOM), device=device)
    sheet = directory / "contact-sheet.png"
    _contact_sheet(functaset, chosen, directory / "images" / "test", device).save(sheet)
    return Demonstration(result.summary, sheet, _next_steps(directory))


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
        for name in MADE:
            shutil.rmtree(directory / name) if (directory / name).is_dir() else (directory / name).unlink(
                missing_ok=True
            )
    directory.mkdir(parents=True, exist_ok=True)
    replace_bytes(directory / MARKER, json.dumps({"made_by": "functaconv demo"}).encode())


def _write_tiles(photographs: dict[str, np.ndarray], folder: Path, split: str) -> int:
    count, stride = 0, STRIDES[split]
    shift = VALIDATION_SHIFT if split == "validation" else 0
    for name, photograph in photographs.items():
        height, width = photograph.shape[0] // SHRINK, photograph.shape[1] // SHRINK
        small = Image.fromarray(photograph).resize((width, height), Image.Resampling.LANCZOS)
        left, right = (round(share * width) for share in TEST_BAND)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for low, high in [(0, left), (right, width)] if split == "train" else [(left + shift, right)]:
            for row in range(shift, height - SIDE + 1, stride):
                for column in range(low, high - SIDE + 1, stride):
                    tile = small.crop((column, row, column + SIDE, row + SIDE))
                    tile.save(folder / name / f"{name}-{row:03d}-{column:03d}.png")
                    count += 1
    return count


def _worth_seeing(store: Functaset, device: str) -> list[int]:
    """Some of the items with the most in them, in order."""
    contrast = np.array([array.std() for _, array in arrays(store, device=device)])
    busiest = np.argsort(-contrast)[: max(COLUMNS, len(contrast) // 2)]
    return sorted(busiest[np.linspace(0, len(busiest) - 1, min(COLUMNS, len(busiest))).astype(int)].tolist())


def _contact_sheet(functaset: Functaset, chosen: list[int], originals: Path, device: str) -> Image.Image:
    """Columns of items; rows: original, reconstruction at native size, render at eight times the size."""
    side, gap, left, top = SIDE * ZOOM, 8, 150, 34
    rows = ("original", f"reconstruction\nat {SIDE}x{SIDE}", f"rendered\nat {side}x{side}")
    sheet = Image.new("RGB", (left + len(chosen) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    quality = functaset.psnr
    native = list(arrays(functaset, chosen, device=device))
    large = list(arrays(functaset, chosen, view=View(scale=ZOOM), device=device))
    for number, label in enumerate(rows):
        draw.multiline_text((16, top + number * (side + gap) + side // 2 - 16), label, fill="black", font_size=16)
    for column, item in enumerate(chosen):
        key = native[column][0]
        x = left + column * (side + gap)
        draw.text((x, 8), f"{quality[item]:.1f} dB", fill="black", font_size=16)
        with Image.open(originals / f"{key}.png") as original:
            pictures = [original.convert("RGB"), _picture(native[column][1]), _picture(large[column][1])]
        for row, picture in enumerate(pictures):
            shown = picture.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(shown, (x, top + row * (side + gap)))
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
