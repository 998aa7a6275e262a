"""SIREN (Sitzmann et al. 2020) with modulated layers, as in functa (Dupont et al. 2022).

Layer l computes `sin(w0 * (scale * (W h + b) + shift))`; the last layer is linear plus an output offset. Derivatives by
shifts and scales are written out, those by other modulations are autograd's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.initial import uniform
from functaconv.networks.layered import MOST_COORDS, Layered, LayeredOptions, uniform_layer
from functaconv.networks.modulations import Layer
from functaconv.networks.network import Inputs, Pullback
from functaconv.networks.placement import Placement
from functaconv.options import MOST_PARAMETERS, STRICT, Depth, Frequency, check_size
from functaconv.shapes import CellCoords, CellFeatures, Modulations

Sweep = Callable[[Tensor], Iterator[tuple[int, Tensor, Tensor | None]]]


# modulations whose derivatives are written out
FAST = ("shift", "film")


@dataclass(frozen=True, config=STRICT)
class SirenOptions(LayeredOptions):
    """Sine layers."""

    kind: Literal["siren"] = "siren"
    depth: Depth = 5
    """layers, the linear output included"""
    w0_first: Frequency = 30.0
    """factor of the first layer's sine arguments: how fine the details are that it begins with"""
    w0_hidden: Frequency = 30.0
    """the same of the other sine layers"""
    output_offset: Annotated[float, Field(ge=-10, le=10)] = 0.5
    """added to the output: features lie around one half"""
    skips: bool = False
    """hidden layers add to what they were given"""
    frequencies: Annotated[int, Field(ge=0, le=8192)] = 0
    """learned frequencies whose sines and cosines stand in for the coordinates; 0 for none"""

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> "SirenOptions":
        size = self.width * (self.width * (self.depth - 2) + 2 * self.frequencies)
        check_size(size, MOST_PARAMETERS, "parameters")
        return self

    @property
    def sweep_width(self) -> int:
        return self.width if self.modulation in FAST else 0

    @property
    def described(self) -> str:
        return f"siren, width {self.width}, depth {self.depth}, {self.modulation}"

    @property
    def layers_modulated(self) -> Sequence[Layer]:
        fan_in = [2 * self.frequencies or MOST_COORDS, *[self.width] * (self.depth - 2)]
        return [Layer(into, self.width, 1.0) for into in fan_in]


class Siren(Layered):
    """Coordinates and modulations to features, through sine layers.

    `depth` counts the linear output layer, as functa does: depth 10 has nine sine layers. Initialisation is
    functa's: first layer U(±1/fan_in), the others U(±sqrt(6/fan_in)/w0), zero biases.

    With `skips` a hidden layer adds to what it was given. With `frequencies` the first layer sees sines and cosines of
    that many learned frequencies (cycles per unit, drawn with standard deviation w0_first / 2 pi) in place of the
    coordinates.
    """

    Options = SirenOptions

    def __init__(self, inputs: Inputs, options: SirenOptions, *, generator: torch.Generator | None) -> None:
        width, depth, w0_hidden, coords = options.width, options.depth, options.w0_hidden, inputs.coords
        w0 = [options.w0_first] + [w0_hidden] * (depth - 2)
        fan_in, bounds = [coords] + [width] * (depth - 1), [1 / coords]
        if frequencies := options.frequencies:
            w0[0], fan_in[0] = w0_hidden, 2 * frequencies
            bounds = [math.sqrt(6 / (2 * frequencies)) / w0_hidden]
        bounds += [math.sqrt(6 / width) / w0_hidden] * (depth - 1)
        layers = [uniform_layer(into, width, bound) for into, bound in zip(fan_in[:-1], bounds[:-1], strict=True)]
        super().__init__(options, layers, channels=inputs.channels, generator=generator)
        self.w0, self.skips, self.output_offset = w0, options.skips, options.output_offset
        self.scales, self.is_fast, self.reach = options.modulation == "film", options.modulation in FAST, width**-0.5
        self.frequencies: nn.Parameter | None = None
        if frequencies:
            spread = torch.empty(frequencies, coords)
            if generator is not None:
                spread.normal_(std=options.w0_first / (2 * math.pi), generator=generator)
            self.frequencies = nn.Parameter(spread)
        fan_out = [width] * (depth - 1) + [inputs.channels]
        has_weight = [bend.has_weight for bend in self.bends] + [True]
        self.weights = nn.ParameterList(
            uniform(out, into if has else 0, low=-bound, high=bound, generator=generator)
            for into, out, bound, has in zip(fan_in, fan_out, bounds, has_weight, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(out) for out in fan_out)

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights between hidden layers, which an optimiser may orthogonalise."""
        return [weight for weight in list(self.weights)[1:-1] if weight.numel()]

    @property
    def output(self) -> Float[Tensor, "number channel"]:
        weights: Tensor = self.weights[-1].mT
        return weights

    def common(self, coords: CellCoords) -> Float[Tensor, "cell point channel"] | None:
        """The output's bias, where it is not part of a pass that is written out."""
        if self.is_fast:
            return None
        bias: Tensor = self.biases[-1] + self.output_offset
        return bias.expand(*coords.shape[:-1], -1)

    def hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point."""
        values: Tensor = self._encoded(coords)
        for number, w0 in enumerate(self.w0):
            after = self.layer(number, values, modulations, partial(_sine, w0))
            values = values + after if self.skips and number else after
        return values

    def _encoded(self, coords: CellCoords) -> Tensor:
        """Coordinates, or sines and cosines of the learned frequencies, as the first layer sees them."""
        if self.frequencies is None:
            return coords
        phase = coords @ (2 * math.pi * self.frequencies).T
        # forward derivatives have rules for these alone
        return torch.cat(sine_cosine(phase) if self.is_fast else (phase.sin(), phase.cos()), -1)

    def forward(self, coords: CellCoords, modulations: Sequence[Float[Tensor, "item cell #point _"]]) -> CellFeatures:
        """Features of every point of every cell."""
        if not self.is_fast:
            return super().forward(coords, modulations)
        features, _ = self._run(coords, modulations, one_way=not torch.is_grad_enabled())
        return features

    def vjp(self, modulation: Modulations, placement: Placement) -> tuple[CellFeatures, Pullback]:
        """Features, and the function that pulls a cotangent of them back onto the modulations.

        The pullback is written out in ordinary differentiable operations, so that the outer loop differentiates
        through it once instead of asking autograd for a double backward.
        """
        if not self.is_fast:
            return super().vjp(modulation, placement)
        features, sweep = self._run(placement.coords, self._split(placement.spread(modulation)))

        def pullback(cotangent: CellFeatures) -> Modulations:
            shift_parts: list[Tensor] = []
            scale_parts: list[Tensor] = []
            for layer, by_shift, by_scale in sweep(cotangent @ self.weights[-1]):
                shift_parts.append(placement.gather(by_shift) * self.w0[layer])
                if by_scale is not None:
                    scale_parts.append(placement.gather(by_scale))
            return torch.cat(shift_parts[::-1] + scale_parts[::-1], -1)

        return features, pullback

    def jacobian(
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "*any modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "#item cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads.

        One reverse sweep per channel, kept apart for every point; of the modulations only what `onto` makes of
        them is ever held. The sweeps run in `sweep_dtype`, features and derivatives are those of the parameters.
        """
        if not self.is_fast:
            return super().jacobian(modulation, placement, onto)
        modulations = self._split(placement.spread(modulation))
        features, sweep = self._run(placement.coords, modulations, sweep_dtype=self.sweep_dtype)
        parts = torch.split(onto, self.width)
        shifts = [(w0 * part).to(self.sweep_dtype) for w0, part in zip(self.w0, parts, strict=False)]
        scales = [part.to(self.sweep_dtype) for part in parts[len(self.w0) :]]
        shape = (*features.shape[:3], self.width)
        channels: list[Tensor] = []
        for weight in self.weights[-1]:
            rows: Tensor | None = None
            for layer, by_shift, by_scale in sweep(weight.to(self.sweep_dtype).expand(shape)):
                rows = _plus(rows, by_shift, shifts[layer])
                if by_scale is not None:
                    rows = _plus(rows, by_scale, scales[layer])
            assert rows is not None
            channels.append(rows.to(features.dtype).reshape(*shape[:3], -1))
        return features, torch.stack(channels, 3)

    def _run(
        self,
        coords: CellCoords,
        modulations: Sequence[Tensor],
        *,
        one_way: bool = False,
        sweep_dtype: torch.dtype | None = None,
    ) -> tuple[CellFeatures, Sweep]:
        """Features, and the way back: from a cotangent of the last hidden layer, layer by layer from the last to
        the first, the derivative by its shift (short of the factor w0) and by its scale, at every point. With
        `one_way` nothing is kept for it.
        """
        count = len(self.w0)
        shifts = modulations[:count]
        # a zero latent leaves the network as it is: scales are counted from one
        scales = [1 + part for part in modulations[count:]] if self.scales else [None] * count
        cosines: list[Tensor] = []
        inputs: list[Tensor] = []
        hidden = self._encoded(coords)
        for layer, (weight, bias, w0, shift, scale) in enumerate(
            zip(self.weights[:-1], self.biases[:-1], self.w0, shifts, scales, strict=True)
        ):
            before = hidden if self.skips and layer else None
            # w0 goes into the small matrices, not over the large activations
            linear = functional.linear(hidden, w0 * weight, w0 * bias)
            angle = linear + w0 * shift if scale is None else torch.addcmul(w0 * shift, linear, scale)
            if one_way:
                hidden = angle.sin_()
            else:
                if scale is not None:
                    inputs.append(linear.to(sweep_dtype))
                hidden, cosine = sine_cosine(angle)
                cosines.append(cosine.to(sweep_dtype))
            if before is not None:
                hidden = hidden + before
        features = functional.linear(hidden, self.weights[-1], self.biases[-1] + self.output_offset)

        def sweep(back: Tensor) -> Iterator[tuple[int, Tensor, Tensor | None]]:
            for layer in reversed(range(len(self.w0))):
                beyond, back = back, back * cosines[layer]
                scale = scales[layer]
                yield layer, back, None if scale is None else back * inputs[layer]
                if layer:
                    inner = back if scale is None else back * scale.to(sweep_dtype)
                    back = inner @ (self.w0[layer] * self.weights[layer]).to(sweep_dtype)
                    if self.skips:
                        back = back + beyond

        return features, sweep


def _sine(w0: float, product: Tensor) -> Tensor:
    return torch.sin(w0 * product)


def _plus(rows: Tensor | None, values: Tensor, weight: Tensor) -> Tensor:
    """`rows + values @ weight`, with points in one row each."""
    flat = values.reshape(-1, values.shape[-1])
    return flat @ weight if rows is None else torch.addmm(rows, flat, weight)


class _SineCosine(torch.autograd.Function):
    """Both at once; the backward needs no trigonometry, since each is the other's derivative."""

    @staticmethod
    def forward(angle: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(angle), torch.cos(angle)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, by_sine: Tensor | None, by_cosine: Tensor | None) -> Tensor | None:
        sine: Tensor
        cosine: Tensor
        sine, cosine = ctx.saved_tensors
        if by_cosine is None:
            return None if by_sine is None else by_sine * cosine
        if by_sine is None:
            return -by_cosine * sine
        return torch.addcmul(by_sine * cosine, by_cosine, sine, value=-1)


def sine_cosine(angle: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Sine and cosine of the same angle (radians)."""
    sine, cosine = _SineCosine.apply(angle)  # type: ignore[no-untyped-call]
    return sine, cosine
