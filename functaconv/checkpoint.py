"""Bases on disk: safetensors with a JSON description, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

import functaconv
from functaconv.areas import Trained
from functaconv.base import CORRECTION, Base
from functaconv.construction import build
from functaconv.documents import merged, other_version, parse_json
from functaconv.errors import InputError, UsageError
from functaconv.functaset.files import problems
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import BASE, check_keep
from functaconv.modalities import MODALITIES, Axes
from functaconv.modalities.sphere import Globe
from functaconv.recipe import Recipe, validated
from functaconv.signals.geometry import Flat, Geometry
from functaconv.signals.normalizer import MOST_LEVELS, MOST_VALUE, Normalizer, PerChannel, are_possible

FORMAT, VERSION = "functaconv-base", 1
# bytes of a header, which names each shard of the training; parsed, it takes thirty times as much
MOST_HEADER = 8 << 20
# a safetensors file begins with the length of its header in so many bytes
_LENGTH = 8
_DAMAGED = "the file is damaged: restore it from a copy, or make it again with fit-base"
# tensors that only some bases have: those with a mapping network, and canonical ones
MAPPING_FIRST = "field.latent_map.mapping.weights.0"
METRIC = "solver.metric"


class Description(BaseModel):
    """The description in a base file: enough to build the base again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    version: int = VERSION
    tool_version: str = ""
    recipe: dict[str, Any]
    axes: dict[str, Any]
    offset: PerChannel
    scale: PerChannel
    levels: dict[str, tuple[PerChannel, PerChannel]] = Field(default_factory=dict, max_length=MOST_LEVELS)
    """offset and scale of each level that has its own"""
    geometry: Globe | None = None
    """of items that lie at places of their own"""
    training: dict[str, Any] = Field(default_factory=dict)
    """updates, seconds, items, shapes seen, validation PSNR, fingerprint of the data"""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """of all else in the file; None in an older one"""


@dataclass(frozen=True)
class StoredBase:
    """A base together with its recipe and description."""

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
        base, whole = self.base, self.description
        check_keep(keep, base.latent, canonical=base.is_canonical)
        if keep == base.latent:
            return self
        tensors = dict(base.state_dict())
        # the first matrix that a latent meets
        first = "field.latent_map.weight" if base.field.latent_map.mapping is None else MAPPING_FIRST
        per_site = tensors[first].reshape(len(tensors[first]), -1, base.latent)
        tensors[first] = per_site[..., :keep].flatten(1)
        tensors[METRIC] = tensors[METRIC][:keep, :keep]
        if (correction := base.field.latent_map.correction) is not None:
            for name, tensor in correction.tensors_of_first(keep).items():
                tensors[CORRECTION + name] = tensor
        for name in ("start", "latent_mean", "latent_std"):
            tensors[name] = tensors[name][..., :keep]
        # only what differs: the same base has the same bytes, whichever version cuts it
        description = whole.model_copy(
            update={
                "recipe": merged(whole.recipe, {"latent": {"numbers": keep}}),
                "training": {**whole.training, "truncated_from": whole.training.get("truncated_from", base.latent)},
            }
        )
        content = _to_bytes(tensors, description, is_sealed=whole.sha256 is not None)
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
    sealed = description.model_copy(update={"sha256": _digest(plain, _header(plain), None)})
    return save_bytes(content, {"functaconv": sealed.model_dump_json()})


def _digest(content: bytes, header: dict[str, Any], known: str | None) -> str:
    """The sha256 of a file's tensors and of its header, in which the `known` one counts as none."""
    metadata = header["__metadata__"]
    unsealed = metadata["functaconv"].replace(f'"sha256":"{known}"', '"sha256":null')
    plain = {**header, "__metadata__": {**metadata, "functaconv": unsealed}}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    digest.update(memoryview(content)[_LENGTH + int.from_bytes(content[:_LENGTH], "little") :])
    return digest.hexdigest()


def read_base(path: Path | str, device: torch.device | str = "cpu") -> StoredBase:
    """The base in a file."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a base", hint="a base is the .safetensors file fit-base wrote")
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH + 1)
            if not begins_like_base(head):
                raise _not_a_base(str(path))
            if path.is_file():
                # compares what the header claims with the size of the file, before anything is read
                with safe_open(path, framework="pt"):
                    pass
            content = head + file.read()
    except FileNotFoundError:
        unfinished = Path(f"{path}.training")
        raise InputError(
            f"there is no base {path}",
            hint=f"its training is unfinished ({unfinished}): run fit-base again to go on"
            if unfinished.is_dir()
            else "make one with `functaconv fit-base SHARDS BASE.safetensors`",
        ) from None
    except (MemoryError, OSError, SafetensorError) as error:
        raise InputError(f"cannot read the base {path}: {error}", hint=_DAMAGED) from None
    return base_from_bytes(content, str(path), device)


def begins_like_base(head: bytes) -> bool:
    """The first nine bytes are those of a safetensors file: the length of a JSON object, then the object."""
    return int.from_bytes(head[:_LENGTH], "little") <= MOST_HEADER and head[_LENGTH : _LENGTH + 1] == b"{"


def is_base(path: Path) -> bool:
    """Whether the file at `path` begins like a base; the rest may be damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    # the description stands first in the header, after its length
    return head[8:].startswith(b'{"__metadata__":{"functaconv":') and FORMAT.encode() in head


def base_from_bytes(content: bytes, name: str, device: torch.device | str = "cpu") -> StoredBase:
    """The base in the content of a file; anything that is not one is an `InputError`."""
    if not begins_like_base(content):
        raise _not_a_base(name)
    try:
        # lengths, offsets, types and shapes are compared with the content before memory is taken
        tensors = load_bytes(content)
        header = _header(content)
        described = parse_json(header["__metadata__"]["functaconv"].encode())
    except SafetensorError as error:
        raise InputError(f"{name} does not hold a base: {error}", hint=_DAMAGED) from None
    except (KeyError, TypeError, ValueError):
        raise _not_a_base(name) from None
    description = _described(described, name)
    # one of an older functaconv has no digest
    known = description.sha256
    if known is not None and known != _digest(content, header, known):
        raise InputError(f"{name} is not as it was written: its sha256 is another one", hint=_DAMAGED)
    try:
        recipe = validated(description.recipe)
        axes = TypeAdapter(Axes).validate_json(json.dumps(description.axes), strict=True)
        geometry = _geometry(description, axes)
        normalizer = Normalizer(description.offset, description.scale, description.levels)
        # memory that nothing has been written to is not taken yet
        base = build(recipe, axes, normalizer, geometry, to_be_loaded=True)
        base.load_state_dict(tensors)
        _check_values(tensors, base)
        base.trained = Trained.of(description.training)
    except (TypeError, ValueError, RuntimeError, UsageError) as error:
        # a ValidationError is a ValueError; torch lists each tensor that does not fit on a line of its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{name} does not hold the base it describes: {reason}", hint=_DAMAGED) from None
    return StoredBase(base.to(device).requires_grad_(False), recipe, description, content)


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


class _Training(BaseModel):
    """The entries of `Description.training` that are used."""

    shapes: list[list[Annotated[int, Field(strict=True, ge=1, lt=2**31)]]] = []
    updates: Annotated[int, Field(strict=True, ge=0)] = 0
    seconds: float = 0.0
    psnr: float | None = None
    items: Annotated[int, Field(strict=True, ge=0)] = 0
    validation_items: Annotated[int, Field(strict=True, ge=0)] = 0
    unusable: Annotated[int, Field(strict=True, ge=0)] = 0
    truncated_from: Annotated[int, Field(strict=True, ge=1)] | None = None


def _header(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file: types, shapes, offsets and metadata."""
    header: dict[str, Any] = json.loads(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
    return header


def _described(value: Any, name: str) -> Description:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _not_a_base(name)
    if value.get("version") != VERSION:
        raise other_version(name, value.get("version"), VERSION)
    try:
        return Description.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{name} has a damaged description: {problems(error)}", hint=_DAMAGED) from None


def _not_a_base(name: str) -> InputError:
    return InputError(f"{name} is not a base", hint="a base is the .safetensors file that fit-base wrote")


def _geometry(description: Description, axes: Axes) -> Geometry:
    """The geometry; a ValueError where what the description says does not go together."""
    if strange := description.axes.keys() - {known.name for known in fields(Axes)}:
        raise ValueError(f"axes: no setting {min(strange)!r:.80}")
    if axes.kind not in MODALITIES:
        raise ValueError(f"{axes.kind!r:.80} is no modality")
    if axes.dims not in axes.modality.dims or not 1 <= axes.channels <= 4096 or not 1 <= axes.itemsize <= 16:
        raise ValueError(f"{axes.dims} axes and {axes.channels} channels of {axes.described}")
    names = axes.channels if axes.modality.has_coordinates else 0
    if not names == len(axes.variables) == len(axes.units) == len(set(axes.variables)):
        raise ValueError(f"{len(set(axes.variables))} different variables for {axes.channels} channels")
    if (description.geometry is None) == axes.modality.has_coordinates:
        raise ValueError(f"{axes.described} and the geometry {description.geometry} do not go together")
    for offset, scale in [(description.offset, description.scale), *description.levels.values()]:
        if not axes.channels == len(offset) == len(scale) or not are_possible(offset, scale):
            raise ValueError(f"the normaliser does not fit {axes.channels} channels")
    training = _Training.model_validate(description.training)
    if any(len(shape) != axes.dims for shape in training.shapes):
        raise ValueError(f"it was learned on shapes of other than {axes.dims} axes, or says so")
    return description.geometry or Flat(axes.dims)


def _check_values(tensors: Mapping[str, Tensor], base: Base) -> None:
    """ValueError for numbers that no base can have."""
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds values that are not finite float32")
    std = tensors["latent_std"]
    if (std < 0).any() or max(std.max(), tensors["latent_mean"].abs().max()) > MOST_VALUE:
        raise ValueError("latent_mean and latent_std are those of no latents")
    metric = tensors.get(METRIC, torch.eye(base.latent))
    if metric.shape != (base.latent, base.latent) or torch.linalg.cholesky_ex(metric.double()).info:
        raise ValueError(f"{METRIC} of {tuple(metric.shape)} is no positive definite matrix of {base.latent} rows")
