"""How latents modulate the layers of a network: each a class, by name."""

from typing import Annotated

from functaconv.networks.modulations.adain import AdaIN
from functaconv.networks.modulations.film import Film
from functaconv.networks.modulations.fmm import FMM
from functaconv.networks.modulations.lowrank import LowRank
from functaconv.networks.modulations.matrices import Factorized, Gated, Hyper
from functaconv.networks.modulations.mfilm import MFilm
from functaconv.networks.modulations.modulation import Gate, Layer, Modulation, Unmodulated
from functaconv.networks.modulations.shift import Shift
from functaconv.options import one_of

# `readout` changes the weights of the output, and no hidden layer
MODULATIONS: dict[str, type[Modulation]] = {
    "shift": Shift,
    "film": Film,
    "readout": Unmodulated,
    "adain": AdaIN,
    "mfilm": MFilm,
    "lowrank": LowRank,
    "fmm": FMM,
    "gate": Gated,
    "hyper": Hyper,
    "factorized": Factorized,
}
ModulationName = Annotated[str, one_of(MODULATIONS, "modulation")]

__all__ = ["MODULATIONS", "Gate", "Layer", "Modulation", "ModulationName", "Unmodulated"]
