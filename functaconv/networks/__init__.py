"""Coordinate networks, the latents that modulate them, and where those latents live."""

from functaconv.networks.correction import Correction
from functaconv.networks.cosines import Closure
from functaconv.networks.fourier import Fourier, FourierOptions
from functaconv.networks.mapping import Mapping
from functaconv.networks.modulated import LatentMap, ModulatedNetwork
from functaconv.networks.modulations import MODULATIONS
from functaconv.networks.multiscale import Multiscale, MultiscaleOptions
from functaconv.networks.network import Inputs, Network, NetworkKind, NetworkOptions
from functaconv.networks.observed import Average, Observed, Operator
from functaconv.networks.placement import Placement
from functaconv.networks.polynomial import Polynomial, PolynomialOptions
from functaconv.networks.refinement import Refinement
from functaconv.networks.siren import Siren, SirenOptions
from functaconv.networks.sites import SiteGrid

NETWORKS: dict[str, NetworkKind] = {
    "siren": Siren,
    "fourier": Fourier,
    "polynomial": Polynomial,
    "multiscale": Multiscale,
}

__all__ = [
    "MODULATIONS",
    "NETWORKS",
    "Average",
    "Closure",
    "Correction",
    "Fourier",
    "FourierOptions",
    "Inputs",
    "LatentMap",
    "Mapping",
    "ModulatedNetwork",
    "Multiscale",
    "MultiscaleOptions",
    "Network",
    "NetworkKind",
    "NetworkOptions",
    "Observed",
    "Operator",
    "Placement",
    "Polynomial",
    "PolynomialOptions",
    "Refinement",
    "Siren",
    "SirenOptions",
    "SiteGrid",
]
