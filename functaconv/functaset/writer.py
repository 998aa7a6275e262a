"""From finished blocks to a functaset: first its arrays, last the zarr.json that makes them a functaset.

The arrays are written in a folder of their own and moved to their place. So another process may do the same at the same
time, or may have done it before it was killed: the arrays are equal.
"""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic_core import to_json

from functaconv.files import replace_bytes, replacing, sync, sync_tree
from functaconv.functaset import arrays
from functaconv.functaset.attributes import Attributes, attributes_digest, canonical
from functaconv.functaset.blocks import Block
from functaconv.functaset.codecs import Codec
from functaconv.functaset.files import array_bytes, digest_of, read_json
from functaconv.functaset.grids import GridTable, write_grids
from functaconv.functaset.schema import BASE, FAILED, PARTS, REPORT, Layout, columns
from functaconv.functaset.stored_array import StoredArray

# numbers of a block: float64 takes four times the room of float16, or more
DECODED_TOGETHER = 1 << 23


@dataclass(frozen=True)
class Arrays:
    """The arrays of a functaset that is not sealed yet, in a folder of their own."""

    root: Path
    rows: int
    duplicates: int
    """rows that have the key of an earlier one"""

    def column(self, name: str) -> np.ndarray:
        """All rows of an array, such as "mse": what a report needs before sealing."""
        array = zarr.open_group(self.root, mode="r", use_consolidated=False)[name]
        if not isinstance(array, zarr.Array):
            raise ValueError(f"{name} is not an array")
        return StoredArray(self.root, name, array).read()

    def nbytes(self) -> int:
        """Bytes on disk: what `Functaset.nbytes` gives once it is sealed."""
        return array_bytes(self.root)


@contextmanager
def assembled(
    path: Path, blocks: Iterable[Block], layout: Layout, codec: Codec, *, rows: int, has_meta: bool
) -> Iterator[Arrays]:
    """Write the arrays of the unfinished functaset at `path`: `blocks` in the order of the input, `rows` rows in all.

    Arrays that were not sealed are removed when the context ends.
    """
    root = path / PARTS / f"arrays-{uuid.uuid4().hex}"
    try:
        group = zarr.create_group(root, zarr_format=3)
        writers = [
            (column, arrays.RowWriter(arrays.create_column(group, column, rows), column))
            for column in columns(layout, meta=has_meta)
        ]
        moments, hashes = _Moments(layout.latent), [np.empty(0, np.int64)]
        together = max(1, DECODED_TOGETHER // layout.numbers)
        table = GridTable()
        with replacing(root / FAILED) as failed:
            for block in blocks:
                if block.grids is not None:
                    grid, mask = table.merge(block.grids, block.columns["grid"], block.columns["mask"])
                    block = replace(block, columns={**block.columns, "grid": grid, "mask": mask})
                for column, writer in writers:
                    writer.add(block.column(column.name))
                keys = block.columns["key"]
                keys = keys[block.columns["view"] == 0] if layout.has_views else keys
                hashes.append(np.fromiter(map(hash, keys), np.int64, len(keys)))
                for start in range(0, len(block), together):
                    moments.add(codec.decode(block.columns["latent"][start : start + together]))
                for failure in block.failures:
                    failed.write(json.dumps(asdict(failure)).encode() + b"\n")
        for _, writer in writers:
            writer.flush()
        if layout.kind.has_coordinates:
            write_grids(group, table)
        arrays.create_vector(group, "latent_mean", moments.mean)
        arrays.create_vector(group, "latent_std", moments.std)
        for name, values in codec.constants.items():
            arrays.create_vector(group, name, values)
        # eight bytes a key: two of a billion keys that differ may be taken for the same
        every = np.concatenate(hashes)
        yield Arrays(root, rows, len(every) - len(np.unique(every)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def seal(path: Path, made: Arrays, attributes: Attributes, base: bytes, report: Mapping[str, Any]) -> None:
    """Make the unfinished functaset at `path` a finished one of these arrays, without its blocks. May be repeated."""
    # zarr does not fsync; all must be on the disk before the attributes say that it is
    sync_tree(made.root)
    for child in made.root.iterdir():
        place = path / child.name
        if child.name == "zarr.json":
            # it comes last, with the attributes
            continue
        if place.is_symlink():
            place.unlink()
        try:
            child.rename(place)
        except OSError:
            # the same array is there, moved by another process or before this one was killed
            if not place.is_dir():
                raise
    replace_bytes(path / BASE, base)
    replace_bytes(path / REPORT, to_json(dict(report), indent=2, inf_nan_mode="null"))
    sealed = canonical(attributes.model_dump())
    sealed["files_sha256"] = {name: digest_of(path, name) for name in (REPORT, FAILED)}
    sealed["attributes_sha256"] = attributes_digest(sealed)
    root = {
        # one text: attributes that are tables cannot be written to NetCDF
        "attributes": {"functaconv": json.dumps(sealed, allow_nan=False)},
        "zarr_format": 3,
        "node_type": "group",
        # as zarr.consolidate_metadata writes it, which would warn of every file that is no array,
        # and replace zarr.json a second time
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": {
                file.parent.relative_to(path).as_posix(): read_json(file)
                for file in sorted(path.rglob("*/zarr.json"))
                # arrays of other processes, and an old functaset that was replaced, may lie among the blocks
                if not file.is_relative_to(path / PARTS)
            },
        },
    }
    sync(path)
    replace_bytes(path / "zarr.json", json.dumps(root, indent=2, allow_nan=False).encode())
    sweep(path)


def sweep(path: Path) -> None:
    """Remove the blocks of a sealed functaset, also those that a late process wrote."""
    shutil.rmtree(path / PARTS, ignore_errors=True)


class _Moments:
    """Mean and standard deviation per latent, in float64, of values that come in portions."""

    def __init__(self, latent: int) -> None:
        self._count = 0
        self._mean = np.zeros(latent)
        self._squares = np.zeros(latent)

    def add(self, latents: np.ndarray) -> None:
        values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        if not len(values):
            return
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        # Chan, Golub and LeVeque's update: no cancellation when the mean is large
        total = self._count + len(values)
        shift = mean - self._mean
        self._squares += squares + shift**2 * (self._count * len(values) / total)
        self._mean += shift * (len(values) / total)
        self._count = total

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def std(self) -> np.ndarray:
        """0 for a latent that never varies; 1 when there are no items."""
        return np.sqrt(self._squares / self._count) if self._count else np.ones_like(self._squares)
