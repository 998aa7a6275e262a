"""Reading a functaset: rows as numpy, by number or key, with damage reported and never passed on."""

import difflib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from operator import index as as_index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from functaconv.errors import InputError
from functaconv.functaset import arrays
from functaconv.functaset.blocks import Failure
from functaconv.functaset.files import array_bytes, read_json
from functaconv.functaset.grids import StoredGrid, read_grids
from functaconv.functaset.ledger import is_unfinished
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.schema import (
    BASE,
    FAILED,
    FORMAT,
    REPORT,
    Column,
    check_keep,
    columns,
    parse_attributes,
    vectors,
)

if TYPE_CHECKING:
    from functaconv.functaset.dataset import LatentDataset


@dataclass(frozen=True, eq=False)
class Row:
    """One converted item."""

    latent: np.ndarray
    """float32 [*sites, latent]"""
    key: str
    label: int
    shape: tuple[int, ...]
    mse: float
    psnr: float
    part: int
    meta: Any
    tile: tuple[int, ...] | None
    """origin, then the shape of the whole image"""


@dataclass(frozen=True)
class Size:
    """Bytes on disk."""

    store: int
    """the arrays and failures: what grows with the items"""
    base: int


class Functaset:
    """A functaset as it lies on disk; nothing is read before it is asked for.

    `open_functaset` is the way in: it also checks that the arrays are what the attributes say.
    """

    def __init__(self, path: Path, root: dict[str, Any], keep: int | None = None) -> None:
        self.path = path
        self.attributes = parse_attributes(root.get("attributes", {}).get("functaconv"), path)
        self.layout = self.attributes.layout
        self._root = root
        self._measures: dict[str, np.ndarray] = {}
        if keep is not None:
            check_keep(keep, self.layout.latent, canonical=self.attributes.canonical)
            self.layout = self.layout.model_copy(update={"latent": keep})
        try:
            # never from the folders: consolidated metadata is part of what was sealed
            self._group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=True)
            self._arrays = {
                name: member for name, member in self._group.members(max_depth=None) if isinstance(member, zarr.Array)
            }
        # zarr and its codecs raise many kinds on metadata that make no sense
        except Exception as error:
            raise InputError(
                f"{path}: the description of the arrays is damaged: {error}",
                hint="restore zarr.json from a copy, or encode again with --overwrite",
            ) from error

    def __len__(self) -> int:
        return self.attributes.count

    def __repr__(self) -> str:
        sites = "x".join(str(size) for size in (*self.layout.sites, self.layout.latent))
        return f"Functaset({str(self.path)!r}: {len(self)} items, latent {sites} {self.layout.bits})"

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker opens it anew: nothing of zarr's threads and handles travels
        return _open, (self.path, self.layout.latent if self.is_truncated else None)

    def truncated(self, keep: int) -> "Functaset":
        """The same items with only the first, most important `keep` numbers of every site.

        Nothing is fitted anew and nothing copied: latents and moments are cut as they are read, and the base that
        decodes them is cut along. `mse` and `psnr` remain those of all numbers.
        """
        check_keep(keep, self.layout.latent, canonical=self.attributes.canonical)
        return self if keep == self.layout.latent else Functaset(self.path, self._root, keep)

    @property
    def is_truncated(self) -> bool:
        """Some of the stored numbers are left out."""
        return self.layout.latent < self.attributes.latent

    @property
    def modulation(self) -> zarr.Array[Any]:
        """The latents as stored, `[item, *sites, latent]`, all numbers of them."""
        return self._arrays["modulation"]

    @cached_property
    def keys(self) -> np.ndarray:
        return arrays.read(self._arrays["key"], slice(None)).astype(object)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64, -1 for none."""
        return arrays.read(self._arrays["label"], slice(None))

    @cached_property
    def shapes(self) -> np.ndarray:
        """int32 [item, axis]: native resolution."""
        return arrays.read(self._arrays["shape"], slice(None))

    @cached_property
    def mse(self) -> np.ndarray:
        return arrays.read(self._arrays["mse"], slice(None))

    @cached_property
    def psnr(self) -> np.ndarray:
        return arrays.read(self._arrays["psnr"], slice(None))

    @cached_property
    def parts(self) -> np.ndarray:
        """int32 [item]: which input each item came from."""
        return arrays.read(self._arrays["part"], slice(None))

    @cached_property
    def tiles(self) -> np.ndarray | None:
        """int32 [item, 2 * axis]: origin, then the shape of the whole image; None when nothing is tiled."""
        return arrays.read(self._arrays["tile"], slice(None)) if self.layout.tiled else None

    @cached_property
    def grids(self) -> list[StoredGrid]:
        """Axes and masks of latitude-longitude grids; empty for items of other kinds."""
        return read_grids(self._arrays) if self.layout.modality == "grid" else []

    def grid_of(self, item: int) -> tuple[StoredGrid, np.ndarray | None]:
        """The grid of an item, and where its values are missing: bool `[row, column, variable]`, None for nowhere."""
        row = self._row(item)
        number, mask = int(self.measure("grid")[row]), int(self.measure("mask")[row])
        if not 0 <= number < len(self.grids) or not -1 <= mask < self.grids[number].masks:
            raise InputError(f"{self.path}: row {row} has the grid {number} and mask {mask}, which are not there")
        grid = self.grids[number]
        return grid, None if mask < 0 else grid.mask(mask)

    def measure(self, name: str) -> np.ndarray:
        """A column that functasets of this kind have besides those of all, such as `accuracy` or `time`."""
        if name not in self._measures:
            self._measures[name] = arrays.read(self._arrays[name], slice(None))
        return self._measures[name]

    def meta(self, item: int) -> Any:
        """What the input said about the item besides its array, or None."""
        if "meta" not in self._arrays:
            return None
        row = self._row(item)
        return json.loads(str(arrays.read(self._arrays["meta"], slice(row, row + 1))[0]))

    @cached_property
    def quantiser(self) -> Quantiser:
        if self.layout.bits != "8":
            return Quantiser(self.layout.bits)
        scale, offset = self._vector("modulation_scale"), self._vector("modulation_offset")
        try:
            return Quantiser("8", scale=scale, offset=offset)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}", hint="`functaconv inspect --verify` lists it") from error

    def latents(self, rows: slice | np.ndarray | None = None, *, normalize: bool = False) -> np.ndarray:
        """float32 `[item, *sites, latent]`; normalised to mean 0 and deviation 1 per latent when asked."""
        found = self.quantiser.dequantise(arrays.read(self.modulation, self._selection(rows)))
        if self.is_truncated:
            # a copy: a view would keep all numbers in memory
            found = found[..., : self.layout.latent].copy()
        if normalize:
            mean, std = self._moments
            found = (found - mean) / std
        return found

    def __getitem__(self, item: int) -> Row:
        row = self._row(item)
        return Row(
            latent=self.latents(slice(row, row + 1))[0],
            key=str(self.keys[row]),
            label=int(self.labels[row]),
            shape=tuple(self.shapes[row].tolist()),
            mse=float(self.mse[row]),
            psnr=float(self.psnr[row]),
            part=int(self.parts[row]),
            meta=self.meta(row),
            tile=None if self.tiles is None else tuple(self.tiles[row].tolist()),
        )

    def index(self, key: str) -> int:
        """The row of the item with this key."""
        found = self._rows_by_key.get(key)
        if found is None:
            near = difflib.get_close_matches(key, self._rows_by_key, n=3, cutoff=0.5)
            hint = f"near it: {', '.join(near)}" if near else "`functaconv report --csv` lists the keys"
            raise InputError(f"{self.path} has no item with key {key!r}", hint=hint)
        return found

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """First row and float32 latents of each run of `size` items, in order."""
        for start in range(0, len(self), size):
            yield start, self.latents(slice(start, start + size))

    def torch_dataset(self, normalize: bool = False) -> "LatentDataset":
        """A torch `Dataset` of (latent, label); needs torch, which reading otherwise does not."""
        from functaconv.functaset.dataset import LatentDataset

        return LatentDataset(self, normalize=normalize)

    @cached_property
    def failures(self) -> list[Failure]:
        """The records that could not be converted."""
        path = self.path / FAILED
        try:
            return [Failure(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read: {error}", hint="restore it from a copy") from error

    @property
    def report(self) -> dict[str, Any]:
        """What `encode` reported."""
        found = read_json(self.path / REPORT)
        if not isinstance(found, dict):
            raise InputError(f"{self.path / REPORT}: expected an object, found {found!r:.80}")
        return found

    def base_bytes(self) -> bytes:
        """The base, as it was when the items were encoded."""
        path = self.path / BASE
        try:
            found = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}", hint="put the base back") from error
        digest = sha256(found).hexdigest()
        if digest != self.attributes.base_sha256:
            raise InputError(
                f"{path}: found sha256 {digest}, expected {self.attributes.base_sha256}",
                hint="put back the base that encoded these items: any other decodes them to nonsense",
            )
        return found

    def nbytes(self) -> Size:
        return Size(store=array_bytes(self.path), base=(self.path / BASE).stat().st_size)

    def expected(self) -> list[tuple[Column, int]]:
        """The arrays that the attributes promise, each with its length."""
        layout = self.attributes.layout
        return [
            *((column, len(self)) for column in columns(layout, meta="meta" in self._arrays)),
            *((Column(name, "float32"), layout.latent) for name in vectors(layout)),
        ]

    def array(self, name: str) -> zarr.Array[Any] | None:
        """The array as zarr gives it, None if there is none of this name."""
        return self._arrays.get(name)

    @cached_property
    def _rows_by_key(self) -> dict[str, int]:
        # backwards: of equal keys the first one counts
        return {str(key): row for row, key in reversed(list(enumerate(self.keys)))}

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (self._vector(name)[: self.layout.latent] for name in ("modulation_mean", "modulation_std"))
        # a latent that never varies is 0 when normalised
        return mean, np.where(std > 0, std, np.float32(1))

    def _vector(self, name: str) -> np.ndarray:
        return arrays.read(self._arrays[name], slice(None))

    def _row(self, item: int) -> int:
        row = as_index(item)
        if not -len(self) <= row < len(self):
            raise IndexError(f"item {row} of {len(self)}")
        return row % len(self)

    def _selection(self, rows: slice | np.ndarray | None) -> slice | np.ndarray:
        if rows is None or isinstance(rows, slice):
            start, stop, step = (rows or slice(None)).indices(len(self))
            return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask of shape {chosen.shape} for {len(self)} items")
            return np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64, casting="same_kind") if chosen.size else chosen.astype(np.int64)
        if ((chosen < -len(self)) | (chosen >= len(self))).any():
            raise IndexError(f"items {chosen.min()} to {chosen.max()} of {len(self)}")
        return np.where(chosen < 0, chosen + len(self), chosen)


def open_functaset(path: str | os.PathLike[str]) -> Functaset:
    """The finished functaset at `path`; InputError if there is none or its arrays are not all there."""
    functaset = read_attributes(path)
    problems = [
        problem
        for column, count in functaset.expected()
        for problem in arrays.problems(functaset.array(column.name), column, count, functaset.path)
    ]
    problems += [problem for grid in functaset.grids for problem in grid.lost(functaset.path)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(
            f"{functaset.path}: {problems[0]}{more}",
            hint="`functaconv inspect --verify` lists all damage; restore it from a copy or encode again",
        )
    return functaset


def _open(path: Path, keep: int | None) -> Functaset:
    """As it was before it was pickled."""
    functaset = open_functaset(path)
    return functaset if keep is None else functaset.truncated(keep)


def read_attributes(path: str | os.PathLike[str]) -> Functaset:
    """The functaset at `path`, its arrays unchecked."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is nothing of this name", hint="expected a functaset, a .zarr folder")
    file = path / "zarr.json"
    root = read_json(file) if file.exists() else {}
    root = root if isinstance(root, dict) else {}
    attributes = root.get("attributes")
    sealed = isinstance(attributes, dict) and "functaconv" in attributes
    if not sealed and is_unfinished(path):
        raise InputError(f"{path}: an unfinished {FORMAT}", hint="encode was interrupted: run it again to finish it")
    return Functaset(path, root if sealed else {})
