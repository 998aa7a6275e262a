"""The attributes of a functaset: the JSON text `attrs.functaconv` of its zarr.json."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json, to_json

from functaconv.documents import other_version
from functaconv.errors import InputError
from functaconv.functaset.files import problems
from functaconv.functaset.schema import FORMAT, MOST_ITEMS, VERSION, Bits, Layout, Name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Solver(_Frozen):
    name: Name
    steps: int = Field(ge=0, le=2**20)


class Quantisation(_Frozen):
    bits: Bits


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Offsets = Annotated[tuple[_Finite, ...], Field(min_length=1, max_length=4096)]
_Scales = Annotated[tuple[_Above0, ...], Field(min_length=1, max_length=4096)]
_Count = Annotated[int, Field(strict=True, ge=0, le=MOST_ITEMS)]
Ignored = Annotated[dict[Annotated[str, Field(max_length=200)], _Count], Field(max_length=200)]
"""kind -> how much of it was in the input and is not in the functaset"""


class Normaliser(_Frozen):
    """Features are `(value - offset) / scale`, per channel."""

    model_config = ConfigDict(extra="allow")

    offset: _Offsets
    scale: _Scales
    itemsize: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    """bytes of a raw value"""
    levels: dict[str, tuple[_Offsets, _Scales]] = {}
    """offset and scale of each level that has its own"""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        lengths = {len(constants) for pair in [(self.offset, self.scale), *self.levels.values()] for constants in pair}
        if len(lengths) > 1:
            raise ValueError(f"constants for {sorted(lengths)} channels")
        return self


class Summary(_Frozen):
    """Counts and means over the items."""

    model_config = ConfigDict(extra="allow")

    count: _Count
    """rows"""
    failed: _Count
    """records that could not be converted"""
    items: _Count | None = None
    """an item in tiles has several rows"""
    ignored: Ignored = {}
    duplicate_keys: _Count | None = None
    psnr_mean: float | None = None
    psnr_of_mean_mse: float | None = None
    bytes_per_item: float | None = None
    damaged: tuple[str, ...] = ()
    """of each damaged shard what is wrong with it"""


class Budgets(_Frozen):
    """How much is computed together: the rounding of latents depends on it."""

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
    modality: Name
    axes: tuple[Name, ...]
    coordinate_convention: Name
    normaliser: Normaliser
    solver: Solver
    sites: tuple[int, ...]
    latent: int
    canonical: bool = False
    """a site's numbers are uncorrelated, the most important first, in units of the output's error"""
    quantisation: Quantisation
    tiled: bool = False
    overlap: tuple[int, ...] = ()
    """points that neighbouring tiles share along each axis"""
    views: int = Field(default=1, ge=1, le=2**16)
    """rows of each item: the item itself and augmented views of it"""
    variables: tuple[Name, ...] = ()
    """grids: the names of their channels"""
    units: tuple[str, ...] = ()
    """grids: of each variable, empty where none was given"""
    psnr_peak: tuple[_Above0, ...] = ()
    """grids: the range of each variable in training, which PSNR is relative to"""
    summary: Summary
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tool_version: str
    seed: int | None = None
    input: list[dict[str, JsonValue]]
    """a fingerprint per shard, in order"""
    blocks: tuple[tuple[Range, ...], ...] = ()
    """how each shard was cut into blocks: `--retry-failed` makes whole blocks again"""
    run: str | None = None
    """which run of several processes made it; None for a single process"""
    settings: dict[str, JsonValue]
    """the settings it was made with: a run with other settings is refused"""
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
        return self

    @property
    def layout(self) -> Layout:
        bits = self.quantisation.bits
        return Layout(
            axes=self.axes, sites=self.sites, latent=self.latent, bits=bits, tiled=self.tiled,
            overlap=self.overlap, has_views=self.views > 1, modality=self.modality, variables=self.variables,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Rows."""
        return self.summary.count

    @property
    def items(self) -> int:
        """Items, tiles joined."""
        return self.count if self.summary.items is None else self.summary.items


def parse_attributes(attributes: object, path: Path) -> Attributes:
    """The attributes, validated; an InputError says what is wrong with them."""
    if not isinstance(attributes, Mapping) or attributes.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a functaset: its zarr.json has no attributes.functaconv with format {FORMAT!r}",
            hint="expected a .zarr folder that `functaconv encode` made",
        )
    if attributes.get("version") != VERSION:
        raise other_version(str(path), attributes.get("version"), VERSION)
    try:
        return Attributes.model_validate(attributes)
    except ValidationError as error:
        raise InputError(
            f"{path}: the attributes of the functaset are damaged: {problems(error, most=4)}",
            hint="restore zarr.json from a copy, or encode again with --overwrite",
        ) from error


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """The sha256 of attributes as zarr.json holds them, but for the digest itself."""
    others = {name: value for name, value in attributes.items() if name != "attributes_sha256"}
    return sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def canonical(value: Any) -> Any:
    """`value` as JSON would give it back: lists for tuples, null for NaN and infinities."""
    return from_json(to_json(value, inf_nan_mode="null"))
