"""Fourier features, then none or several layers: with none and a modulated readout, linear in what modulates it.

At a point with coordinates v (one per axis, a cell or the whole domain being the unit interval) the fixed features are
products of cosines, `g_f(v) = prod_a c(k_fa, v_a)`; learned ones are `sqrt(2) cos(2 pi w_f . v + p_f)` (Rahimi and
Recht 2007). With a modulated readout the network computes

    f(v) = h(g(v)) . (readout + modulation) + mean(v)

with layers h that no latent changes, and a mean of cosines over the whole domain. It is linear in the modulation: the
Jacobian does not depend on it, and the first Gauss-Newton step is exact. Without layers it can be fitted in closed
form. Other modulations change the layers instead.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from functaconv.errors import UsageError
from functaconv.networks.cosines import OPEN, Closure, PointGrid, cosines, lowest, waves, weighed, weighed_on_grid
from functaconv.networks.initial import uniform
from functaconv.networks.layered import READOUT, Layered, LayeredOptions, uniform_layer
from functaconv.networks.modulations import Layer, ModulationName
from functaconv.networks.network import Inputs
from functaconv.networks.placement import Placement
from functaconv.networks.sites import SiteGrid
from functaconv.networks.windows import through_windows
from functaconv.options import MOST_PARAMETERS, STRICT, Frequency, check_size
from functaconv.shapes import CellCoords, Coords, Features, Modulations

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sine": torch.sin,
    "gelu": functional.gelu,
    "leaky-relu": functional.leaky_relu,
}
USUAL_FEATURES = 256
# by how much a correction of the highest frequency is held back: its values between the pixels would ripple
SMOOTHNESS = 10.0
# by how much a value changes when a correction of one is made to all weights of the readout, with signs at random
REACH = 2.5


@dataclass(frozen=True, config=STRICT)
class FourierOptions(LayeredOptions):
    """Fourier features, then none or several layers."""

    kind: Literal["fourier"] = "fourier"
    modulation: ModulationName = READOUT
    """readout: the output's weights; any other (see siren) changes the hidden layers"""
    features: Annotated[int, Field(ge=0, le=65536)] = 0
    """Fourier features; 0: as many as suit the data"""
    mean_features: Annotated[int, Field(ge=0, le=65536)] = 0
    """cosines of the dataset's mean; 0: as many as suit the data"""
    learned: bool = False
    """learn the frequencies, in any direction; otherwise products of cosines along the axes"""
    spread: Frequency = 2.0
    """learned: standard deviation of the frequencies at the beginning (cycles per unit)"""
    layers: Annotated[int, Field(ge=0, le=100)] = 0
    """hidden layers between the features and the output"""
    activation: Literal["sine", "gelu", "leaky-relu"] = "gelu"
    """of the hidden layers"""
    w0_hidden: Frequency = 10.0
    """sine: factor of the arguments"""

    haste: ClassVar[float] = 4.0

    @model_validator(mode="after")
    def _is_possible(self) -> "FourierOptions":
        if self.modulation != READOUT and not self.layers:
            raise ValueError(f"{self.modulation} modulates hidden layers, and there are none: set network.layers")
        if self.layers:
            size = self.width * (self.width * (self.layers - 1) + (self.features or USUAL_FEATURES))
            check_size(size, MOST_PARAMETERS, "parameters")
        return self

    @property
    def has_closed_form(self) -> bool:
        return not self.learned and not self.layers

    @property
    def sees_cell_and_domain(self) -> bool:
        # the features are those of a cell, the mean is that of the whole
        return not self.learned

    @property
    def described(self) -> str:
        kind = "learned waves" if self.learned else "cosines"
        layers = f", {self.layers} {self.activation} layers of {self.width}, {self.modulation}" if self.layers else ""
        mean = "" if self.learned else f", {max(1, self.mean_features)} of the mean"
        return f"fourier, {self.features or USUAL_FEATURES} {kind}{mean}{layers}"

    @property
    def modulations(self) -> int:
        if self.modulation == READOUT and not self.layers:
            return self.features or USUAL_FEATURES
        return super().modulations

    @property
    def layers_modulated(self) -> Sequence[Layer]:
        fan_in = [self.features or USUAL_FEATURES, *[self.width] * self.layers]
        return [Layer(into, self.width, 1.0) for into in fan_in[: self.layers]]


class Fourier(Layered):
    """Fourier features of the coordinates, hidden layers, and a readout.

    Fixed features are those of the first `axes` coordinates, the mean is one of the last `axes`: the same ones for a
    global latent, within and across cells for spatial ones. Along a closed axis of the whole domain they are sines and
    cosines of whole turns. Learned features see all coordinates, and have a constant in place of the mean.
    """

    Options = FourierOptions
    frequencies: Tensor
    mean_frequencies: Tensor

    def __init__(self, inputs: Inputs, options: FourierOptions, *, generator: torch.Generator | None) -> None:
        features, hidden = options.features or USUAL_FEATURES, [options.width] * options.layers
        fan_in = [features, *hidden]
        self.w0 = options.w0_hidden if options.activation == "sine" else 1.0
        bounds = [math.sqrt(6 / size) / self.w0 for size in fan_in[:-1]]
        layers = [uniform_layer(into, out, bound) for into, out, bound in zip(fan_in[:-1], hidden, bounds, strict=True)]
        super().__init__(options, layers, channels=inputs.channels, features=fan_in[-1], generator=generator)
        self.width, self.layers = max(features, *hidden, 1), 1 + options.layers
        self.axes, self.closure = inputs.axes, inputs.closure
        self.has_cells, self.learned = inputs.coords > inputs.axes, options.learned
        self.activation = ACTIVATIONS[options.activation]
        if self.learned:
            self._begin_learned(features, inputs, options.spread, generator)
        else:
            self._begin_fixed(features, max(1, options.mean_features), inputs, generator)
        self.weights = nn.ParameterList(
            uniform(out, into if bend.has_weight else 0, low=-bound, high=bound, generator=generator)
            for into, out, bound, bend in zip(fan_in[:-1], hidden, bounds, self.bends, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(out) for out in hidden)
        # latents change the output as much however many features there are; the closed form fits the latent map itself
        self.reach = 1.0 if options.has_closed_form else fan_in[-1] ** -0.5
        bound = fan_in[-1] ** -0.5 if hidden else 0.0
        size = fan_in[-1] * inputs.channels
        self.readout = nn.Parameter(uniform(size, low=-bound, high=bound, generator=generator))

    def _begin_fixed(self, features: int, mean: int, inputs: Inputs, generator: torch.Generator | None) -> None:
        if not inputs.is_planar:
            raise UsageError(
                "the fourier network sees latitude and longitude, not points on the sphere",
                hint="--set data.geometry=planar, or --set network.learned=true",
            )
        assert inputs.coords in (self.axes, 2 * self.axes)
        # which function along each axis, whole numbers; as float32 like all that a base file holds
        self.register_buffer("frequencies", torch.zeros(features, self.axes))
        self.register_buffer("mean_frequencies", torch.zeros(mean, self.axes))
        self.mean = nn.Parameter(torch.zeros(mean, self.channels))
        if generator is not None:
            self.frequencies.copy_(lowest(features, self.axes, self._closure_of_cells))
            self.mean_frequencies.copy_(lowest(mean, self.axes, self.closure))
            with torch.no_grad():
                # values lie around one half
                self.mean[0] = 0.5

    def _begin_learned(self, features: int, inputs: Inputs, spread: float, generator: torch.Generator | None) -> None:
        frequencies = torch.empty(features, inputs.coords)
        if generator is not None:
            frequencies.normal_(std=spread, generator=generator)
        self.frequencies = nn.Parameter(frequencies)
        self.phases = nn.Parameter(uniform(features, low=0.0, high=2 * math.pi, generator=generator))
        self.constant = nn.Parameter(torch.full((self.channels,), 0.5))

    @property
    def output(self) -> Float[Tensor, "number channel"]:
        return self.readout.reshape(-1, self.channels)

    @property
    def correction_scales(self) -> Float[Tensor, " modulation"]:
        """A correction of the readout falls with the fourth power of a cosine's frequency."""
        if self.learned or self.weights:
            return super().correction_scales
        roughness = (self.frequencies / (self.frequencies.amax(0) + 1)).square().sum(1)
        falling = 1 / (1 + SMOOTHNESS * roughness.square())
        # of products of cosines over whole half-waves
        mean_squares = 0.5 ** (self.frequencies > 0).sum(1)
        return (REACH * falling / (falling.square() * mean_squares).sum().sqrt()).repeat_interleave(self.channels)

    def encoded(self, coords: Float[Tensor, "*point coord"]) -> Float[Tensor, "*point feature"]:
        """The Fourier features of each point."""
        if self.learned:
            return waves(coords, self.frequencies, self.phases)
        return cosines(coords[..., : self.axes], self.frequencies, self._closure_of_cells)

    def common(self, coords: Float[Tensor, "*point coord"]) -> Float[Tensor, "*point channel"]:
        """What no modulation changes: the mean of the dataset at each point."""
        if self.learned:
            return self.constant.expand(*coords.shape[:-1], -1)
        return weighed(coords[..., -self.axes :], self.mean_frequencies, self.mean, self.closure)

    @property
    def _closure_of_cells(self) -> Closure:
        return OPEN if self.has_cells else self.closure

    def through_windows(self, modulation: Modulations, sites: SiteGrid, coords: Coords) -> Features | None:
        """Features of points that form a grid of two or three axes, axis by axis."""
        grid = PointGrid.of(coords) if len(sites.shape) > 1 else None
        if grid is None:
            return None
        weights = self._weights(modulation).reshape(*modulation.shape[:2], -1, self.channels)
        seen = through_windows(weights, self.frequencies, sites, grid)
        return None if seen is None else seen + weighed_on_grid(grid, self.mean_frequencies, self.mean, self.closure)

    @property
    def sees_windows(self) -> bool:
        """The features of a cell are products over its axes."""
        return self.has_cells and not self.learned and not self.weights

    def hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point."""
        values = self.encoded(coords)
        for number in range(len(self.weights)):
            values = self.layer(number, values, modulations, lambda product: self.activation(self.w0 * product))
        return values

    def _read_out(
        self, placement: Placement, weights: Float[Tensor, "number column"]
    ) -> Float[Tensor, "cell point column"]:
        """Sums of what is read out, with weights that are the same at all points."""
        if self.learned or self.weights:
            return super()._read_out(placement, weights)
        coords = placement.coords[..., : self.axes]
        return weighed(coords, self.frequencies, weights, self._closure_of_cells)
