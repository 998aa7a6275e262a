"""What is particular to a kind of data, one file for each: images, voxels, latitude-longitude grids, other arrays."""

from functaconv.modalities.array import Array
from functaconv.modalities.image import Image
from functaconv.modalities.latlon import LatLon
from functaconv.modalities.modality import MODALITIES, Axes, ChannelAxis, Measure, Modality, modality_of
from functaconv.modalities.voxels import Voxels

__all__ = ["MODALITIES", "Axes", "ChannelAxis", "Measure", "Modality", "modality_of"]

# the last one that accepts the items reads a dataset; `Array` accepts all, so it comes first
MODALITIES |= {modality.name: modality for modality in (Array(), Voxels(), Image(), LatLon())}
