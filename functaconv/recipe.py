"""Settings of a base: validated, frozen, written as TOML."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self, cast

import tomli_w
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from functaconv.data.decoders.transform import ImageTransform
from functaconv.documents import merged
from functaconv.errors import UsageError
from functaconv.functaset.files import problems
from functaconv.functaset.schema import MOST_NUMBERS
from functaconv.modalities import Axes, ChannelAxis
from functaconv.modalities.reading import Reading
from functaconv.networks import NETWORKS, NetworkKind, NetworkOptions, SirenOptions
from functaconv.options import (
    MOST_PARAMETERS,
    STRICT,
    Count,
    Fraction,
    Name,
    NotNegative,
    Positive,
    adapter,
    check_size,
    chosen_from,
)
from functaconv.signals.normalizer import Levels
from functaconv.signals.tiles import LEAST_TILE
from functaconv.solvers import SOLVERS, GaussNewtonOptions, GradientOptions, SolverKind, SolverOptions

# entries of the table that says which site lies beside which
MOST_NEIGHBOURS = 1 << 24
# of a refinement: they are evaluated for every item at every step
MOST_KNOTS = 1 << 16
# numbers in the normal matrices of one item: a step holds several copies of them
MOST_MATRIX_ENTRIES = 1 << 27
# side of a matrix that is factored as a whole
MOST_FACTORED = 4096

Pixels = Annotated[int, Field(ge=1, lt=10**6)]

# the sections of a recipe whose `kind` says which class their options are for
TABLES: dict[str, Mapping[str, NetworkKind | SolverKind]] = {"network": NETWORKS, "solver": SOLVERS}


@dataclass(frozen=True, config=STRICT)
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
    clipped: bool = False
    """images and voxels: features are clipped to 0..1, so that what lies beyond a value of 0 or 1 is no error; voxels
    gain 4 to 8 dB"""
    levels: Levels = "auto"
    """grids: whether each level has a range of its own; auto: where their ranges differ wildly"""

    @property
    def transform(self) -> ImageTransform | None:
        return ImageTransform(self.resize, self.crop) if self.resize or self.crop else None

    def reading(self, axes: Axes) -> Reading:
        return Reading(axes, self.field, self.transform, self.tile)


@dataclass(frozen=True, config=STRICT)
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
    map_width: Annotated[int, Field(ge=0, le=4096)] = 0
    """numbers of the hidden layers of a small convolutional network that is learned on top of the closed form, over the
    sites, or of a global latent over its knots; 0: none"""
    knots: Annotated[tuple[Annotated[int, Field(ge=2, le=4096)], ...], Field(max_length=3)] = ()
    """global latents: points along each axis at which that network sees what the closed form decodes, and adds to it;
    empty: those of the items"""
    mapping: Annotated[int, Field(ge=0, le=2)] = 0
    """hidden layers of a mapping network between a latent and its modulations; 0: a linear map"""
    mapping_width: Annotated[int, Field(ge=1, le=4096)] = 128
    """numbers of each of them"""
    learned_start: bool = False
    """learn the latent at which every fit begins; otherwise it is zero"""

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        sites = math.prod(self.sites)
        check_size(sites * self.numbers, MOST_NUMBERS, "numbers per item")
        check_size(sites * self.kernel ** len(self.sites), MOST_NEIGHBOURS, "neighbours of sites")
        return self

    @property
    def is_refined(self) -> bool:
        """What a global latent decodes to is refined."""
        return bool(self.map_width) and not self.sites

    @property
    def described(self) -> str:
        """The network on top of the closed form in words; empty where there is none."""
        how = "refined" if self.is_refined else "corrected"
        return f"{how} by a network {self.map_width} wide" if self.map_width else ""

    @property
    def read(self) -> int:
        """How many numbers a point depends on, at most."""
        corners = 2 if self.interpolation != "nearest" else 1
        return self.numbers * math.prod(corners * self.kernel for _ in self.sites)

    @property
    def matrix_entries(self) -> int:
        """How many numbers the matrices of all cells of an item have."""
        beyond = int(self.interpolation != "nearest")
        return math.prod(size + beyond for size in self.sites) * self.read**2


@dataclass(frozen=True, config=STRICT)
class TrainingRecipe:
    """The outer loop."""

    steps: Count | None = None
    """updates; by default as many as the minutes allow"""
    minutes: NotNegative | None = None
    """wall clock of learning; 0: the closed form alone"""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """items in an update"""
    rate: Positive = 1e-3
    """Adam's rate"""
    optimizer: Literal["adam", "muon"] = "adam"
    """muon: for the matrices between hidden layers and from latents to modulations; Adam takes the rest"""
    matrix_rate: Positive = 2e-3
    """of Muon, in Adam's units"""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """of Muon's matrices"""
    solver_rate: Positive = 1e-2
    """Adam's rate for the learned inner rates: with the network's they could not move"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """how the rates change over the budget, after the warmup"""
    warmup: Fraction = 0.02
    """fraction of the budget over which the rates rise from zero"""
    clip: NotNegative = 1.0
    """global norm of the outer gradient; 0 does not clip"""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """decay of the moving average that is validated and exported; 0 exports the last update"""
    second_order: bool = True
    """differentiate through the inner steps; otherwise they count as constants (first-order MAML)"""
    one_step: Fraction = 0.3
    """gauss-newton: fraction of the budget in which the base learns through one step; then through several"""
    unrolled_steps: Annotated[int, Field(ge=1, le=16)] = 2
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
    mixup: Annotated[float, Field(ge=0, le=4)] = 0.0
    """learn from items plus so much of the difference between two others: against learning by heart"""
    recompute: Literal["auto", "yes", "no"] = "auto"
    """gradient checkpointing of the inner steps; auto: when memory asks for it"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """of the initial values, the order of the items and the points that are drawn"""


@dataclass(frozen=True, config=STRICT)
class ClosedFormRecipe:
    """The linear base that fit-base begins with."""

    smoothness: NotNegative = 0.4
    """windows: ridge on a cosine with a half-wave per pixel, relative to the mean of the diagonal; it grows with the
    fourth power of the frequency"""
    between: NotNegative = 1.0
    """windows: how much values between the pixels count, as Lanczos interpolation gives them, beside those of the
    pixels"""
    features: Annotated[int, Field(ge=0, le=65536)] = 0
    """cosines that the latents weight; 0: as many as suit the data"""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """windows: of latents given the readout, and the readout given the latents, at most"""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """All the settings of a base and its training."""

    name: Name = "custom"
    data: DataRecipe = DataRecipe()
    network: Annotated[NetworkOptions, chosen_from(NETWORKS, NetworkOptions, "siren", "network"), SerializeAsAny()] = (
        SirenOptions()
    )
    latent: LatentRecipe = LatentRecipe()
    solver: Annotated[SolverOptions, chosen_from(SOLVERS, SolverOptions, "gradient", "solver"), SerializeAsAny()] = (
        GradientOptions()
    )
    training: TrainingRecipe = TrainingRecipe()
    closed_form: ClosedFormRecipe = ClosedFormRecipe()

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> Self:
        around = self.latent.kernel ** len(self.latent.sites)
        read = self.latent.mapping_width if self.latent.mapping else self.latent.numbers * around
        check_size(self.network.modulations * read, MOST_PARAMETERS, "weights of latents")
        if self.latent.sites and (reason := self.network.why_global):
            raise ValueError(f"a latent on sites is not possible: {reason}")
        runs_on = self.latent.frame == "global" or (self.latent.frame, self.latent.interpolation) == ("auto", "linear")
        if self.network.wants_unit_coords and self.latent.sites and runs_on:
            raise ValueError(
                f"network.kind={self.network.kind} multiplies by the coordinates at every level: they may not run on "
                "from cell to cell, so set latent.frame=local, or latent.interpolation=window"
            )
        if self.latent.mapping and (self.latent.kernel > 1 or self.latent.map_width or self.network.has_closed_form):
            raise ValueError(
                "latent.mapping is for networks that are learned, each site by itself: not with latent.kernel=3, "
                "latent.map_width, or network.kind=fourier without layers"
            )
        check_size(math.prod(self.latent.knots), MOST_KNOTS, "knots")
        if self.latent.is_refined and self.training.envelope:
            raise ValueError("training.envelope: a fit does not end where the error of a refined decode is least")
        if self.latent.map_width:
            chord = isinstance(self.solver, GaussNewtonOptions) and self.solver.chord
            if not (self.network.has_closed_form and chord) or self.latent.kernel > 1 or self.latent.learned_start:
                raise ValueError(
                    "latent.map_width corrects the closed form: it needs network.kind=fourier without layers, "
                    "solver.kind=gauss-newton with solver.chord, a kernel of 1 and a start of zero"
                )
            size = self.latent.map_width * (self.latent.map_width + self.latent.numbers) * 3 ** len(self.latent.sites)
            check_size(size + self.latent.map_width * self.network.modulations, MOST_PARAMETERS, "weights of latents")
        check_size(self.solver.steps * self.latent.numbers, MOST_PARAMETERS, "rates")
        if SOLVERS[self.solver.kind].needs_jacobian:
            kind = f"with {self.solver.kind} (the solver gradient can do with more)"
            check_size(self.latent.numbers, MOST_FACTORED, f"numbers per site {kind}")
            check_size(self.latent.matrix_entries, MOST_MATRIX_ENTRIES, f"entries in the matrices of an item {kind}")
        return self

    def settings(self) -> dict[str, Any]:
        """Nested plain values; what is unset is left out."""
        return dict[str, Any](adapter(Recipe).dump_python(self, mode="json", exclude_none=True))

    def changed(self, settings: Mapping[str, Any]) -> "Recipe":
        """The same recipe with some settings replaced, given as nested tables."""
        return validated(merged(self.settings(), settings))

    def to_toml(self) -> str:
        return tomli_w.dumps(self.settings())


def validated(settings: Mapping[str, Any]) -> Recipe:
    """A recipe from nested plain values; anything unknown or out of range is a `UsageError` that names it."""
    try:
        return cast(Recipe, adapter(Recipe).validate_python(settings))
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> UsageError:
    """What is wrong with a recipe, for whoever wrote it."""
    hint = "`functaconv recipes --settings` says what each may be"
    return UsageError(f"the recipe is not valid: {problems(error, most=5)}", hint=hint)


def sections() -> Iterator[tuple[str, type]]:
    """The sections of a recipe, each with the dataclass of its options; those of each network and solver in turn."""
    for field in fields(Recipe):
        if field.name in TABLES:
            yield from ((field.name, entry.Options) for entry in TABLES[field.name].values())
        elif field.name != "name":
            yield field.name, type(field.default)
