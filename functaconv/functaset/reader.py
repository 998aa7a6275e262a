"""Reading a functaset: rows as numpy, by number or key, with damage reported and never passed on."""

import difflib
from functools import cached_property
from operator import index as as_index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import functaconv
from functaconv.documents import parse_json
from functaconv.errors import InputError
from functaconv.functaset.codecs import Codec
from functaconv.functaset.forms import Form, formed, scaled
from functaconv.functaset.grids import StoredGrid, read_grids
from functaconv.functaset.row import Row, selection
from functaconv.functaset.schema import check_keep
from functaconv.functaset.store import Store
from functaconv.functaset.stored_array import HINT
from functaconv.signals.grid import AnyGrid, Grid, Region

if TYPE_CHECKING:
    from torch import Tensor

    from functaconv.functaset.dataset import LatentDataset

AnyArray = TypeVar("AnyArray", np.ndarray, "Tensor")


class Functaset(Store):
    """A functaset as it lies on disk; nothing is read before it is asked for.

    `open_functaset` is the way in: it also checks that the arrays are what the attributes say.
    """

    def __init__(self, path: Path, root: dict[str, Any], keep: int | None = None) -> None:
        super().__init__(path, root)
        self._measures: dict[str, np.ndarray] = {}
        if keep is not None:
            self.layout = self.layout.model_copy(update={"latent": keep})

    def __repr__(self) -> str:
        sites = "x".join(str(size) for size in (*self.layout.sites, self.layout.latent))
        return f"Functaset({str(self.path)!r}: {len(self)} items, latent {sites} {self.layout.bits})"

    def __reduce__(self) -> tuple[Any, ...]:
        from functaconv.functaset.opening import reopened

        # a worker opens it again: threads and handles of zarr are not pickled
        return reopened, (self.path, self.layout.latent if self.is_truncated else None)

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

    @cached_property
    def keys(self) -> np.ndarray:
        return self._column("key")

    @cached_property
    def labels(self) -> np.ndarray:
        """int64, -1 for none."""
        return self._column("label")

    @cached_property
    def shapes(self) -> np.ndarray:
        """int32 [item, axis]: native resolution."""
        shapes = self._column("shape")
        if (shapes < 1).any():
            row = int(np.argmax((shapes < 1).any(axis=1)))
            raise InputError(f"{self.path}: shape: row {row} has {tuple(shapes[row].tolist())} points", hint=HINT)
        return shapes

    @cached_property
    def mse(self) -> np.ndarray:
        return self._column("mse")

    @cached_property
    def psnr(self) -> np.ndarray:
        return self._column("psnr")

    @cached_property
    def shards(self) -> np.ndarray:
        """int32 [item]: which input each item came from."""
        return self._column("shard")

    @cached_property
    def tiles(self) -> np.ndarray | None:
        """int32 [item, 2 * axis]: origin, then the shape of the whole item; None when nothing is tiled."""
        return self._column("tile") if self.layout.tiled else None

    @cached_property
    def views(self) -> np.ndarray | None:
        """int32 [item]: 0 for an item itself, else the number of an augmented view of it; None when there are none."""
        return self._column("view") if self.layout.has_views else None

    @cached_property
    def item_rows(self) -> np.ndarray:
        """The row of each item itself, which its views follow."""
        return np.arange(len(self)) if self.views is None else np.flatnonzero(self.views == 0)

    @cached_property
    def grids(self) -> list[StoredGrid]:
        """Axes and masks of items that lie at places of their own; empty for others."""
        return read_grids(self.stored) if self.layout.kind.has_coordinates else []

    def grid_of(self, item: int) -> tuple[StoredGrid, np.ndarray | None]:
        """The grid of an item, and where its values are missing: bool `[row, column, variable]`, None for nowhere."""
        row = self._row(item)
        number, mask = int(self.measure("grid")[row]), int(self.measure("mask")[row])
        if not 0 <= number < len(self.grids) or not -1 <= mask < self.grids[number].masks:
            raise InputError(f"{self.path}: row {row} has the grid {number} and mask {mask}, which are not there")
        grid = self.grids[number]
        return grid, None if mask < 0 else grid.mask(mask)

    def native_grid(self, row: int) -> AnyGrid:
        """The grid that a row was encoded from."""
        if self.grids:
            return self.layout.kind.grid_of(*self.grid_of(row)[0].axes)
        return Grid(tuple(self.shapes[row].tolist()))

    def measure(self, name: str) -> np.ndarray:
        """A column that only functasets of this modality have, such as `accuracy` or `time`."""
        if name not in self._measures:
            self._measures[name] = self._column(name)
        return self._measures[name]

    def meta(self, item: int) -> Any:
        """What the input said about the item besides its array, or None."""
        if "meta" not in self.descriptions:
            return None
        row = self._row(item)
        text = str(self._array_of("meta").read(slice(row, row + 1))[0])
        try:
            return parse_json(text.encode())
        except ValueError as error:
            raise InputError(f"{self.path}: meta: row {row}: {error}", hint=HINT) from error

    @cached_property
    def codec(self) -> Codec:
        """How the latents are stored, with its constants."""
        try:
            return self.layout.codec({name: self._vector(name) for name in self.layout.codec.vectors})
        except ValueError as error:
            raise InputError(f"{self.path}: {error}", hint=HINT) from error

    def latents(
        self, rows: slice | np.ndarray | None = None, *, normalize: bool = False, form: Form = "grid"
    ) -> np.ndarray:
        """float32 `[item, *sites, latent]`, or in another `form`; normalized when asked."""
        stored = self._array_of("latent").read(selection(rows, len(self)))
        # damaged constants may be of any size
        with np.errstate(over="ignore", invalid="ignore"):
            latents = self.codec.decode(stored)
            if self.is_truncated:
                # a copy: a view would keep all numbers in memory
                latents = latents[..., : self.layout.latent].copy()
            if normalize:
                latents = self.normalize(latents)
        formed_latents: np.ndarray = formed(latents, self.layout.sites, form)
        return formed_latents

    def normalize(self, latents: AnyArray, *, form: Form = "grid") -> AnyArray:
        """Latents (numpy or torch) with mean 0 and deviation 1 per latent over the items of the functaset and all
        sites; one that never varies becomes 0.
        """
        mean, std = scaled(latents, *self._moments, form, self.layout.sites)
        normal: AnyArray = (latents - mean) / std
        return normal

    def denormalize(self, latents: AnyArray, *, form: Form = "grid") -> AnyArray:
        """Latents that `normalize` gives these: what a model that learned from normalized ones makes, to be decoded."""
        mean, std = scaled(latents, *self._moments, form, self.layout.sites)
        own: AnyArray = latents * std + mean
        return own

    # the attributes on disk are spelled so
    normalise, denormalise = normalize, denormalize

    def decode(
        self,
        latents: "Tensor | np.ndarray",
        *,
        form: Form = "grid",
        size: tuple[int, ...] | None = None,
        scale: float = 1.0,
        region: Region | None = None,
        level: str | None = None,
    ) -> "Tensor":
        """Values of any latents of this functaset's kind: `functaconv.decode`."""
        decoded: Tensor = functaconv.decode(
            self, latents, form=form, size=size, scale=scale, region=region, level=level
        )
        return decoded

    def __getitem__(self, item: int) -> Row:
        row = self._row(item)
        return Row(
            latent=self.latents(slice(row, row + 1))[0],
            key=str(self.keys[row]),
            label=int(self.labels[row]),
            shape=tuple(self.shapes[row].tolist()),
            mse=float(self.mse[row]),
            psnr=float(self.psnr[row]),
            shard=int(self.shards[row]),
            meta=self.meta(row),
            tile=None if self.tiles is None else tuple(self.tiles[row].tolist()),
        )

    def index(self, key: str) -> int:
        """The row of the item with this key."""
        row = self._rows_by_key.get(key)
        if row is None:
            near = difflib.get_close_matches(key, self._rows_by_key, n=3, cutoff=0.5)
            hint = f"near it: {', '.join(near)}" if near else "`functaconv report --csv` lists the keys"
            raise InputError(f"{self.path} has no item with key {key!r}", hint=hint)
        return row

    def torch_dataset(self, normalize: bool = False, *, form: Form = "grid") -> "LatentDataset":
        """A torch `Dataset` of (latent, label); needs torch, which reading otherwise does not.

        Where items have views, each time that an item is taken one of its views is drawn, by torch's random numbers.
        """
        from functaconv.functaset.dataset import LatentDataset

        return LatentDataset(self, normalize=normalize, form=form)

    @cached_property
    def _rows_by_key(self) -> dict[str, int]:
        # in reverse, so that of equal keys the first one is kept
        return {str(key): row for row, key in reversed(list(enumerate(self.keys)))}

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (self._vector(name)[: self.layout.latent] for name in ("latent_mean", "latent_std"))
        # a latent that never varies is 0 when normalised
        return mean, np.where(std > 0, std, np.float32(1))

    def _row(self, item: int) -> int:
        row = as_index(item)
        if not -len(self) <= row < len(self):
            raise IndexError(f"item {row} of {len(self)}")
        return row % len(self)
