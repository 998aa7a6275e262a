"""The product: latents, what is known about each item, and the base that decodes them, in one zarr group."""

from functaconv.functaset.attributes import Attributes, Quantisation, Solver
from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.codecs import CODECS, Codec
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.functaset.row import Row
from functaconv.functaset.schema import Bits, Layout
from functaconv.functaset.unfinished import Parts, Plan

__all__ = [
    "CODECS",
    "Attributes",
    "Bits",
    "Block",
    "Codec",
    "Failure",
    "Functaset",
    "Layout",
    "Parts",
    "Plan",
    "Quantisation",
    "Row",
    "Solver",
    "open_functaset",
]
