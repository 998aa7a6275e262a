"""The product: latents, what is known about each item, and the base that decodes them, in one zarr group."""

from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.reader import Functaset, Row, open_functaset
from functaconv.functaset.schema import Attributes, Bits, Layout, Quantisation, Solver
from functaconv.functaset.unfinished import Parts, Plan

__all__ = [
    "Attributes",
    "Bits",
    "Block",
    "Failure",
    "Functaset",
    "Layout",
    "Parts",
    "Plan",
    "Quantisation",
    "Quantiser",
    "Row",
    "Solver",
    "open_functaset",
]
