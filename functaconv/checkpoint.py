"""Bases and training states on disk: safetensors with a JSON description, written whole or not at all."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

import functaconv
from functaconv.base import Base
from functaconv.construction import build
from functaconv.documents import parse_json
from functaconv.errors import InputError, UsageError
from functaconv.files import replace_bytes
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import BASE, check_keep
from functaconv.modalities import MODALITIES, Axes
from functaconv.modalities.latlon import LONGEST_NAME
from functaconv.recipe import Recipe, merged, validated
from functaconv.settings import of_earlier
from functaconv.signals.geometry import Flat, Geometry, Globe
from functaconv.signals.normalizer import MOST_LEVELS, MOST_VALUE, Normalizer, are_possible
from functaconv.solvers import SOLVERS

FORMAT = "functaconv-base"
VERSION = 1
MOST_HEADER = 8 << 20
"""bytes: it names each shard of the training. As Python's objects they take thirty times as much"""
_ANEW = "--overwrite starts the training anew"
_PIECE = 16 << 20
_LENGTH = 8
"""bytes in which a safetensors file says how long its header is"""
_DTYPES = {torch.float32: "F32"}
_DAMAGED = "the file is damaged: restore it from a copy, or make it again with fit-base"
METRIC = "solver.metric"
"""what canonical bases have and others have not"""

Bounded = Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)]


class Description(BaseModel):
    """What a base file says of itself; enough to build the base again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    version: int = VERSION
    tool_version: str = ""
    recipe: dict[str, Any]
    axes: dict[str, Any]
    offset: Bounded
    scale: Bounded
    levels: dict[str, tuple[Bounded, Bounded]] = Field(default_factory=dict, max_length=MOST_LEVELS)
    """offset and scale of each level that has its own"""
    geometry: Globe | None = None
    """of latitude-longitude grids"""
    training: dict[str, Any] = Field(default_factory=dict)
    """updates, seconds, items, shapes seen, validation PSNR, fingerprint of the data"""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """of all else in the file; None in one of an older functaconv"""


@dataclass(frozen=True)
class StoredBase:
    """A base together with what its file says of it."""

    base: Base
    recipe: Recipe
    description: Description
    content: bytes = field(repr=False)
    """the file itself: functasets carry it along"""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def truncated(self, keep: int) -> "StoredBase":
        """The base of only the first, most important `keep` numbers of every site; the others stay at zero."""
        base, said = self.base, self.description
        check_keep(keep, base.latent, canonical=base.is_canonical)
        if keep == base.latent:
            return self
        tensors = dict(base.state_dict())
        weight = tensors["field.latent_map.weight"]
        per_site = weight.reshape(len(weight), -1, base.latent)
        tensors["field.latent_map.weight"] = per_site[..., :keep].flatten(1)
        tensors[METRIC] = tensors[METRIC][:keep, :keep]
        for name in ("start", "latent_mean", "latent_std"):
            tensors[name] = tensors[name][..., :keep]
        # only what differs: the same base has the same bytes, whichever version cuts it
        description = said.model_copy(
            update={
                "recipe": merged(said.recipe, {"latent": {"numbers": keep}}),
                "training": {**said.training, "truncated_from": said.training.get("truncated_from", base.latent)},
            }
        )
        content = _to_bytes(tensors, description, is_sealed=said.sha256 is not None)
        return base_from_bytes(content, f"the base of {keep} numbers", base.device)


def base_to_bytes(base: Base, recipe: Recipe, training: Mapping[str, Any]) -> bytes:
    """A base as the content of a `.safetensors` file."""
    description = Description(
        tool_version=functaconv.__version__,
        recipe=recipe.settings(),
        axes=asdict(base.axes),
        offset=base.normalizer.offset,
        scale=base.normalizer.scale,
        levels=dict(base.normalizer.levels),
        geometry=base.geometry if isinstance(base.geometry, Globe) else None,
        training=dict(training),
    )
    return _to_bytes(base.state_dict(), description)


def _to_bytes(tensors: Mapping[str, Tensor], description: Description, *, is_sealed: bool = True) -> bytes:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    plain = save_bytes(content, {"functaconv": description.model_copy(update={"sha256": None}).model_dump_json()})
    if not is_sealed:
        return save_bytes(content, {"functaconv": description.model_dump_json(exclude={"sha256"})})
    sealed = description.model_copy(update={"sha256": _digest(plain, None)})
    return save_bytes(content, {"functaconv": sealed.model_dump_json()})


def _digest(content: bytes, known: str | None) -> str:
    """The sha256 of a file's tensors and of its header, in which the `known` one counts as none."""
    length = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH:length])
    said = header["__metadata__"]["functaconv"]
    header["__metadata__"]["functaconv"] = said.replace(f'"sha256":"{known}"', '"sha256":null')
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    found.update(memoryview(content)[length:])
    return found.hexdigest()


def read_base(path: Path | str, device: torch.device | str = "cpu") -> StoredBase:
    """The base in a file."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a base", hint="a base is the .safetensors file fit-base wrote")
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH)
            head += file.read(_header_length(head, str(path)))
            content = head + _at_most(file, _outline(head, str(path)).bytes + 1)
    except FileNotFoundError:
        unfinished = Path(f"{path}.training")
        raise InputError(
            f"there is no base {path}",
            hint=f"its training is unfinished ({unfinished}): run fit-base again to go on"
            if unfinished.is_dir()
            else "make one with `functaconv fit-base SHARDS BASE.safetensors`",
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the base {path}: {error.strerror}") from None
    return base_from_bytes(content, str(path), device)


def _at_most(file: BinaryIO, count: int) -> bytes:
    """So many bytes, or those that there are: a file may promise more, and room is made for what is asked of it."""
    pieces: list[bytes] = []
    while count and (piece := file.read(min(count, _PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def is_base(path: Path) -> bool:
    """There is a file at `path` that says it is a base, whole or damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    # the description stands first in the header, after its length
    return head[8:].startswith(b'{"__metadata__":{"functaconv":') and FORMAT.encode() in head


def base_from_bytes(content: bytes, name: str, device: torch.device | str = "cpu") -> StoredBase:
    """The base in the content of a file; anything that is not one is an `InputError`, before memory is taken."""
    length = _LENGTH + _header_length(content, name)
    outline = _outline(content[:length], name)
    if len(content) != length + outline.bytes:
        found = "cut short" if len(content) < length + outline.bytes else "followed by something else"
        raise InputError(f"{name} does not hold the base it describes: it is {found}", hint=_DAMAGED)
    # one of an older functaconv has none
    known = outline.description.sha256
    if known is not None and known != _digest(content, known):
        raise InputError(f"{name} is not as it was written: its sha256 is another one", hint=_DAMAGED)
    try:
        base, tensors = outline.built(), load_bytes(content)
        base.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{name} does not hold the base it describes: {error}", hint=_DAMAGED) from None
    _check_values(tensors, base, name)
    return StoredBase(base.to(device).requires_grad_(False), outline.recipe, outline.description, content)


def base_of(functaset: Functaset, device: torch.device | str = "cpu") -> Base:
    """The base that decodes a functaset's latents; one that does not fit them is an `InputError`."""
    stored, layout = base_from_bytes(functaset.base_bytes(), str(functaset.path / BASE), device), functaset.layout
    base = stored.base
    if (base.sites, base.latent, base.axes.dims) != (layout.sites, functaset.attributes.latent, len(layout.axes)):
        raise InputError(
            f"{functaset.path}: the base makes latents of {(*base.sites, base.latent)} for {base.axes.dims} axes, "
            f"the functaset holds {(*layout.sites, functaset.attributes.latent)} for {len(layout.axes)}",
            hint="put back the base that encoded these items",
        )
    return base if layout.latent == base.latent else stored.truncated(layout.latent).base


@dataclass(frozen=True)
class _Outline:
    """What the header of a file says of the base in it, found possible."""

    description: Description
    recipe: Recipe
    axes: Axes
    geometry: Geometry
    bytes: int
    """of all tensors"""

    def built(self) -> Base:
        said = self.description
        return build(
            self.recipe, self.axes, Normalizer(said.offset, said.scale, said.levels), self.geometry, to_be_loaded=True
        )


class _Header(BaseModel):
    """A tensor's entry in the header of a safetensors file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[Annotated[int, Field(ge=0, lt=2**48)]] = Field(max_length=8)
    data_offsets: tuple[Annotated[int, Field(ge=0, lt=2**48)], Annotated[int, Field(ge=0, lt=2**48)]]


class _Training(BaseModel):
    """What is relied on of `Description.training`."""

    shapes: list[list[Annotated[int, Field(strict=True, ge=1, lt=2**31)]]] = []
    updates: Annotated[int, Field(strict=True, ge=0)] = 0
    seconds: float = 0.0
    psnr: float | None = None
    items: Annotated[int, Field(strict=True, ge=0)] = 0
    validation_items: Annotated[int, Field(strict=True, ge=0)] = 0
    unusable: Annotated[int, Field(strict=True, ge=0)] = 0
    truncated_from: Annotated[int, Field(strict=True, ge=1)] | None = None


def _header_length(content: bytes, name: str) -> int:
    length = int.from_bytes(content[:_LENGTH], "little")
    if len(content) < _LENGTH or not 2 <= length <= MOST_HEADER:
        raise _not_a_base(name)
    return length


def _outline(head: bytes, name: str) -> _Outline:
    """What the header, with its length before it, says; an InputError unless all of it goes together."""
    try:
        header = parse_json(head[_LENGTH:])
        metadata = header.pop("__metadata__")
        found = parse_json(metadata.pop("functaconv").encode())
        if metadata:
            raise ValueError(f"what no base says: {sorted(metadata)}")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_a_base(name) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _not_a_base(name)
    if found.get("version") != VERSION:
        raise InputError(
            f"{name} has base version {found.get('version')!r:.80}; this functaconv reads {VERSION}",
            hint="install the functaconv that wrote it, or a newer one",
        )
    try:
        description = Description.model_validate(found)
        entries = TypeAdapter(dict[str, _Header]).validate_json(json.dumps(header))
    except ValidationError as error:
        raise InputError(f"{name} has a damaged description: {error.errors()[0]['msg']}", hint=_DAMAGED) from None
    try:
        recipe = validated(of_earlier(description.recipe))
        if strange := description.axes.keys() - {known.name for known in fields(Axes)}:
            raise TypeError(f"axes: no setting {min(strange)!r:.80}")
        axes = TypeAdapter(Axes).validate_json(json.dumps(description.axes), strict=True)
        outline = _Outline(description, recipe, axes, _geometry(description, axes, name), _data_bytes(entries, name))
        _check_description(outline, name)
        # memory that nobody has written to is not taken yet
        expected = dict(outline.built().state_dict())
    except (TypeError, RuntimeError, UsageError, ValidationError) as error:
        raise InputError(f"{name} does not hold the base it describes: {error}", hint=_DAMAGED) from None
    if METRIC in entries:
        if not SOLVERS[recipe.solver.kind].exports_canonical:
            raise InputError(f"{name} has a {METRIC}, which the solver {recipe.solver.kind!r} has not", hint=_DAMAGED)
        expected[METRIC] = torch.empty(recipe.latent.numbers, recipe.latent.numbers)
    if unknown := sorted(entries.keys() - expected.keys()):
        raise InputError(f"{name} holds {unknown[0]!r:.80}, which is no part of its base", hint=_DAMAGED)
    for key, tensor in expected.items():
        wanted = (_DTYPES[tensor.dtype], tuple(tensor.shape))
        there = (entries[key].dtype, tuple(entries[key].shape)) if key in entries else None
        if there != wanted:
            shown = "missing" if there is None else f"{there[0]} {there[1]}" if there[0] != wanted[0] else there[1]
            raise InputError(
                f"{name} does not hold what its recipe asks for: {key} is {shown}, not {wanted[1]}", hint=_DAMAGED
            )
    return outline


def _data_bytes(entries: Mapping[str, _Header], name: str) -> int:
    """Of all tensors, which must follow each other without a gap and be as large as their shapes say."""
    end = 0
    for key, entry in sorted(entries.items(), key=lambda pair: pair[1].data_offsets):
        start, stop = entry.data_offsets
        # all types of a base have four bytes
        if start != end or stop - start != 4 * math.prod(entry.shape):
            raise InputError(f"{name}: the bytes of {key} are not where they should be", hint=_DAMAGED)
        end = stop
    return end


def _not_a_base(name: str) -> InputError:
    return InputError(f"{name} is not a base", hint="a base is the .safetensors file that fit-base wrote")


def _geometry(description: Description, axes: Axes, name: str) -> Geometry:
    """The geometry; one that does not fit the data is an `InputError`."""
    if axes.kind not in MODALITIES:
        raise InputError(f"{name} is for {axes.kind!r:.80}, which is no modality", hint=_DAMAGED)
    if axes.dims not in axes.modality.dims or not 1 <= axes.channels <= 4096 or not 1 <= axes.itemsize <= 16:
        raise InputError(
            f"{name} speaks of {axes.dims} axes and {axes.channels} channels of {axes.described}", hint=_DAMAGED
        )
    names = axes.channels if axes.modality.has_coordinates else 0
    if not names == len(axes.variables) == len(axes.units):
        raise InputError(f"{name} has {len(axes.variables)} variables for {axes.channels} channels", hint=_DAMAGED)
    if len(set(axes.variables)) < names or not all(0 < len(name) <= LONGEST_NAME for name in axes.variables):
        raise InputError(f"{name}: the variables have no names of their own", hint=_DAMAGED)
    if (description.geometry is None) == axes.modality.has_coordinates:
        raise InputError(
            f"{name}: {axes.described} and the geometry {description.geometry} do not go together", hint=_DAMAGED
        )
    return description.geometry or Flat(axes.dims)


def _check_description(outline: _Outline, name: str) -> None:
    description, axes = outline.description, outline.axes
    for offset, scale in [(description.offset, description.scale), *description.levels.values()]:
        if not axes.channels == len(offset) == len(scale) or not are_possible(offset, scale):
            raise InputError(f"{name}: the normaliser does not fit {axes.channels} channels", hint=_DAMAGED)
    training = _Training.model_validate(description.training)
    if any(len(shape) != axes.dims for shape in training.shapes):
        raise InputError(f"{name}: it was learned on shapes of other than {axes.dims} axes, or says so", hint=_DAMAGED)


def _check_values(tensors: Mapping[str, Tensor], base: Base, name: str) -> None:
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name}: {key} holds values that are not finite", hint="the file is damaged or untrained")
    mean, std = tensors["latent_mean"], tensors["latent_std"]
    if (std < 0).any() or (std > MOST_VALUE).any() or (mean.abs() > MOST_VALUE).any():
        raise InputError(f"{name}: latent_mean and latent_std are those of no latents", hint=_DAMAGED)
    if base.is_canonical and torch.linalg.cholesky_ex(tensors[METRIC].double()).info:
        raise InputError(f"{name}: {METRIC} is not positive definite", hint=_DAMAGED)


@dataclass(frozen=True)
class TrainingState:
    """All that a training run needs to go on: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_state(path: Path, state: TrainingState) -> None:
    """Replace the training state in a file, in one step."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    replace_bytes(path, save_bytes(tensors, {"functaconv": json.dumps(dict(state.values))}))


class _StateValues(BaseModel):
    """What is relied on of a training state's values, where they are there."""

    identity: dict[str, Any] = {}
    updates: int = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    validated_at: int = 0
    position: dict[str, Any] = {}
    shapes: list[list[int]] = []
    offset: Bounded = (0.0,)
    scale: Bounded = (1.0,)
    levels: dict[str, tuple[Bounded, Bounded]] = {}
    geometry: Globe | None = None


class _Values(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        raise InputError(f"the training state lacks {name!r}", hint=_ANEW)


class _Tensors(dict[str, Tensor]):
    def __missing__(self, name: str) -> Any:
        raise InputError(f"the training state lacks {name!r}", hint=_ANEW)


def read_state(path: Path) -> TrainingState:
    """The training state in a file."""
    try:
        with path.open("rb") as head:
            if not 2 <= int.from_bytes(head.read(_LENGTH), "little") <= MOST_HEADER:
                raise ValueError("it is damaged")
        with safe_open(path, framework="pt") as file:
            values = parse_json((file.metadata() or {})["functaconv"].encode())
            _StateValues.model_validate(values)
            return TrainingState(_Tensors({name: file.get_tensor(name) for name in file.keys()}), _Values(values))  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"cannot read the training state {path}: {reason}", hint=_ANEW) from None
