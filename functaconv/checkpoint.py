"""Bases and training states on disk: safetensors with a JSON description, written whole or not at all."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

import functaconv
from functaconv.base import Base
from functaconv.errors import InputError, UsageError
from functaconv.fitting import GaussNewton
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import BASE, check_keep
from functaconv.networks import SiteGrid
from functaconv.recipe import Recipe, build, coords_of, frame_of, merged, validated
from functaconv.signals.batch import Axes
from functaconv.signals.geometry import Flat, Geometry, Globe
from functaconv.signals.normalizer import MOST_LEVELS, Normalizer

FORMAT = "functaconv-base"
VERSION = 1
MOST_BYTES = 64 << 30
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
        return base_from_bytes(_to_bytes(tensors, description), f"the base of {keep} numbers", base.device)


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


def _to_bytes(tensors: Mapping[str, Tensor], description: Description) -> bytes:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save_bytes(content, {"functaconv": description.model_dump_json()})


def read_base(path: Path | str, device: torch.device | str = "cpu") -> StoredBase:
    """The base in a file."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a base", hint="a base is the .safetensors file fit-base wrote")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is too large for a base ({path.stat().st_size} bytes)")
        content = path.read_bytes()
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
    """The base in the content of a file; anything that is not one is an `InputError`."""
    description = _described(content, name)
    try:
        recipe = validated(description.recipe)
        # a setting that there is not is a TypeError, a value of another type the validator's
        Axes(**description.axes)
        axes = TypeAdapter(Axes).validate_json(json.dumps(description.axes), strict=True)
        tensors = load_bytes(content)
        geometry = _geometry(description, axes, name)
        _check_size(tensors, recipe, axes, geometry, name)
        for offset, scale in [(description.offset, description.scale), *description.levels.values()]:
            if not axes.channels == len(offset) == len(scale) or min(scale) <= 0:
                raise InputError(f"{name}: the normaliser does not fit {axes.channels} channels")
        normalizer = Normalizer(description.offset, description.scale, description.levels)
        base = build(recipe, axes, normalizer, geometry)
        if METRIC in tensors and isinstance(base.solver, GaussNewton):
            # only canonical bases have one: it waits for its values
            base.solver.metric = torch.empty(base.latent, base.latent)
        base.load_state_dict(tensors)
    except (TypeError, SafetensorError, RuntimeError, UsageError, ValidationError) as error:
        raise InputError(f"{name} does not hold the base it describes: {error}") from None
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name}: {key} holds values that are not finite", hint="the file is damaged or untrained")
    if base.is_canonical and torch.linalg.cholesky_ex(tensors[METRIC].double()).info:
        raise InputError(f"{name}: {METRIC} is not positive definite", hint="the file is damaged")
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


def _described(content: bytes, name: str) -> Description:
    wrong = InputError(f"{name} is not a base", hint="a base is the .safetensors file that fit-base wrote")
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(len(content) - 8, 64 << 20):
        raise wrong
    try:
        header = json.loads(content[8 : 8 + length])
        text = header["__metadata__"]["functaconv"]
        found = json.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise wrong from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise wrong
    if found.get("version") != VERSION:
        raise InputError(f"{name} has base version {found.get('version')!r}; this functaconv reads {VERSION}")
    try:
        return Description.model_validate(found)
    except ValidationError as error:
        raise InputError(f"{name} has a damaged description: {error.errors()[0]['msg']}") from None


def _geometry(description: Description, axes: Axes, name: str) -> Geometry:
    """The geometry; one that does not fit the data is an `InputError`."""
    dims = {"image": (2,), "voxels": (3,), "grid": (2,)}.get(axes.kind, (1, 2, 3))
    if axes.dims not in dims or not 1 <= axes.channels <= 4096:
        raise InputError(f"{name} speaks of {axes.dims} axes and {axes.channels} channels of {axes.described}")
    if axes.kind == "grid" and not axes.channels == len(axes.variables) == len(axes.units):
        raise InputError(f"{name} has {len(axes.variables)} variables for {axes.channels} channels")
    if (description.geometry is None) == (axes.kind == "grid"):
        raise InputError(f"{name}: {axes.described} and the geometry {description.geometry} do not go together")
    return description.geometry or Flat(axes.dims)


def _check_size(tensors: Mapping[str, Tensor], recipe: Recipe, axes: Axes, geometry: Geometry, name: str) -> None:
    """Before memory is taken for it: the recipe must ask for what the file holds."""
    network, latent = recipe.network, recipe.latent
    coords = coords_of(SiteGrid(latent.sites or (1,), latent.interpolation, frame_of(latent, axes)), geometry)
    first = 2 * network.frequencies or coords
    sizes = [first, *[network.width] * (network.depth - 1), axes.channels]
    expected = {f"field.network.weights.{layer}": (sizes[layer + 1], sizes[layer]) for layer in range(network.depth)}
    if network.frequencies:
        expected["field.network.frequencies"] = (network.frequencies, coords)
    modulations = (network.depth - 1) * network.width * (2 if network.modulation == "film" else 1)
    expected["field.latent_map.weight"] = (modulations, latent.numbers * latent.kernel**axes.dims)
    sites = math.prod(latent.sites or (1,) * axes.dims)
    if METRIC in tensors:
        if recipe.solver.kind != "gauss-newton":
            raise InputError(f"{name} has a {METRIC}, which the solver {recipe.solver.kind!r} has not")
        expected[METRIC] = (latent.numbers, latent.numbers)
    for key, shape in {**expected, "start": (1, sites, latent.numbers)}.items():
        found = tuple(tensors[key].shape) if key in tensors else None
        if found != shape:
            raise InputError(f"{name} does not hold what its recipe asks for: {key} is {found}, not {shape}")


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears complete, or stays as it was, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrainingState:
    """All that a training run needs to go on: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_state(path: Path, state: TrainingState) -> None:
    """Replace the training state in a file, in one step."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_atomically(path, save_bytes(tensors, {"functaconv": json.dumps(dict(state.values))}))


def read_state(path: Path) -> TrainingState:
    """The training state in a file."""
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["functaconv"])
            return TrainingState({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"cannot read the training state {path}: {error}", hint="--overwrite starts the training anew"
        ) from None
