"""Settings of a base: validated, frozen, written as TOML; and the base they build."""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from functaconv.base import LEAST_POINTS, TAPE_PER_LAYER, Base
from functaconv.data.decoders.images import ImageTransform
from functaconv.errors import InputError, UsageError, lookup
from functaconv.functaset.schema import MOST_NUMBERS
from functaconv.modalities import Axes, ChannelAxis
from functaconv.modalities.reading import Reading
from functaconv.networks import Fourier, LatentMap, ModulatedNetwork, Network, Siren, SiteGrid
from functaconv.networks.latents import Frame
from functaconv.signals.geometry import Flat, Geometry
from functaconv.signals.normalizer import Levels, Normalizer
from functaconv.signals.tiles import LEAST_TILE
from functaconv.solvers import SOLVERS

MOST_PARAMETERS = 1 << 30
"""of a matrix, or all matrices of a network"""
MOST_NEIGHBOURS = 1 << 24
"""entries of the table that says which site lies beside which"""
MOST_CURVATURE = 1 << 27
"""numbers in the matrices of Gauss-Newton, of one item: a step holds several copies of them"""
MOST_FACTORED = 4096
"""side of a matrix that is factored as a whole"""
MOST_TOML = 1 << 20
"""bytes"""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Frequency = Annotated[float, Field(ge=1e-6, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=1, lt=10**6)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _check_size(asked: int, most: int, what: str) -> None:
    if asked > most:
        raise ValueError(f"{asked} {what}, at most {most} are possible")


@dataclass(frozen=True, config=_STRICT)
class DataRecipe:
    """How records become signals."""

    field: Name | None = None
    """suffix of the member that holds the array; by default the first usable one"""
    channels: Literal[1, 3] | None = None
    """images: 1 for gray, 3 for RGB; by default RGB unless all of the first items are gray"""
    resize: Pixels | tuple[Pixels, Pixels] | None = None
    """images: the short side, or height and width"""
    crop: Pixels | tuple[Pixels, Pixels] | None = None
    """images: then the side, or height and width, of what is cut out of the centre"""
    tile: Annotated[int, Field(ge=LEAST_TILE, lt=10**6)] | None = None
    """images: larger ones are cut into tiles of at most this side"""
    channel_axis: ChannelAxis = "auto"
    """arrays: where the channels stand"""
    modality: Literal["auto", "array", "voxels"] = "auto"
    """what arrays are; auto: grids with latitude and longitude, voxels of 0 and 1 only, else plain arrays"""
    geometry: Literal["sphere", "planar"] = "sphere"
    """grids: the network sees points on the sphere, or latitude and longitude as a plane (fourier: always so)"""
    weights: Literal["equal", "area"] = "equal"
    """grids: how much a point counts in the loss; area: by the cosine of its latitude"""
    levels: Levels = "auto"
    """grids: whether each level has a range of its own; auto: where their ranges differ wildly"""

    @property
    def transform(self) -> ImageTransform | None:
        return ImageTransform(self.resize, self.crop) if self.resize or self.crop else None

    def reading(self, axes: Axes) -> Reading:
        return Reading(axes, self.field, self.transform, self.tile)


@dataclass(frozen=True, config=_STRICT)
class NetworkRecipe:
    """The shared coordinate network."""

    kind: Name = "siren"
    width: Annotated[int, Field(ge=1, le=8192)] = 128
    depth: Annotated[int, Field(ge=2, le=100)] = 5
    """layers, the linear output included"""
    w0_first: Frequency = 30.0
    w0_hidden: Frequency = 30.0
    output_offset: Annotated[float, Field(ge=-10, le=10)] = 0.5
    modulation: Literal["shift", "film"] = "shift"
    """film: scales as well as shifts"""
    skips: bool = False
    """hidden layers add to what they were given"""
    frequencies: Annotated[int, Field(ge=0, le=8192)] = 0
    """learned frequencies whose sines and cosines stand in for the coordinates; 0 for none"""
    features: Annotated[int, Field(ge=0, le=65536)] = 0
    """fourier: cosines that the latents weight; 0: as many as suit the data"""
    mean_features: Annotated[int, Field(ge=0, le=65536)] = 0
    """fourier: cosines of the dataset's mean; 0: as many as suit the data"""

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        if self.kind != "fourier":
            size = self.width * (self.width * (self.depth - 2) + 2 * self.frequencies)
            _check_size(size, MOST_PARAMETERS, "parameters")
        return self

    @property
    def described(self) -> str:
        """The network in words."""
        if self.kind == "fourier":
            return f"fourier, {self.features} cosines, {self.mean_features} of the mean"
        return f"{self.kind}, width {self.width}, depth {self.depth}, {self.modulation}"

    @property
    def modulations(self) -> int:
        """How many numbers modulate the network (fourier: per channel)."""
        if self.kind == "fourier":
            return max(1, self.features)
        return (self.depth - 1) * self.width * (2 if self.modulation == "film" else 1)


@dataclass(frozen=True, config=_STRICT)
class LatentRecipe:
    """What is fitted per item."""

    numbers: Annotated[int, Field(ge=1, le=65536)] = 64
    """per site"""
    sites: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=3)] = ()
    """sites along each axis; empty for one global latent"""
    interpolation: Literal["nearest", "linear", "window"] = "nearest"
    """window: a point is seen by the nearest sites along every axis, each through coordinates of its own, and what they
    make of it is blended smoothly"""
    frame: Literal["auto", "local", "global", "both"] = "auto"
    """coordinates within the cell or across it; auto: local with the nearest site (grids: both, a place on earth is not
    like another) and with windows, global with linear interpolation"""
    kernel: Literal[1, 3] = 1
    """latent map over a site alone, or over its 3 x 3 neighbourhood"""
    learned_start: bool = False

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        sites = math.prod(self.sites)
        _check_size(sites * self.numbers, MOST_NUMBERS, "numbers per item")
        _check_size(sites * self.kernel ** len(self.sites), MOST_NEIGHBOURS, "neighbours of sites")
        return self

    @property
    def read(self) -> int:
        """How many numbers a point depends on, at most."""
        corners = 2 if self.interpolation != "nearest" else 1
        return self.numbers * math.prod(corners * self.kernel for _ in self.sites)

    @property
    def curvature(self) -> int:
        """How many numbers the matrices of all cells of an item have."""
        beyond = int(self.interpolation != "nearest")
        return math.prod(size + beyond for size in self.sites) * self.read**2


@dataclass(frozen=True, config=_STRICT)
class SolverRecipe:
    """How a latent is fitted."""

    kind: Name = "gradient"
    steps: Annotated[int, Field(ge=1, le=1000)] = 3
    per_step: bool = True
    """learn the rates of each step on their own"""
    initial: tuple[Positive, Positive] = (0.5, 0.5)
    limits: tuple[Annotated[float, Field(ge=0, le=1e6)], Positive] = (1e-6, 10.0)
    damping: Annotated[float, Field(ge=1e-9, le=1e6)] = 1e-3
    """gauss-newton: added to the curvature, relative to the mean of its diagonal"""
    learned_damping: bool = False
    chord: bool = False
    """gauss-newton: the curvature of the start serves all steps"""

    @field_validator("initial", "limits")
    @classmethod
    def _is_ordered(cls, span: tuple[float, float]) -> tuple[float, float]:
        if span[0] > span[1]:
            raise ValueError(f"the span runs from {span[0]:g} down to {span[1]:g}")
        return span


@dataclass(frozen=True, config=_STRICT)
class TrainingRecipe:
    """The outer loop."""

    steps: Count | None = None
    minutes: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """wall clock of learning; 0: the closed form alone"""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    rate: Positive = 1e-3
    optimizer: Literal["adam", "muon"] = "adam"
    """muon: for the matrices between hidden layers and from latents to modulations; Adam takes the rest"""
    matrix_rate: Positive = 2e-3
    """of Muon, in Adam's units"""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """of Muon's matrices"""
    solver_rate: Positive = 1e-2
    """Adam's rate for the learned inner rates: with the network's they could not move"""
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.02
    """fraction of the budget over which the rates rise from zero"""
    clip: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """global norm of the outer gradient; 0 does not clip"""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """decay of the moving average that is validated and exported; 0 exports the last update"""
    second_order: bool = True
    one_step: Fraction = 0.3
    """gauss-newton: fraction of the budget in which the base learns through one step; then through several"""
    through: Annotated[int, Field(ge=1, le=16)] = 2
    """gauss-newton: how many steps the outer derivative goes through then"""
    envelope: bool = False
    """gauss-newton: hold the latents of all the solver's steps fixed in the outer derivative instead, where the fit
    has converged, and go back to one step where it has not"""
    converged: Fraction = 0.02
    """the share of the error that another step may still take away from a fit that counts as converged"""
    inner_points: Count | None = None
    """points of each item in the inner steps (global latents), or in whole cells (nearest site); all by default"""
    outer_points: Count | None = None
    """points of each item in the outer loss; all by default"""
    mixing: Annotated[float, Field(ge=0, le=4)] = 0.0
    """what is learned from are items plus so much of the differences between others: against learning by heart"""
    recompute: Literal["auto", "yes", "no"] = "auto"
    """gradient checkpointing of the inner steps; auto: when memory asks for it"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


@dataclass(frozen=True, config=_STRICT)
class ClosedFormRecipe:
    """The linear base that fit-base begins with."""

    smoothness: Annotated[float, Field(ge=0, le=1e6)] = 0.4
    """windows: ridge on a cosine with a half-wave per pixel, relative to the mean of the diagonal; it grows with the
    fourth power of the frequency"""
    between: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """windows: how much values between the pixels count, as Lanczos interpolation gives them, beside those of the
    pixels"""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """windows: of latents given the readout, and the readout given the latents, at most"""


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """All the settings of a base and its training."""

    name: Name = "custom"
    data: DataRecipe = DataRecipe()
    network: NetworkRecipe = NetworkRecipe()
    latent: LatentRecipe = LatentRecipe()
    solver: SolverRecipe = SolverRecipe()
    training: TrainingRecipe = TrainingRecipe()
    closed_form: ClosedFormRecipe = ClosedFormRecipe()

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        around = self.latent.kernel ** len(self.latent.sites)
        _check_size(self.network.modulations * self.latent.numbers * around, MOST_PARAMETERS, "weights of latents")
        _check_size(self.solver.steps * self.latent.numbers, MOST_PARAMETERS, "rates")
        if self.solver.kind == "gauss-newton":
            kind = "with gauss-newton (the solver gradient can do with more)"
            _check_size(self.latent.numbers, MOST_FACTORED, f"numbers per site {kind}")
            _check_size(self.latent.curvature, MOST_CURVATURE, f"entries in the matrices of an item {kind}")
        return self

    def workspace(self, channels: int) -> int:
        """How many numbers it takes to fit an item, `LEAST_POINTS` points at a time."""
        activations = LEAST_POINTS * self.network.width * TAPE_PER_LAYER
        if self.solver.kind != "gauss-newton":
            return activations
        return activations + LEAST_POINTS * channels * self.latent.read + self.latent.curvature

    def settings(self) -> dict[str, Any]:
        """Nested plain values; what is unset is left out."""
        return dict[str, Any](_without_none(TypeAdapter(Recipe).dump_python(self, mode="json")))

    def changed(self, settings: Mapping[str, Any]) -> "Recipe":
        """The same recipe with some settings replaced, given as nested tables."""
        return validated(merged(self.settings(), settings))

    def to_toml(self) -> str:
        return tomli_w.dumps(self.settings())


def validated(settings: Mapping[str, Any]) -> Recipe:
    """A recipe from nested plain values; anything unknown or out of range is a `UsageError` that names it."""
    try:
        return TypeAdapter(Recipe).validate_python(settings)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'recipe'}: {problem['msg'].lower()}"
            f" (found {str(problem['input'])[:80]!r})"
            for problem in error.errors()[:5]
        )
        unknown = any(problem["type"] == "unexpected_keyword_argument" for problem in error.errors())
        hint = "known settings: " + ", ".join(_names()) if unknown else "`functaconv.recipe` says what each may be"
        raise UsageError(f"the recipe is not valid: {problems}", hint=hint) from None


def from_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; a top-level `preset` names what they start from."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML + 1)
        if len(content) > MOST_TOML:
            raise InputError(f"{path} has more than {MOST_TOML} bytes", hint="a recipe is a TOML file")
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe file {path}", hint="a recipe is a TOML file") from None
    # an integer without end is a ValueError, brackets without end exhaust the stack
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}", hint="a recipe is a TOML file") from None


def assignment(text: str) -> dict[str, Any]:
    """`training.rate=1e-4` as nested tables; the value is TOML, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"cannot read the setting {text!r}", hint="write it as --set training.rate=1e-4")
    lookup(dict.fromkeys(_names()), key.strip(), what="setting")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def latent_of(text: str) -> dict[str, Any]:
    """`256`, or `8x8x16` (sites along each axis, then numbers per site), as settings."""
    try:
        parts = [int(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 4 or min(parts) < 1:
        raise UsageError(f"cannot read the latent {text!r}", hint="write 256, or 8x8x16 for 8 x 8 sites of 16 numbers")
    return {"latent": {"numbers": parts[-1], "sites": parts[:-1]}}


def build(
    recipe: Recipe,
    axes: Axes,
    normalizer: Normalizer,
    geometry: Geometry | None = None,
    *,
    to_be_loaded: bool = False,
) -> Base:
    """A fresh base, initialised from the recipe's seed, or with whatever the memory holds, `to_be_loaded`. The geometry
    is that of plain arrays unless given.
    """
    latent, geometry = recipe.latent, geometry or Flat(axes.dims)
    sites = latent.sites or (1,) * axes.dims
    if len(sites) != axes.dims:
        raise UsageError(
            f"the latent has {len(sites)} site axes, the items have {axes.dims}",
            hint=f"write {'x'.join(['8'] * axes.dims)}x16 for spatial latents, or one number for a global one",
        )
    grid = SiteGrid(tuple(sites), latent.interpolation, frame_of(latent, axes, recipe.network.kind), geometry.is_closed)
    generator = None if to_be_loaded else torch.Generator().manual_seed(recipe.training.seed)
    network = lookup(_MAKERS, recipe.network.kind, what="network")(recipe.network, grid, geometry, axes, generator)
    latent_map = LatentMap(grid, latent.numbers, network.modulations, kernel=latent.kernel, generator=generator)
    kind = lookup(SOLVERS, recipe.solver.kind, what="solver")
    options = {name: getattr(recipe.solver, name) for name in kind.settings}
    solver = kind(latent.numbers, steps=recipe.solver.steps, **options, generator=generator)
    field = ModulatedNetwork(network, latent_map, grid)
    return Base(
        field, solver, normalizer, axes,
        latent=latent.numbers, learned_start=latent.learned_start, geometry=geometry,
        by_area=recipe.data.weights == "area",
    )  # fmt: skip


def _siren(
    recipe: NetworkRecipe, grid: SiteGrid, geometry: Geometry, axes: Axes, generator: torch.Generator | None
) -> Network:
    return Siren(
        coords_of(grid, geometry),
        axes.channels,
        width=recipe.width,
        depth=recipe.depth,
        w0_first=recipe.w0_first,
        w0_hidden=recipe.w0_hidden,
        output_offset=recipe.output_offset,
        scales=recipe.modulation == "film",
        skips=recipe.skips,
        frequencies=recipe.frequencies,
        generator=generator,
    )


def _fourier(
    recipe: NetworkRecipe, grid: SiteGrid, geometry: Geometry, axes: Axes, _: torch.Generator | None
) -> Network:
    if geometry.coords != axes.dims:
        raise UsageError(
            "the fourier network sees latitude and longitude, not points on the sphere",
            hint="--set data.geometry=planar",
        )
    return Fourier(
        coords_of(grid, geometry),
        axes.channels,
        axes=axes.dims,
        features=max(1, recipe.features),
        mean_features=max(1, recipe.mean_features),
        is_closed=geometry.is_closed,
    )


_MAKERS: dict[str, Callable[[NetworkRecipe, SiteGrid, Geometry, Axes, torch.Generator | None], Network]] = {
    "siren": _siren,
    "fourier": _fourier,
}


def frame_of(latent: LatentRecipe, axes: Axes, kind: str) -> Frame:
    """Where coordinates start, as asked for or as suits the data."""
    if latent.frame != "auto":
        return latent.frame
    if latent.interpolation == "linear":
        return "global"
    if kind == "fourier":
        # its features are those of a cell, its mean is that of the whole
        return "both"
    return "both" if axes.kind == "grid" else "local"


def coords_of(sites: SiteGrid, geometry: Geometry) -> int:
    """How many coordinates the network sees."""
    if sites.count == 1 or sites.frame == "global":
        return geometry.coords
    return geometry.axes + (geometry.coords if sites.frame == "both" else 0)


def _names() -> Iterable[str]:
    for section, values in asdict(Recipe()).items():
        if isinstance(values, dict):
            for key in values:
                yield f"{section}.{key}"
        else:
            yield section


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, with those of `over` in place of, or beside, those of `under`."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
