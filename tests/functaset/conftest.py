"""What encoding does to a writer, with made-up items: begin where it stopped, commit, assemble, seal."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.functaset import (
    Attributes,
    Block,
    Failure,
    FunctasetWriter,
    Layout,
    Part,
    Quantisation,
    Quantiser,
    Solver,
)

BASE = b"the base"
LAYOUTS = {
    "global": Layout(axes=("row", "column"), latent=6, bits="float16"),
    "one": Layout(axes=("position",), sites=(3,), latent=4, bits="float32"),
    "two": Layout(axes=("row", "column"), sites=(2, 3), latent=4, bits="float16"),
    "three": Layout(axes=("depth", "row", "column"), sites=(2, 2, 2), latent=2, bits="float32"),
    "codes": Layout(axes=("row", "column"), sites=(2, 2), latent=4, bits="8"),
    "tiled": Layout(axes=("row", "column"), sites=(2, 2), latent=4, bits="float16", tiled=True),
}


def quantiser_of(layout: Layout) -> Quantiser:
    if layout.bits == "8":
        return Quantiser.for_range(np.full(layout.latent, -4.0), np.full(layout.latent, 4.0))
    return Quantiser(layout.bits)


def latents_of(layout: Layout, part: int, number: int, rows: int) -> np.ndarray:
    generator = np.random.default_rng([part, number])
    return generator.normal(size=(rows, *layout.sites, layout.latent)).astype(np.float32)


def block_of(layout: Layout, part: int, number: int, rows: int = 5, *, meta: bool = True) -> Block:
    """`rows` items and one failure."""
    generator = np.random.default_rng([part, number, 1])
    axes = len(layout.axes)
    keys = [f"{part}/{number}/{row}é" for row in range(rows)]
    return Block(
        latent=quantiser_of(layout).quantise(latents_of(layout, part, number, rows)),
        keys=keys,
        label=np.arange(rows, dtype=np.int64) - 1,
        shape=np.full((rows, axes), 16 + part, np.int32),
        mse=generator.random(rows, np.float32),
        psnr=generator.random(rows, np.float32),
        record=np.arange(rows, dtype=np.int32) + number * (rows + 1),
        records=(number + 1) * (rows + 1),
        last_key=f"{part}/{number}/bad",
        meta=[json.dumps({"name": key}) for key in keys] if meta else None,
        tile=np.full((rows, 2 * axes), number, np.int32) if layout.tiled else None,
        failures=[Failure(f"shard-{part}", rows, f"{part}/{number}/bad", "not an image")],
    )


def attributes_of(layout: Layout, count: int, failed: int, **changes: Any) -> Attributes:
    found: dict[str, Any] = {
        "modality": layout.modality,
        "axes": layout.axes,
        "coordinate_convention": "cell centres of the unit square",
        "normaliser": {"offset": [0.5], "scale": [0.5]},
        "solver": Solver(name="gradient", steps=3),
        "sites": layout.sites,
        "latent": layout.latent,
        "quantisation": Quantisation(bits=layout.bits),
        "tiled": layout.tiled,
        "summary": {"count": count, "failed": failed, "psnr": 30.5},
        "base_sha256": sha256(BASE).hexdigest(),
        "tool_version": "0.1.0",
        "seed": 0,
        "input": [{"size": 100}],
        "settings": {"seed": 0, "solver": {"steps": 3}},
    }
    return Attributes(**{**found, **changes})


def encode(
    path: Path,
    layout: Layout,
    *,
    parts: int = 2,
    blocks: int = 2,
    rows: int = 5,
    meta: bool = True,
    canonical: bool = False,
) -> Path:
    """The functaset at `path`, from wherever an earlier run left it."""
    writer = FunctasetWriter.open(path, layout, {"seed": 0, "solver": {"steps": 3}})
    if writer.finished:
        return path
    for part in range(parts):
        progress = writer.begin(Part(part), {"size": 100 + part})
        if progress.done:
            continue
        for number in range(progress.blocks, blocks):
            writer.commit(Part(part), number, block_of(layout, part, number, rows, meta=meta))
        writer.end(Part(part), blocks * (rows + 1))
    writer.assemble(quantiser_of(layout))
    totals = writer.totals()
    summary = {"count": totals.rows, "failed": totals.failed}
    writer.seal(attributes_of(layout, totals.rows, totals.failed, canonical=canonical), BASE, {**summary, "psnr": 30.5})
    return path


def tree(path: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of these tests would be fsync, which shows only in a power cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request: pytest.FixtureRequest) -> Layout:
    """Each kind of functaset once."""
    found: Layout = request.param
    return found


@pytest.fixture
def chunks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and shards so small that a few items fill several."""
    monkeypatch.setattr("functaconv.functaset.arrays._CHUNK_BYTES", 128)
    monkeypatch.setattr("functaconv.functaset.arrays._CHUNKS_PER_SHARD", 2)


@pytest.fixture
def store(tmp_path: Path, chunks_of_two: None) -> Path:
    """A sound functaset of 20 items with 2 x 3 sites in several shards."""
    return encode(tmp_path / "out.zarr", LAYOUTS["two"])


@pytest.fixture
def flip() -> Callable[..., None]:
    """Flip one bit of a file."""

    def flip_bit(file: Path, place: int) -> None:
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(bytes(content))

    return flip_bit
