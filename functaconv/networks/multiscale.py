"""Coarse to fine, after the multi-scale generator of INR-GAN (Skorokhodov et al. 2021).

A wide network, which the latents modulate, is evaluated at fixed sites. What it gives there are scales and shifts for a
narrow network, which is evaluated at the points: each point reads the sites around it through smooth windows that add
up to one. So the features are a function of the point alone, and the more points there are for each site, the less a
point costs.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from functaconv.errors import UsageError
from functaconv.networks.cosines import waves
from functaconv.networks.initial import uniform
from functaconv.networks.layered import Layered, LayeredOptions, uniform_layer
from functaconv.networks.modulations import Layer
from functaconv.networks.modulations.modulation import normal
from functaconv.networks.network import Inputs
from functaconv.options import MOST_PARAMETERS, STRICT, Depth, Frequency, check_size
from functaconv.shapes import CellCoords

# sites along each of one or two coordinates, and of more
USUAL_SITES, USUAL_SITES_OF_MANY = 8, 4
MOST_SITES = 1 << 14
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "leaky-relu": functional.leaky_relu}


@dataclass(frozen=True, config=STRICT)
class MultiscaleOptions(LayeredOptions):
    """A wide network at fixed sites makes the modulations of a narrow one at the points."""

    kind: Literal["multiscale"] = "multiscale"
    depth: Depth = 4
    """layers of the network at the sites, that which makes the modulations included"""
    features: Annotated[int, Field(ge=1, le=8192)] = 64
    """learned waves that each of the two networks sees"""
    spread: Frequency = 2.0
    """standard deviation of the frequencies at the sites at the beginning (cycles per unit)"""
    sites: Annotated[int, Field(ge=0, le=128)] = 0
    """along each coordinate; 0: 8, for more than two coordinates 4"""
    fine_width: Annotated[int, Field(ge=0, le=8192)] = 0
    """numbers of a hidden layer at the points; 0: half of the width"""
    fine_depth: Depth = 3
    """layers at the points, the linear output included"""
    fine_spread: Frequency = 4.0
    """standard deviation of the frequencies at the points"""
    activation: Literal["gelu", "leaky-relu"] = "gelu"
    """of the hidden layers"""

    haste: ClassVar[float] = 6.0

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> "MultiscaleOptions":
        coarse = self.width * (self.features + self.width * (self.depth - 2) + 2 * self.narrow)
        fine = self.narrow * (self.features + self.narrow * (self.fine_depth - 2))
        check_size(coarse + fine, MOST_PARAMETERS, "parameters")
        return self

    @property
    def narrow(self) -> int:
        """The width at the points."""
        return self.fine_width or -(-self.width // 2)

    @property
    def layers_modulated(self) -> Sequence[Layer]:
        fan_in = [self.features, *[self.width] * (self.depth - 2)]
        return [Layer(into, self.width, 1.0) for into in fan_in]

    @property
    def wants_chords(self) -> bool:
        return True

    @property
    def why_global(self) -> str:
        return "network.kind=multiscale has sites of its own (network.sites), which cover the whole domain"

    @property
    def described(self) -> str:
        fine = f"{self.fine_depth} layers of {self.narrow} at the points"
        return f"multiscale, {self.depth} layers of {self.width} at the sites, {fine}, {self.modulation}"


class Multiscale(Layered):
    """Modulated layers at the sites, layers at the points, and a readout."""

    Options = MultiscaleOptions
    places: Tensor

    def __init__(self, inputs: Inputs, options: MultiscaleOptions, *, generator: torch.Generator | None) -> None:
        coords, width, fine = inputs.coords, options.width, options.narrow
        sites = options.sites or (USUAL_SITES if coords <= 2 else USUAL_SITES_OF_MANY)
        if sites**coords > MOST_SITES:
            raise UsageError(
                f"{sites} sites along each of {coords} coordinates are {sites**coords}, at most {MOST_SITES} "
                "are possible",
                hint="--set network.sites=8",
            )
        fans = [options.features, *[width] * (options.depth - 1)]
        layers = [uniform_layer(into, out, math.sqrt(6 / into)) for into, out in pairwise(fans)]
        super().__init__(options, layers, channels=inputs.channels, features=fine, generator=generator)
        self.width, self.layers = max(width, fine, options.features), options.depth + options.fine_depth
        self.forward_mode, self.reach = not self.is_readout, fine**-0.5
        self.sites, self.activation = sites, ACTIVATIONS[options.activation]
        centres = (torch.arange(sites) + 0.5) / sites
        places = torch.stack(torch.meshgrid(*[centres] * coords, indexing="ij"), -1).reshape(-1, coords)
        self.register_buffer("places", places, persistent=False)

        def drawn(out: int, into: int) -> Tensor:
            bound = math.sqrt(6 / max(1, into))
            return uniform(out, into, low=-bound, high=bound, generator=generator)

        self.frequencies = normal(options.features, coords, deviation=options.spread, generator=generator)
        self.phases = nn.Parameter(uniform(options.features, low=0.0, high=2 * math.pi, generator=generator))
        self.weights = nn.ParameterList(
            drawn(width, into if bend.has_weight else 0) for into, bend in zip(fans[:-1], self.bends, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(width) for _ in self.bends)
        bound = width**-0.5
        self.onto = nn.Parameter(uniform(2 * fine, width, low=-bound, high=bound, generator=generator))
        self.fine_frequencies = normal(options.features, coords, deviation=options.fine_spread, generator=generator)
        self.fine_phases = nn.Parameter(uniform(options.features, low=0.0, high=2 * math.pi, generator=generator))
        fans = [options.features, *[fine] * (options.fine_depth - 1)]
        self.fine_weights = nn.ParameterList(drawn(out, into) for into, out in pairwise(fans))
        self.fine_biases = nn.ParameterList(torch.zeros(fine) for _ in self.fine_weights)
        bound = fine**-0.5
        self.readout = nn.Parameter(uniform(fine, inputs.channels, low=-bound, high=bound, generator=generator))
        self.constant = nn.Parameter(torch.full((inputs.channels,), 0.5))

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Weights of the hidden layers, and between the two networks."""
        return [*super().matrices, self.onto, *self.fine_weights]

    def common(self, coords: CellCoords) -> Float[Tensor, "cell point channel"]:
        """The output's bias."""
        return self.constant.expand(*coords.shape[:-1], -1)

    def hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point."""
        values = waves(self.places, self.frequencies, self.phases)[None]
        for number in range(len(self.bends)):
            values = self.layer(number, values, modulations, self.activation)
        windows = self._windows(coords)
        shift, scale = (windows @ functional.linear(values, self.onto)).chunk(2, -1)
        values = waves(coords, self.fine_frequencies, self.fine_phases)
        for number, (weight, bias) in enumerate(zip(self.fine_weights, self.fine_biases, strict=True)):
            values = functional.linear(values, weight, bias)
            if number == 0:
                values = values * (1 + scale) + shift
            values = self.activation(values)
        return values

    def _windows(self, coords: CellCoords) -> Float[Tensor, "cell point site"]:
        """How much of each site a point reads; beyond the outermost sites the nearest holds."""
        inside = (coords * self.sites - 0.5).clamp(0, self.sites - 1)
        apart = inside[..., None] - torch.arange(self.sites, device=coords.device, dtype=coords.dtype)
        # cos^2 and sin^2 add up to one, and both leave and arrive without a slope
        of_axes = (apart.abs().clamp(max=1) * (math.pi / 2)).cos().square().unbind(-2)
        return reduce(lambda whole, axis: (whole[..., None] * axis[..., None, :]).flatten(-2), of_axes)
