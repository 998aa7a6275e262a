"""SIREN (Sitzmann et al. 2020) with modulated layers, as in functa (Dupont et al. 2022).

Layer l computes `sin(w0 * (scale * (W h + b) + shift))`; the last layer is linear plus an output offset.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.initial import uniform
from functaconv.networks.latents import Placement
from functaconv.shapes import CellFeatures, Modulations

Pullback = Callable[[CellFeatures], Modulations]
Sweep = Callable[[Tensor], Iterator[tuple[int, Tensor, Tensor | None]]]


class Siren(nn.Module):
    """Coordinates and modulations to features.

    `depth` counts the linear output layer, as functa does: depth 10 has nine sine layers. Initialisation is
    functa's: first layer U(±1/fan_in), the others U(±sqrt(6/fan_in)/w0), zero biases.

    With `skips` a hidden layer adds to what it was given. With `frequencies` the first layer sees sines and cosines of
    that many learned frequencies (cycles per unit, drawn with standard deviation w0_first / 2 pi) in place of the
    coordinates.
    """

    is_linear = False
    common = None
    sweep_dtype: torch.dtype | None = None
    """in which a Jacobian is computed; None: that of the parameters. Rounding in a Jacobian slows a fit a little; it
    does not stay in the result, as it would from the residuals."""

    def __init__(
        self,
        coords: int,
        channels: int,
        *,
        width: int,
        depth: int,
        w0_first: float = 30.0,
        w0_hidden: float = 30.0,
        output_offset: float = 0.5,
        scales: bool = False,
        skips: bool = False,
        frequencies: int = 0,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.width, self.scales, self.skips, self.output_offset = width, scales, skips, output_offset
        self.w0 = [w0_first] + [w0_hidden] * (depth - 2)
        self.frequencies: nn.Parameter | None = None
        fan_in = [coords] + [width] * (depth - 1)
        if frequencies:
            spread = torch.empty(frequencies, coords)
            if generator is not None:
                spread.normal_(std=w0_first / (2 * math.pi), generator=generator)
            self.frequencies = nn.Parameter(spread)
            self.w0[0], fan_in[0] = w0_hidden, 2 * frequencies
        fan_out = [width] * (depth - 1) + [channels]
        bounds = [1 / coords] + [math.sqrt(6 / width) / w0_hidden] * (depth - 1)
        if frequencies:
            bounds[0] = math.sqrt(6 / (2 * frequencies)) / w0_hidden
        self.weights = nn.ParameterList(
            uniform(out, into, low=-bound, high=bound, generator=generator)
            for into, out, bound in zip(fan_in, fan_out, bounds, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(out) for out in fan_out)

    @property
    def modulations(self) -> int:
        """How many numbers modulate the network: shifts of every sine layer, then scales where there are any."""
        return len(self.w0) * self.width * (2 if self.scales else 1)

    @property
    def layers(self) -> int:
        """How many layers have activations."""
        return len(self.w0)

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights between hidden layers, which an optimiser may orthogonalise."""
        return list(self.weights)[1:-1]

    @property
    def absorbs_constants(self) -> bool:
        """A modulation that all items share can become part of the biases: not where there are scales."""
        return not self.scales

    @torch.no_grad()
    def absorb(self, modulation: Float[Tensor, " modulation"]) -> None:
        """Make a modulation that all items share part of the network."""
        for bias, shift in zip(self.biases, torch.split(modulation, self.width), strict=False):
            bias.copy_(bias + shift)

    def forward(self, modulation: Modulations, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        features, _ = self._run(modulation, placement, one_way=not torch.is_grad_enabled())
        return features

    def vjp(self, modulation: Modulations, placement: Placement) -> tuple[CellFeatures, Pullback]:
        """Features, and the function that pulls a cotangent of them back onto the modulations.

        The pullback is written out in ordinary differentiable operations, so that the outer loop differentiates
        through it once instead of asking autograd for a double backward.
        """
        features, sweep = self._run(modulation, placement)

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
        self, modulation: Modulations, placement: Placement, onto: Float[Tensor, "modulation number"]
    ) -> tuple[CellFeatures, Float[Tensor, "item cell point channel number"]]:
        """Features, and their derivative by the numbers that `onto` maps to the modulations a point reads.

        One reverse sweep per channel, kept apart for every point; of the modulations only what `onto` makes of
        them is ever held. The sweeps run in `sweep_dtype`, features and derivatives are those of the parameters.
        """
        features, sweep = self._run(modulation, placement, sweep_dtype=self.sweep_dtype)
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
        modulation: Modulations,
        placement: Placement,
        *,
        one_way: bool = False,
        sweep_dtype: torch.dtype | None = None,
    ) -> tuple[CellFeatures, Sweep]:
        """Features, and the way back: from a cotangent of the last hidden layer, layer by layer from the last to
        the first, the derivative by its shift (short of the factor w0) and by its scale, at every point. With
        `one_way` nothing is kept for it.
        """
        shifts, scales = self._per_layer(modulation, placement)
        cosines: list[Tensor] = []
        inputs: list[Tensor] = []
        hidden: Tensor = placement.coords
        if self.frequencies is not None:
            phase = hidden @ (2 * math.pi * self.frequencies).T
            hidden = torch.cat(sine_cosine(phase), -1)
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

    def _per_layer(
        self, modulation: Modulations, placement: Placement
    ) -> tuple[list[Float[Tensor, "item cell _ width"]], list[Float[Tensor, "item cell _ width"] | None]]:
        parts = torch.split(modulation, self.width, dim=-1)
        layers = len(self.w0)
        shifts = [placement.spread(part) for part in parts[:layers]]
        if not self.scales:
            return shifts, [None] * layers
        # a zero latent leaves the network as it is: scales are counted from one
        return shifts, [1 + placement.spread(part) for part in parts[layers:]]


def _plus(rows: Tensor | None, values: Tensor, weight: Tensor) -> Tensor:
    """`rows + values @ weight`, with points in one row each."""
    flat = values.reshape(-1, values.shape[-1])
    return flat @ weight if rows is None else torch.addmm(rows, flat, weight)


class _SineCosine(torch.autograd.Function):
    """Both at once; the backward needs no trigonometry, since each is the other's derivative."""

    @staticmethod
    def forward(ctx: Any, angle: Tensor) -> tuple[Tensor, Tensor]:
        sine, cosine = torch.sin(angle), torch.cos(angle)
        ctx.save_for_backward(sine, cosine)
        ctx.set_materialize_grads(False)
        return sine, cosine

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
