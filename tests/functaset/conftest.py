"""What encoding does to a store, with made-up items: begin where it stopped, write blocks, seal."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.conversion.seal import all_blocks
from functaconv.functaset import schema
from functaconv.functaset.attributes import Attributes, Budgets, Quantisation, Solver
from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.codecs import Codec
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import PARTS, Layout
from functaconv.functaset.unfinished import Parts, create, digest_of_plan, existing_at, plan_of, recover
from functaconv.functaset.writer import assembled, seal, sweep

BASE = b"the base"
SETTINGS: dict[str, Any] = {"seed": 0, "steps": 3}
BUDGETS = Budgets(batch_size=4, chunk=256)
LAYOUTS = {
    "global": Layout(axes=("row", "column"), latent=6, bits="float16"),
    "one": Layout(axes=("position",), sites=(3,), latent=4, bits="float32"),
    "two": Layout(axes=("row", "column"), sites=(2, 3), latent=4, bits="float16"),
    "three": Layout(axes=("depth", "row", "column"), sites=(2, 2, 2), latent=2, bits="float32"),
    "codes": Layout(axes=("row", "column"), sites=(2, 2), latent=4, bits="8"),
    "tiled": Layout(axes=("row", "column"), sites=(2, 2), latent=4, bits="float16", tiled=True, overlap=(3, 2)),
}


def codec_of(layout: Layout) -> Codec:
    return layout.codec.for_latents(np.zeros(layout.latent), np.full(layout.latent, 4 / 4.5), is_canonical=False)


def latents_of(layout: Layout, shard: int, number: int, rows: int) -> np.ndarray:
    generator = np.random.default_rng([shard, number])
    return generator.normal(size=(rows, *layout.sites, layout.latent)).astype(np.float32)


def block_of(
    layout: Layout, shard: int, number: int, rows: int = 5, *, meta: bool = True, is_last: bool = False
) -> Block:
    """`rows` items and one failure."""
    generator = np.random.default_rng([shard, number, 1])
    axes = len(layout.axes)
    keys = [f"{shard}/{number}/{row}é" for row in range(rows)]
    start = number * (rows + 1)
    columns = {
        "latent": codec_of(layout).encode(latents_of(layout, shard, number, rows)),
        "key": np.array(keys, object),
        "label": np.arange(rows, dtype=np.int64) - 1,
        "shape": np.full((rows, axes), 16 + shard, np.int32),
        "mse": generator.random(rows, np.float32),
        "psnr": generator.random(rows, np.float32),
        "record": np.arange(rows, dtype=np.int32) + start,
    }
    if meta:
        columns["meta"] = np.array([json.dumps({"name": key}) for key in keys], object)
    if layout.tiled:
        columns["tile"] = np.full((rows, 2 * axes), number, np.int32)
    grids = None
    if layout.kind.has_coordinates:
        grids = GridTable()
        grid = grids.number(np.linspace(-3, 3, 16 + shard), np.linspace(0, 5, 16 + shard))
        missing = generator.random((16 + shard, 16 + shard, len(layout.variables))) < 0.3
        columns["mask"] = np.full(rows, grids.mask_number(grid, missing), np.int32)
    for column in schema.columns(layout, meta=meta):
        if column.name != "shard":
            columns.setdefault(column.name, np.zeros((rows, *column.tail), column.dtype))
    return Block(
        shard=shard,
        number=number,
        start=start,
        stop=start + rows + 1,
        is_last=is_last,
        source={"size": 100 + shard},
        run=digest_of_plan(plan_of(layout, SETTINGS)),
        columns=columns,
        grids=grids,
        failures=[Failure(f"shard-{shard}", start + rows, f"{shard}/{number}/bad", "not an image", shard)],
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
        "overlap": layout.overlap,
        "variables": layout.variables,
        "units": ["K"] * len(layout.variables),
        "psnr_peak": [1.0] * len(layout.variables),
        "summary": {"count": count, "failed": failed, "psnr": 30.5},
        "base_sha256": sha256(BASE).hexdigest(),
        "tool_version": "0.1.0",
        "seed": 0,
        "input": [{"size": 100}],
        "settings": SETTINGS,
        "budgets": BUDGETS,
    }
    return Attributes(**{**found, **changes})


def begin(path: Path, layout: Layout, settings: dict[str, Any] = SETTINGS, *, overwrite: bool = False) -> Parts:
    """The blocks of an unfinished functaset, which is begun or joined."""
    recover(path)
    plan, found = plan_of(layout, settings), existing_at(path)
    found.check(path, plan, overwrite=overwrite)
    if overwrite or not found.exists:
        create(path, plan, BUDGETS, run=None)
    return Parts(path / PARTS)


def finish(path: Path, layout: Layout, shards: int = 2, *, canonical: bool = False, **changes: Any) -> Path:
    """Seal the finished blocks."""
    parts = Parts(path / PARTS)
    names, run = [f"shard-{number}.tar" for number in range(shards)], digest_of_plan(plan_of(layout, SETTINGS))
    blocks = all_blocks(parts, names, run)
    read = (parts.read(file, layout) for file in blocks.files)
    with assembled(path, read, layout, codec_of(layout), rows=blocks.rows, has_meta=blocks.has_meta) as made:
        attributes = attributes_of(layout, blocks.rows, blocks.failed, canonical=canonical, **changes)
        seal(path, made, attributes, BASE, {"count": blocks.rows, "failed": blocks.failed, "psnr": 30.5})
    return path


def encode(
    path: Path,
    layout: Layout,
    *,
    shards: int = 2,
    blocks: int = 2,
    rows: int = 5,
    meta: bool = True,
    canonical: bool = False,
) -> Path:
    """The functaset at `path`, from wherever an earlier run left it."""
    parts = begin(path, layout)
    if existing_at(path).is_finished:
        sweep(path)
        return path
    for shard in range(shards):
        for number in range(blocks):
            if not parts.has(shard, number):
                is_last = number == blocks - 1
                parts.write(block_of(layout, shard, number, rows, meta=meta, is_last=is_last))
        if not blocks:
            empty = block_of(layout, shard, 0, 0, meta=meta, is_last=True)
            parts.write(replace(empty, stop=0, failures=[]))
    return finish(path, layout, shards, canonical=canonical)


def tree(path: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A functaset of 20 items of each layout, to be read only."""
    folder = tmp_path_factory.mktemp("stores")
    return {name: encode(folder / f"{name}.zarr", layout, canonical=True) for name, layout in LAYOUTS.items()}


@pytest.fixture(params=LAYOUTS)
def name(request: pytest.FixtureRequest) -> str:
    """Each kind of functaset once."""
    found: str = request.param
    return found


@pytest.fixture
def store(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A sound functaset of 20 items with 2 x 3 sites, to be damaged."""
    return shutil.copytree(stores["two"], tmp_path / "out.zarr")


MANY = 1100
"""items of `large`: chunks of 32 and files of 512 rows"""


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A functaset whose latents, of 16 KiB each, take three files."""
    path, layout = tmp_path_factory.mktemp("large") / "large.zarr", Layout(axes=("row",), latent=4096, bits="float32")
    return encode(path, layout, shards=1, blocks=1, rows=MANY)


@pytest.fixture
def large(many: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(many, tmp_path / "large.zarr")


@pytest.fixture
def flip() -> Callable[..., None]:
    """Flip one bit of a file."""

    def flip_bit(file: Path, place: int) -> None:
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(bytes(content))

    return flip_bit
