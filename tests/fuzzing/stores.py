"""The functaset loader with damaged stores: one file of a small store is changed, and all that is read is read."""

import io
import itertools
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import google_crc32c
import numpy as np
import zarr

from functaconv.conversion.seal import all_blocks
from functaconv.errors import FunctaconvError
from functaconv.functaset import Parts, Plan, arrays, open_functaset
from functaconv.functaset.attributes import Budgets
from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.grids import GridTable, write_grids
from functaconv.functaset.opening import read_attributes
from functaconv.functaset.schema import PARTS, Layout, columns, vectors
from functaconv.functaset.unfinished import create, existing_at
from functaconv.functaset.verify import problems_of
from functaconv.functaset.writer import assembled
from functaconv.inspection import inspect
from functaconv.modalities import Axes

from .bases import small_base
from .mutation import NUMBERS, mutated, mutated_json

SETTINGS: dict[str, Any] = {"shards": ["a.tar"]}
INSPECTED = 4
"""one in so many stores is inspected as well"""


class Stores:
    """The functaset loader: one file of a small store is damaged, all that a consumer reads is read."""

    def __init__(self) -> None:
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own in there
        self.folder = Path(tempfile.mkdtemp(prefix="functaconv-fuzz-", dir=place))
        layouts = {
            "plain": Layout(axes=("row", "column"), sites=(2, 3), latent=4, bits="float16"),
            "codes": Layout(axes=("row", "column"), latent=6, bits="8", tiled=True, overlap=(1, 2)),
            "grids": Layout(axes=("row", "column"), latent=6, bits="float32", modality="grid", variables=("t", "u")),
        }
        base = small_base(Axes("array", 2, 3), "gauss-newton", sites=(2, 3), numbers=4)
        self.stores = [make_store(self.folder / name, layout, base=base) for name, layout in layouts.items()]
        self.begun = {make_begun(self.folder / f"begun-{name}", layout): layout for name, layout in layouts.items()}
        self.stores += self.begun
        self.files = {
            store: {
                str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()
            }
            for store in self.stores
        }

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def case(self, random: Random) -> tuple[int, str, bytes | str]:
        """Number of the store, name of the file, and its content, or what is put in its place."""
        number = random.randrange(len(self.stores))
        files = self.files[self.stores[number]]
        if self.stores[number] in self.begun:
            return number, *_change_of_begun(random, files)
        data = [name for name in files if "/c/" in name]
        name = random.choice(["zarr.json"] * 12 + data * 2 + ["failed.jsonl", "report.json", "base.safetensors"])
        content = files[name]
        if random.random() < 0.03:
            return number, name, random.choice(("absent", "folder", "fifo", "link out", "link in", "endless"))
        if name == "zarr.json" and random.random() < 0.4:
            # the attributes are a text in it
            root = json.loads(content)
            said = mutated_json(random, json.loads(root["attributes"]["functaconv"]))
            root["attributes"]["functaconv"] = said.decode()
            return number, name, json.dumps(root).encode()
        if name.endswith(".json") and random.random() < 0.85:
            return number, name, mutated_json(random, json.loads(content))
        if name.endswith(".jsonl") and random.random() < 0.7:
            lines = [mutated_json(random, json.loads(line)) for line in content.splitlines()]
            return number, name, b"\n".join(lines) + b"\n" * random.randrange(3)
        if name in data and random.random() < 0.85:
            # whoever means harm makes the checksums right
            return number, name, _with_checksums(random, content, [files[other] for other in data])
        return number, name, mutated(random, content, list(files.values()))

    def run(self, case: tuple[int, str, bytes | str]) -> None:
        number, name, content = case
        store = self.stores[number]
        file = store / name
        try:
            self._put(file, content)
            if store in self.begun:
                inspect(store, verify=zlib.crc32(name.encode()) % 2 == 0)
                go_on(store, self.begun[store])
                return
            if zlib.crc32(content if isinstance(content, bytes) else b"") % INSPECTED == 0:
                inspect(store, verify=True)
            self._read(store)
        finally:
            self._put_back(store, file)

    def _put_back(self, store: Path, file: Path) -> None:
        """The file; of what has been gone on with all, and no others."""
        if store not in self.begun:
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
            file.write_bytes(self.files[store][str(file.relative_to(store))])
            return
        shutil.rmtree(store)
        for name, content in self.files[store].items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(content)

    def _put(self, file: Path, content: bytes | str) -> None:
        if isinstance(content, bytes):
            file.write_bytes(content)
            return
        file.unlink()
        outside = self.folder / "outside"
        outside.write_bytes(b"secret" * 100)
        match content:
            case "folder":
                file.mkdir()
            case "fifo":
                os.mkfifo(file)
            case "link out":
                file.symlink_to(outside)
            case "link in":
                file.symlink_to("zarr.json" if file.parent in self.stores else "../zarr.json")
            case "endless":
                file.symlink_to("/dev/zero")

    @staticmethod
    def _read(store: Path) -> None:
        # of what cannot be opened, all that is wrong is told
        found = read_attributes(store)
        problems = problems_of(found)
        try:
            functaset = open_functaset(store)
        except FunctaconvError:
            assert problems, "it is refused, and said to be sound"
            raise
        repr(functaset)
        for read in (
            lambda: (functaset.latents(), functaset.latents(normalize=True)),
            lambda: (
                functaset.keys,
                functaset.labels,
                functaset.shapes,
                functaset.mse,
                functaset.psnr,
                functaset.shards,
            ),
            lambda: (functaset[0], functaset[-1], functaset.tiles, functaset.index(str(functaset.keys[0]))),
            lambda: [functaset.meta(row) for row in range(len(functaset))],
            lambda: [functaset.grid_of(row) for row in range(len(functaset)) if functaset.grids],
            lambda: [(grid.latitude, grid.longitude) for grid in functaset.grids],
            lambda: functaset.failures,
            lambda: (functaset.report, functaset.base_bytes(), functaset.nbytes()),
            lambda: functaset.latents(np.array([0, len(functaset) - 1])),
        ):
            try:
                read()
            except FunctaconvError as error:
                if not problems:
                    raise AssertionError("what cannot be read is said to be sound") from error
            except IndexError:
                assert len(functaset) == 0


def make_store(path: Path, layout: Layout, count: int = 9, base: bytes = b"no base, for who only reads") -> Path:
    """A sealed store of a few rows, not by way of the writer: it is read that matters."""
    _fill(path, layout, count, base)
    return path


def make_begun(path: Path, layout: Layout) -> Path:
    """A store of two blocks that is done but for the sealing."""
    create(path, Plan(layout, SETTINGS), Budgets(batch_size=4, chunk=256), run=None)
    for number in range(2):
        Parts(path / PARTS).write(_block(layout, number))
    return path


def go_on(store: Path, layout: Layout) -> None:
    """As `encode` does when all of its blocks are there."""
    plan, parts = Plan(layout, SETTINGS), Parts(store / PARTS)
    existing_at(store).check(store, plan, overwrite=False)
    blocks = all_blocks(parts, ["a.tar"], plan.digest)
    ones = np.ones(layout.latent, np.float32)
    codec = layout.codec.for_latents(ones, ones, is_canonical=False)
    read = (parts.read(file, layout) for file in blocks.files)
    with assembled(store, read, layout, codec, rows=blocks.rows, has_meta=blocks.has_meta):
        pass


def _block(layout: Layout, number: int) -> Block:
    """A row and a failure."""
    table = GridTable()
    grid = table.number(np.linspace(-3, 3, 4), np.linspace(0, 5, 3))
    mask = table.mask_number(grid, np.arange(24).reshape(4, 3, 2) % 5 == 0)
    fixed = {
        "key": np.array(["a"], object),
        "meta": np.array(['{"a": 1}'], object),
        "shape": np.array([[4, 3]], np.int32),
        "record": np.full(1, 2 * number, np.int32),
        "grid": np.full(1, grid, np.int32),
        "mask": np.full(1, mask, np.int32),
        "time": np.zeros(1, np.int64),
    }
    wanted = [column for column in columns(layout, meta=True) if column.name != "shard"]
    return Block(
        shard=0, number=number, start=2 * number, stop=2 * number + 2, is_last=number == 1, source={"size": 100},
        run=Plan(layout, SETTINGS).digest,
        columns={one.name: fixed[one.name] if one.name in fixed else np.zeros((1, *one.tail), one.dtype)
                 for one in wanted},
        grids=table if layout.modality == "grid" else None,
        failures=[Failure("a.tar", 2 * number + 1, "b", "no image")],
    )  # fmt: skip


def _change_of_begun(random: Random, files: dict[str, bytes]) -> tuple[str, bytes | str]:
    """A file of an unfinished store, and what it becomes."""
    name = random.choice(sorted(files))
    content = files[name]
    if random.random() < 0.05:
        return name, random.choice(("absent", "folder", "fifo", "link out", "endless"))
    if not name.endswith(".npz"):
        return name, mutated_json(random, json.loads(content)) if random.random() < 0.9 else mutated(
            random, content, []
        )
    if random.random() < 0.2:
        return name, mutated(random, content, [])
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as changed:
        chosen = random.choice(archive.namelist())
        for member in archive.namelist():
            found = archive.read(member)
            if member == chosen and member in ("facts.npy", "key.npy", "meta.npy") and random.random() < 0.8:
                text = np.load(io.BytesIO(found)).tobytes()
                stored = io.BytesIO()
                np.save(stored, np.frombuffer(mutated_json(random, json.loads(text)), np.uint8))
                found = stored.getvalue()
            elif member == chosen:
                found = mutated(random, found, [])
            changed.writestr(member, found)
    return name, buffer.getvalue()


def _fill(path: Path, layout: Layout, count: int, base: bytes) -> None:
    chance = np.random.default_rng(0)
    group = zarr.create_group(path, zarr_format=3)
    texts = {
        "key": [f"dir/{row}é" for row in range(count)],
        "meta": [json.dumps({"name": row}) for row in range(count)],
    }
    table = GridTable()
    numbers = [table.number(np.linspace(-3, 3, 4), np.linspace(0, 5, 3 + number)) for number in range(2)]
    which = np.arange(count) % 2
    masks = [table.mask_number(numbers[at], chance.random((4, 3 + at, 2)) < 0.3) if row % 3 else -1
             for row, at in enumerate(which)]  # fmt: skip
    fixed = {"grid": which, "mask": masks, "shape": [[4, 3 + at] for at in which], "tile": [[0, 0, 9, 9]] * count}
    for column in columns(layout, meta=True):
        writer = arrays.RowWriter(arrays.create_column(group, column, count), column)
        if column.name in texts:
            rows = np.array(texts[column.name], object)
        elif column.name in fixed:
            rows = np.array(fixed[column.name], column.dtype)
        else:
            rows = (10 * chance.random((count, *column.tail))).astype(column.dtype)
        writer.add(rows)
        writer.flush()
    if layout.modality == "grid":
        write_grids(group, table)
    for name in vectors(layout):
        arrays.create_vector(group, name, np.linspace(0.5, 1, layout.latent))
    failed = {"shard": "a.tar", "record": 3, "key": "k", "reason": "no image"}
    (path / "base.safetensors").write_bytes(base)
    (path / "failed.jsonl").write_text((json.dumps(failed) + "\n") * 2)
    (path / "report.json").write_text(json.dumps({"count": count, "failed": 2, "psnr": {"mean": 30.5}}))
    channels = len(layout.variables) or 3
    attributes = {
        "format": "functaset", "version": 2, "modality": layout.modality, "axes": layout.axes,
        "coordinate_convention": "cells", "normaliser": {"offset": [0.0] * channels, "scale": [1.0] * channels},
        "solver": {"name": "gauss-newton", "steps": 2}, "sites": layout.sites, "latent": layout.latent,
        "canonical": True, "quantisation": {"bits": layout.bits}, "tiled": layout.tiled, "overlap": layout.overlap,
        "variables": layout.variables, "units": ["K"] * len(layout.variables),
        "psnr_peak": [1.0] * len(layout.variables), "summary": {"count": count, "failed": 2, "items": count},
        "base_sha256": sha256(base).hexdigest(), "tool_version": "0", "seed": 0, "input": [{"name": "a.tar"}],
        "settings": {"steps": 2},
    }  # fmt: skip
    described = {
        file.parent.relative_to(path).as_posix(): json.loads(file.read_bytes())
        for file in sorted(path.rglob("*/zarr.json"))
    }
    root = {"attributes": {"functaconv": json.dumps(attributes)}, "zarr_format": 3, "node_type": "group",
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": described}}  # fmt: skip
    (path / "zarr.json").write_text(json.dumps(root))


def _with_checksums(random: Random, content: bytes, others: list[bytes]) -> bytes:
    """A file of a store (one chunk, or up to two and an index) with a part changed, and the checksums made right."""
    index = 2 * 16 + 4
    entries = np.frombuffer(content[-index:-4], "<u8") if len(content) > index else np.zeros(4, np.uint64)
    is_sharded = entries[0] == 0 and sum(entries[1::2][entries[1::2] < 1 << 40].tolist()) == len(content) - index
    if not is_sharded:
        return _sealed(mutated(random, content[:-4], others))
    chunks = [
        content[int(at) : int(at + size)] for at, size in zip(entries[::2], entries[1::2], strict=True) if at < 1 << 40
    ]
    which = random.randrange(len(chunks) + 1)
    if which < len(chunks):
        changed = bytearray(chunks[which][:-4])
        if random.random() < 0.5:
            # blosc: version, versionlz, flags, typesize, then sizes uncompressed, of a block, compressed
            at = random.choice((2, 3, 4, 4, 8, 12, 12))
            size = 4 if at >= 4 else 1
            number = random.choice((*NUMBERS, len(changed))) % (1 << 8 * size)
            changed[at : at + size] = number.to_bytes(size, "little")
        else:
            changed = bytearray(mutated(random, bytes(changed), others))
            if random.random() < 0.7 and len(changed) >= 16:
                changed[12:16] = len(changed).to_bytes(4, "little")
        chunks[which] = _sealed(bytes(changed))
    starts = itertools.accumulate((len(chunk) for chunk in chunks), initial=0)
    table = [number for start, chunk in zip(starts, chunks, strict=False) for number in (start, len(chunk))]
    table += [2**64 - 1] * (4 - len(table))
    if which == len(chunks):
        table[random.randrange(4)] = random.choice((*NUMBERS, len(content), 5)) % 2**64
    return b"".join(chunks) + _sealed(np.array(table, "<u8").tobytes())


def _sealed(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")
