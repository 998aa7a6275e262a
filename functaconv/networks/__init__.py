"""Coordinate networks, the latents that modulate them, and where those latents live."""

from functaconv.networks.fourier import Fourier
from functaconv.networks.latents import Placement, SiteGrid
from functaconv.networks.modulation import LatentMap, ModulatedNetwork, Network
from functaconv.networks.siren import Siren

NETWORKS = {"siren": Siren, "fourier": Fourier}

__all__ = ["NETWORKS", "Fourier", "LatentMap", "ModulatedNetwork", "Network", "Placement", "Siren", "SiteGrid"]
