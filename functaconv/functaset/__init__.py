"""The product: latents, what is known about each item, and the base that decodes them, in one zarr group."""

from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.checks import verify
from functaconv.functaset.ledger import Part, Progress, Range, Totals
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.reader import Functaset, Row, open_functaset
from functaconv.functaset.schema import Attributes, Bits, Layout, Quantisation, Solver
from functaconv.functaset.writer import FunctasetWriter

__all__ = [
    "Attributes",
    "Bits",
    "Block",
    "Failure",
    "Functaset",
    "FunctasetWriter",
    "Layout",
    "Part",
    "Progress",
    "Quantisation",
    "Quantiser",
    "Range",
    "Row",
    "Solver",
    "Totals",
    "open_functaset",
    "verify",
]
