"""The layout of a functaset on disk, and the columns that follow from it."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from functaconv.errors import UsageError
from functaconv.functaset.codecs import CODECS, Codec
from functaconv.modalities import Modality, modality_of

FORMAT = "functaset"
VERSION = 2

BASE = "base.safetensors"
REPORT = "report.json"
FAILED = "failed.jsonl"
# the folder where work in progress is
PARTS = "_parts"

SITE_AXES = {0: (), 1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}

# limits on what a file may claim, far above any real functaset: memory is allocated by these numbers
MOST_NUMBERS = 2**26
MOST_ITEMS = 2**40

_Size = Annotated[int, Field(ge=1, le=2**20)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _known(bits: str) -> str:
    if bits not in CODECS:
        raise ValueError(f"known ways of storing latents: {', '.join(CODECS)}")
    return bits


Bits = Annotated[str, AfterValidator(_known)]
"""a name in `CODECS`"""


class Layout(BaseModel):
    """Everything that fixes the arrays of a functaset but the number of items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: tuple[Name, ...] = Field(min_length=1, max_length=8)
    """the native axes of an item, such as ("row", "column")"""
    sites: tuple[_Size, ...] = Field(default=(), max_length=3)
    """the latent's places along each axis; empty for a global latent"""
    latent: _Size
    """numbers per site"""
    bits: Bits
    tiled: bool = False
    """items may be tiles of larger ones: each row says where it came from"""
    overlap: tuple[Annotated[int, Field(ge=0, le=2**20)], ...] = Field(default=(), max_length=8)
    """points that neighbouring tiles share along each axis; empty for none"""
    has_views: bool = False
    """items have rows for augmented views of them"""
    modality: Name = "array"
    variables: tuple[Name, ...] = Field(default=(), max_length=4096)
    """grids: the names of their channels"""

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        if self.numbers > MOST_NUMBERS:
            raise ValueError(f"{self.numbers} numbers per item, at most {MOST_NUMBERS} are possible")
        if self.overlap and not (self.tiled and len(self.overlap) == len(self.axes)):
            raise ValueError(f"an overlap along {len(self.overlap)} axes, of tiles that are not there")
        return self

    @property
    def kind(self) -> Modality:
        """What the items are."""
        return modality_of(self.modality)

    @property
    def numbers(self) -> int:
        """How many numbers an item's latent has over all its sites."""
        return math.prod(self.sites) * self.latent

    @property
    def codec(self) -> type[Codec]:
        """How latents are stored."""
        return CODECS[self.bits]


def check_keep(keep: int, latent: int, *, canonical: bool) -> None:
    """UsageError unless the first `keep` of a site's `latent` numbers stand for all of them."""
    if not canonical:
        raise UsageError(
            "--keep needs canonical latents: a base learned with gauss-newton",
            hint="other bases have no order of importance among their numbers: learn one with --solver gauss-newton",
        )
    if not 1 <= keep <= latent:
        raise UsageError(
            f"--keep must be 1 to {latent}, the numbers of a site, not {keep}",
            hint="leave it out to keep them all",
        )


def shown(value: object) -> str:
    """The beginning of a value that may be of any size, for a message."""
    return reprlib.repr(value)[:80]


@dataclass(frozen=True)
class Column:
    """One array with a row per item."""

    name: str
    dtype: str
    dims: tuple[str, ...] = ()
    """names of the axes after `item`"""
    tail: tuple[int, ...] = ()
    """sizes of the axes after `item`"""
    fill: float | int | str = 0
    attributes: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def empty(self) -> np.ndarray:
        """No rows, in the type that buffers have in memory."""
        return np.empty((0, *self.tail), dtype=object if self.dtype == "str" else self.dtype)


# the time of an item that has none
NO_TIME = np.iinfo(np.int64).min
TIME = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
# arrays for training on the latents, over the items of the functaset
MOMENTS = ("latent_mean", "latent_std")


def columns(layout: Layout, *, meta: bool) -> tuple[Column, ...]:
    """The columns of a functaset of this layout."""
    nan = float("nan")
    sites = (*layout.sites, layout.latent)
    dims = (*SITE_AXES[len(layout.sites)], "latent")
    axes = len(layout.axes)
    result = [
        Column("latent", layout.codec.dtype.name, dims, sites, fill=layout.codec.fill),
        Column("key", "str", fill=""),
        Column("label", "int64", fill=-1),
        Column("shape", "int32", ("axis",), (axes,)),
        Column("mse", "float32", fill=nan),
        Column("psnr", "float32", fill=nan),
        Column("shard", "int32", fill=-1),
        Column("record", "int32", fill=-1),
    ]
    each = ("variable",), (len(layout.variables),)
    for measure in layout.kind.measures:
        dims, tail = each if measure.by_variable else ((), ())
        result.append(Column(measure.name, "float32", dims, tail, nan))
    if layout.kind.has_coordinates:
        result += [
            Column("grid", "int32", fill=-1),
            Column("mask", "int32", fill=-1),
            Column("time", "int64", fill=NO_TIME, attributes={**TIME, "_FillValue": NO_TIME}),
        ]
    if meta:
        result.append(Column("meta", "str", fill=""))
    if layout.has_views:
        result.append(Column("view", "int32"))
    if layout.tiled:
        result.append(Column("tile", "int32", ("tile_axis",), (2 * axes,)))
    return tuple(result)


def vectors(layout: Layout) -> tuple[str, ...]:
    """The names of the arrays with one number per latent."""
    return (*layout.codec.vectors, *MOMENTS)
