"""Coordinate networks, the latents that modulate them, and where those latents live."""

from functaconv.networks.latents import Placement, SiteGrid
from functaconv.networks.modulation import LatentMap, ModulatedNetwork
from functaconv.networks.siren import Siren

NETWORKS = {"siren": Siren}

__all__ = ["NETWORKS", "LatentMap", "ModulatedNetwork", "Placement", "Siren", "SiteGrid"]
