"""Fourier features, then none or several layers: with none and a modulated readout, linear in what modulates it.

At a point with coordinates v (one per axis, a cell or the whole domain being the unit interval) the fixed features are
products of cosines, `g_f(v) = prod_a c(k_fa, v_a)`; learned ones are `sqrt(2) cos(2 pi w_f . v + p_f)` (Rahimi and
Recht 2007). With a modulated readout the network computes

    f(v) = h(g(v)) . (readout + modulation) + mean(v)

with layers h that no latent changes, and a mean of cosines over the whole domain. It is linear in the modulation: the
Jacobian does not depend on it, and the first Gauss-Newton step is exact. Without layers it can be fitted in closed
form. Shifts, or shifts and scales, modulate the layers instead.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from functaconv.errors import UsageError
from functaconv.networks.cosines import OPEN, Closure, cosines, lowest, weighed
from functaconv.networks.initial import uniform
from functaconv.networks.network import Inputs, Network, NetworkOptions, Pullback
from functaconv.networks.placement import Placement
from functaconv.options import MOST_PARAMETERS, STRICT, Frequency, Width, check_size
from functaconv.shapes import CellCoords, CellFeatures, Modulations

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
class FourierOptions(NetworkOptions):
    """Fourier features, then none or several layers."""

    kind: Literal["fourier"] = "fourier"
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
    width: Width = 128
    """numbers of a hidden layer"""
    activation: Literal["sine", "gelu", "leaky-relu"] = "gelu"
    """of the hidden layers"""
    w0_hidden: Frequency = 10.0
    """sine: factor of the arguments"""
    modulation: Literal["readout", "shift", "film"] = "readout"
    """readout: latents change the output's weights; shift, film: they shift, or shift and scale, the hidden layers"""

    @model_validator(mode="after")
    def _is_possible(self) -> "FourierOptions":
        if self.modulation != "readout" and not self.layers:
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
        if self.modulation == "readout":
            return self.width if self.layers else self.features or USUAL_FEATURES
        return self.layers * self.width * (2 if self.modulation == "film" else 1)


class Fourier(Network):
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
        readout = ([features, *hidden][-1], inputs.channels)
        is_linear = options.modulation == "readout"
        parts = [math.prod(readout)] if is_linear else hidden * (2 if options.modulation == "film" else 1)
        super().__init__(parts, width=max(features, *hidden, 1), layers=1 + options.layers)
        self.is_linear, self.absorbs_constants = is_linear, options.modulation != "film"
        self.axes, self.channels, self.closure = inputs.axes, inputs.channels, inputs.closure
        self.has_cells, self.learned = inputs.coords > inputs.axes, options.learned
        self.activation, self.w0 = ACTIVATIONS[options.activation], options.w0_hidden
        if options.activation != "sine":
            self.w0 = 1.0
        if self.learned:
            self._begin_learned(features, inputs, options.spread, generator)
        else:
            self._begin_fixed(features, max(1, options.mean_features), inputs, generator)
        fan_in = [features, *hidden]
        self.weights = nn.ParameterList(
            uniform(out, into, low=-bound, high=bound, generator=generator)
            for into, out, bound in zip(
                fan_in[:-1], hidden, [math.sqrt(6 / size) / self.w0 for size in fan_in[:-1]], strict=True
            )
        )
        self.biases = nn.ParameterList(torch.zeros(out) for out in hidden)
        # latents change the output as much however many features there are; the closed form fits the latent map itself
        self.reach = 1.0 if options.has_closed_form else readout[0] ** -0.5
        bound = readout[0] ** -0.5 if hidden else 0.0
        self.readout = nn.Parameter(uniform(math.prod(readout), low=-bound, high=bound, generator=generator))

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
    def matrices(self) -> list[nn.Parameter]:
        """Weights of the hidden layers."""
        return list(self.weights)

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
            return math.sqrt(2) * torch.cos(coords @ (2 * math.pi * self.frequencies).T + self.phases)
        return cosines(coords[..., : self.axes], self.frequencies, self._closure_of_cells)

    def common(self, coords: Float[Tensor, "*point coord"]) -> Float[Tensor, "*point channel"]:
        """What no modulation changes: the mean of the dataset at each point."""
        if self.learned:
            return self.constant.expand(*coords.shape[:-1], -1)
        return weighed(coords[..., -self.axes :], self.mean_frequencies, self.mean, self.closure)

    @torch.no_grad()
    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        """Make a modulation that all items share part of the network."""
        if self.is_linear:
            self.readout.copy_(self.readout + self.reach * modulation)
            return
        for bias, shift in zip(self.biases, self._split(modulation), strict=True):
            bias.copy_(bias + shift)

    def forward(self, coords: CellCoords, modulations: Sequence[Float[Tensor, "item cell #point _"]]) -> CellFeatures:
        """Features of every point of every cell, without what all items have in `common`."""
        if self.is_linear:
            return self._read_by_items(self._hidden(coords), self._weights(modulations[0]))
        return self._hidden(coords, modulations) @ self.readout.reshape(-1, self.channels)

    def features(self, modulation: Modulations, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        if not self.is_linear:
            return super().features(modulation, placement)
        if not self._is_one_cell(placement):
            return self._whole(self._read(self._hidden(placement.coords), modulation, placement), placement)
        # one cell reads one site: items side by side
        weights = self._weights(modulation)[:, 0].reshape(len(modulation), -1, self.channels)
        read = self._read_out(placement, weights.permute(1, 0, 2).flatten(1))
        read = read.reshape(*placement.index.shape, len(weights), self.channels).permute(2, 0, 1, 3)
        return self._whole(read, placement)

    def vjp(self, modulation: Modulations, placement: Placement) -> tuple[CellFeatures, Pullback]:
        """Features, and the function that pulls a cotangent of them back onto the modulations."""
        if not self.is_linear:
            return super().vjp(modulation, placement)
        hidden = self._hidden(placement.coords)

        def pullback(cotangent: CellFeatures) -> Modulations:
            if placement.blend is None:
                by_weight = torch.einsum("cpf,icph->icfh", hidden, cotangent)[:, :, None]
            else:
                by_weight = torch.einsum("cpf,icph->icpfh", hidden, cotangent)
            return self.reach * placement.gather(by_weight.flatten(-2))

        return self._whole(self._read(hidden, modulation, placement), placement), pullback

    def jacobian(
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "#item cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads: with a
        modulated readout the same for all items.
        """
        if not self.is_linear:
            return super().jacobian(modulation, placement, onto)
        weights = (self.reach * onto).reshape(len(onto) // self.channels, -1)
        shape = (1, *placement.index.shape, self.channels, onto.shape[1])
        if self._is_one_cell(placement):
            return self.features(modulation, placement), self._read_out(placement, weights).reshape(shape)
        hidden = self._hidden(placement.coords)
        features = self._whole(self._read(hidden, modulation, placement), placement)
        return features, (hidden @ weights).reshape(shape)

    @property
    def _closure_of_cells(self) -> Closure:
        return OPEN if self.has_cells else self.closure

    def _is_one_cell(self, placement: Placement) -> bool:
        return self.is_linear and len(placement.index) == 1 and placement.blend is None

    def _hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point, `[#item, cell, point, number]`, or without items where none is modulated."""
        hidden = self.encoded(coords)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = functional.linear(hidden, weight, bias)
            if len(modulations) > len(self.weights):
                # a zero latent leaves the network as it is: scales are counted from one
                hidden = hidden * (1 + modulations[len(self.weights) + layer])
            if modulations:
                hidden = hidden + modulations[layer]
            hidden = self.activation(self.w0 * hidden)
        return hidden

    def _weights(self, modulation: Float[Tensor, "*any modulation"]) -> Float[Tensor, "*any modulation"]:
        """Of the readout."""
        return self.reach * modulation + self.readout

    def _read(
        self, hidden: Float[Tensor, "cell point number"], modulation: Modulations, placement: Placement
    ) -> CellFeatures:
        """Sums of what is read out; the weights are computed for the sites, which are fewer than what reads them."""
        return self._read_by_items(hidden, placement.spread(self._weights(modulation)))

    def _read_by_items(
        self, hidden: Float[Tensor, "cell point number"], weights: Float[Tensor, "item cell #point modulation"]
    ) -> CellFeatures:
        """Sums of what is read out, with weights that differ from item to item and from cell to cell."""
        weights = weights.reshape(*weights.shape[:3], -1, self.channels)
        if weights.shape[2] == 1:
            return torch.einsum("cpf,icfh->icph", hidden, weights[:, :, 0])
        return torch.einsum("cpf,icpfh->icph", hidden, weights)

    def _read_out(
        self, placement: Placement, weights: Float[Tensor, "number column"]
    ) -> Float[Tensor, "cell point column"]:
        """Sums of what is read out, with weights that are the same at all points."""
        if self.learned or self.weights:
            return self._hidden(placement.coords) @ weights
        coords = placement.coords[..., : self.axes]
        return weighed(coords, self.frequencies, weights, self._closure_of_cells)
