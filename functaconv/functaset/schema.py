"""What a functaset on disk says about itself: its layout, its attributes, its columns."""

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json, to_json

from functaconv.errors import InputError, UsageError
from functaconv.modalities import Modality, modality_of

FORMAT = "functaset"
VERSION = 2

BASE = "base.safetensors"
REPORT = "report.json"
FAILED = "failed.jsonl"
PARTS = "_parts"
"""the folder where work in progress is"""

Bits = Literal["float32", "float16", "8"]
STORED = {"float32": "float32", "float16": "float16", "8": "uint8"}
SITE_AXES = {0: (), 1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}

# limits on what a file may claim, far above any real functaset: the numbers end up in allocations
MOST_NUMBERS = 2**26
_MOST_ITEMS = 2**40

_Size = Annotated[int, Field(ge=1, le=2**20)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Layout(_Frozen):
    """Everything that fixes the arrays of a functaset but the number of items."""

    model_config = ConfigDict(extra="forbid")

    axes: tuple[_Name, ...] = Field(min_length=1, max_length=8)
    """the native axes of an item, such as ("row", "column")"""
    sites: tuple[_Size, ...] = Field(default=(), max_length=3)
    """the latent's places along each axis; empty for a global latent"""
    latent: _Size
    """numbers per site"""
    bits: Bits
    tiled: bool = False
    """items may be tiles of larger images: each row says where it came from"""
    modality: _Name = "array"
    variables: tuple[_Name, ...] = Field(default=(), max_length=4096)
    """grids: the names of their channels"""

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        if self.numbers > MOST_NUMBERS:
            raise ValueError(f"{self.numbers} numbers per item, at most {MOST_NUMBERS} are possible")
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
    def dtype(self) -> np.dtype[Any]:
        """The type that `latent` has on disk."""
        return np.dtype(STORED[self.bits])


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


class Solver(_Frozen):
    name: _Name
    steps: int = Field(ge=0, le=2**20)


class Quantisation(_Frozen):
    bits: Bits


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Offsets = Annotated[tuple[_Finite, ...], Field(min_length=1, max_length=4096)]
_Scales = Annotated[tuple[_Above0, ...], Field(min_length=1, max_length=4096)]
_Count = Annotated[int, Field(strict=True, ge=0, le=_MOST_ITEMS)]
Ignored = Annotated[dict[Annotated[str, Field(max_length=200)], _Count], Field(max_length=200)]
"""kind -> how much of it was in the input and is not in the functaset"""


class _Normaliser(BaseModel):
    """What is relied on of `Attributes.normaliser`."""

    offset: _Offsets
    scale: _Scales
    itemsize: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    levels: dict[str, tuple[_Offsets, _Scales]] = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        lengths = {len(constants) for pair in [(self.offset, self.scale), *self.levels.values()] for constants in pair}
        if len(lengths) > 1:
            raise ValueError(f"constants for {sorted(lengths)} channels")
        return self


class _Summary(BaseModel):
    """What is relied on of `Attributes.summary`."""

    count: _Count
    failed: _Count
    items: _Count | None = None
    ignored: Ignored = {}
    psnr_mean: float | None = None
    damaged: list[str] = []


class Budgets(_Frozen):
    """What the rounding of latents depends on besides the settings: how much is computed together."""

    model_config = ConfigDict(extra="forbid")

    batch_size: Annotated[int, Field(strict=True, ge=1, le=2**40)]
    """items"""
    chunk: Annotated[int, Field(strict=True, ge=1, le=2**40)]
    """points of each item"""


class Range(_Frozen):
    """A block: records of a shard, which begin where those of the block before end."""

    stop: _Count
    ignored: Ignored = {}


class Attributes(_Frozen):
    """The content of `attrs.functaconv` in the store's root, which is a JSON text."""

    format: Literal["functaset"] = "functaset"
    version: Literal[2] = 2
    modality: _Name
    axes: tuple[_Name, ...]
    coordinate_convention: _Name
    normaliser: dict[str, JsonValue]
    solver: Solver
    sites: tuple[int, ...]
    latent: int
    canonical: bool = False
    """a site's numbers are uncorrelated, the most important first, in units of the output's error"""
    quantisation: Quantisation
    tiled: bool = False
    variables: tuple[_Name, ...] = ()
    """grids: the names of their channels"""
    units: tuple[str, ...] = ()
    """grids: of each variable, empty where none was given"""
    psnr_peak: tuple[_Above0, ...] = ()
    """grids: the range of each variable in training, which PSNR is relative to"""
    summary: dict[str, JsonValue]
    """holds at least `count` and `failed`"""
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tool_version: str
    seed: int | None = None
    input: list[dict[str, JsonValue]]
    """a fingerprint per shard, in order"""
    blocks: tuple[tuple[Range, ...], ...] = ()
    """how each shard was cut: what is made again together when an item of it failed"""
    run: str | None = None
    """which run of several processes made it; None for a single process"""
    settings: dict[str, JsonValue]
    """what the functaset was asked to be: an output with other settings is another output"""
    budgets: Budgets | None = None
    files_sha256: dict[str, str] = {}
    """of `report.json` and `failed.jsonl`"""
    attributes_sha256: str | None = None
    """of all other attributes: `attributes_digest`"""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _ = self.layout
        if not len(self.variables) == len(self.units) == len(self.psnr_peak):
            raise ValueError(f"{len(self.variables)} variables, {len(self.units)} units, {len(self.psnr_peak)} peaks")
        for name, model in (("normaliser", _Normaliser), ("summary", _Summary)):
            try:
                model.model_validate(getattr(self, name))
            except ValidationError as error:
                raise ValueError(f"{name}.{_problems(error)}") from None
        return self

    @property
    def layout(self) -> Layout:
        bits = self.quantisation.bits
        return Layout(
            axes=self.axes, sites=self.sites, latent=self.latent, bits=bits, tiled=self.tiled,
            modality=self.modality, variables=self.variables,
        )  # fmt: skip

    @property
    def count(self) -> int:
        return int(str(self.summary["count"]))

    @property
    def failed(self) -> int:
        return int(str(self.summary["failed"]))

    @property
    def ignored(self) -> dict[str, int]:
        """Kind -> how much of it was in the input and is not here."""
        return _Summary.model_validate(self.summary).ignored


def parse_attributes(found: object, path: Path) -> Attributes:
    """The attributes in `found`, or an InputError that says what is wrong with them."""
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a functaset: its zarr.json has no attributes.functaconv with format {FORMAT!r}",
            hint="expected a .zarr folder that `functaconv encode` made",
        )
    if found.get("version") != VERSION:
        raise InputError(
            f"{path}: found functaset version {found.get('version')!r}, this functaconv reads {VERSION}",
            hint="install the functaconv that wrote it, or a newer one",
        )
    try:
        return Attributes.model_validate(found)
    except ValidationError as error:
        raise InputError(
            f"{path}: the attributes of the functaset are damaged: {_problems(error)}",
            hint="restore zarr.json from a copy, or encode again with --overwrite",
        ) from error


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """The sha256 of attributes as zarr.json holds them, but for the digest itself."""
    others = {name: value for name, value in attributes.items() if name != "attributes_sha256"}
    return sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def canonical(value: Any) -> Any:
    """`value` as JSON would give it back: lists for tuples, null for NaN and infinities."""
    return from_json(to_json(value, inf_nan_mode="null"))


def _problems(error: ValidationError) -> str:
    def one(problem: Any) -> str:
        place = ".".join(str(step) for step in problem["loc"])
        # the context of a failed model is the model itself: its message already holds what was found
        found = f" (found {shown(problem['input'])})" if place else ""
        return f"{place}: {problem['msg']}{found}".removeprefix(": ")

    return "; ".join(one(problem) for problem in error.errors(include_url=False)[:4])


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


NO_TIME = np.iinfo(np.int64).min
"""of a grid that does not say when it was"""
TIME = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
VECTORS = ("latent_scale", "latent_offset", "latent_mean", "latent_std")


def columns(layout: Layout, *, meta: bool) -> tuple[Column, ...]:
    """The columns of a functaset of this layout."""
    nan = float("nan")
    sites = (*layout.sites, layout.latent)
    dims = (*SITE_AXES[len(layout.sites)], "latent")
    axes = len(layout.axes)
    found = [
        Column("latent", layout.dtype.name, dims, sites, fill=0 if layout.bits == "8" else nan),
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
        found.append(Column(measure.name, "float32", dims, tail, nan))
    if layout.kind.has_coordinates:
        found += [
            Column("grid", "int32", fill=-1),
            Column("mask", "int32", fill=-1),
            Column("time", "int64", fill=NO_TIME, attributes={**TIME, "_FillValue": NO_TIME}),
        ]
    if meta:
        found.append(Column("meta", "str", fill=""))
    if layout.tiled:
        found.append(Column("tile", "int32", ("tile_axis",), (2 * axes,)))
    return tuple(found)


def vectors(layout: Layout) -> tuple[str, ...]:
    """The names of the arrays with one number per latent."""
    return VECTORS if layout.bits == "8" else VECTORS[2:]
