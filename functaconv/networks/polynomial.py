"""Poly-INR (Singh et al. 2023): a polynomial of the coordinates, of a higher degree with every level.

Level l computes `x <- leaky_relu(W (x * g))` with gates `g = 1 + A c`, affine in the coordinates c (from -1 to 1). With
these, weights of gain sqrt(2 / 1.04) over the size of g, and no nonlinearity on g, values keep their variance through
the levels; from the usual initialisation they have vanished after ten.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.initial import uniform
from functaconv.networks.layered import MOST_COORDS, Layered, LayeredOptions
from functaconv.networks.modulations import MODULATIONS, Layer, Modulation
from functaconv.networks.modulations.modulation import normal
from functaconv.networks.network import Inputs
from functaconv.options import MOST_PARAMETERS, STRICT, Depth, check_size, one_of
from functaconv.shapes import CellCoords

SLOPE = 0.2
# deviation of the slopes of the gates at the beginning
STEEPNESS = 0.5


class OfGates(Modulation):
    """Changes the gates of a level in place of its product."""

    @abstractmethod
    def gates(self, shared: Tensor, coords: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """The item's gates, given those that all share."""


class Affine(OfGates):
    """The item's own affine map of the coordinates, added to the shared one, as published: n (coords + 1) numbers."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_in, layer.fan_in * layer.coords

    def gates(self, shared: Tensor, coords: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        constants, slopes = numbers
        for axis, slope in enumerate(slopes.chunk(self.layer.coords, -1)):
            constants = constants + slope * coords[..., axis, None]
        return shared + STEEPNESS * constants


class Levels(OfGates):
    """A scale and a shift of each shared gate, which is lighter: 2 n numbers."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_in, layer.fan_in

    def gates(self, shared: Tensor, coords: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, scale = numbers
        return shared * (1 + scale) + shift


KNOWN: dict[str, type[Modulation]] = {**MODULATIONS, "affine": Affine, "levels": Levels}


@dataclass(frozen=True, config=STRICT)
class PolynomialOptions(LayeredOptions):
    """Levels that multiply by affine functions of the coordinates."""

    kind: Literal["polynomial"] = "polynomial"
    modulation: Annotated[str, one_of(KNOWN, "modulation")] = "affine"
    """affine: an item's own affine map of the coordinates; levels: a scale and a shift of the gates, which is lighter;
    any other (see siren) changes the layers"""
    depth: Depth = 6
    """levels, and the linear output"""
    output_offset: Annotated[float, Field(ge=-10, le=10)] = 0.5
    """added to the output: features lie around one half"""
    table: ClassVar[Mapping[str, type[Modulation]]] = KNOWN
    wants_unit_coords: ClassVar[bool] = True

    haste: ClassVar[float] = 4.0

    @model_validator(mode="after")
    def _is_of_possible_size(self) -> "PolynomialOptions":
        check_size(self.width * self.width * (self.depth - 1), MOST_PARAMETERS, "parameters")
        return self

    @property
    def layers_modulated(self) -> Sequence[Layer]:
        return [Layer(self.width, self.width, 1.0, coords=MOST_COORDS)] * (self.depth - 1)

    @property
    def described(self) -> str:
        return f"polynomial, {self.depth - 1} levels of {self.width}, {self.modulation}"


class Polynomial(Layered):
    """Levels of gates and leaky ReLU, then a linear readout."""

    Options = PolynomialOptions

    def __init__(self, inputs: Inputs, options: PolynomialOptions, *, generator: torch.Generator | None) -> None:
        width, levels, coords = options.width, options.depth - 1, inputs.coords
        # more coordinates are less steep: so is the variance of the gates that of two
        extent = min(1.0, math.sqrt(2 / coords))
        of_gates = 1 + coords * (STEEPNESS * extent) ** 2 / 3
        deviation = math.sqrt(2 / (1 + SLOPE**2) / of_gates / width)
        layers = [Layer(width, width, deviation, coords=coords)] * levels
        super().__init__(options, layers, channels=inputs.channels, generator=generator)
        self.output_offset, self.reach = options.output_offset, width**-0.5
        self.extent = extent
        self.slopes = nn.ParameterList(
            normal(width, coords, deviation=STEEPNESS, generator=generator) for _ in range(levels)
        )
        self.weights = nn.ParameterList(
            normal(width, width if bend.has_weight else 0, deviation=deviation, generator=generator)
            for bend in self.bends
        )
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(levels))
        self.readout = nn.Parameter(
            uniform(width, inputs.channels, low=-(width**-0.5), high=width**-0.5, generator=generator)
        )
        self.constant = nn.Parameter(torch.zeros(inputs.channels))

    def common(self, coords: CellCoords) -> Float[Tensor, "cell point channel"]:
        """The output's bias."""
        return (self.constant + self.output_offset).expand(*coords.shape[:-1], -1)

    def hidden(self, coords: CellCoords, modulations: Sequence[Tensor] = ()) -> Tensor:
        """What is read out at each point."""
        places = self.extent * (2 * coords - 1)
        values: Tensor | None = None
        for number, (slopes, bend) in enumerate(zip(self.slopes, self.bends, strict=True)):
            gates = 1 + places @ slopes.mT
            if isinstance(bend, OfGates):
                gates = bend.gates(gates, places, modulations[number :: len(self.bends)])
            given = gates if values is None else values * gates
            values = self.layer(number, given, modulations, partial(functional.leaky_relu, negative_slope=SLOPE))
        assert values is not None
        return values
