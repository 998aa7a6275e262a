"""The words for axes, as jaxtyping aliases: item, site, latent, cell, point, coord, channel.

A latent is always `[item, site, latent]`: a global latent has one site. A *cell* holds the points that
share the same sites, so that a network sees `[item, cell, point, ...]` with one modulation per cell.
"""

from jaxtyping import Bool, Float
from torch import Tensor

Coords = Float[Tensor, "point coord"]
"""coordinates in the unit interval, square or cube"""
Positions = Float[Tensor, "point axis"]
"""where points lie among the sites, in the unit interval, square or cube"""
CellCoords = Float[Tensor, "cell point coord"]
"""coordinates as the network sees them"""
Features = Float[Tensor, "item point channel"]
"""normalised values in the grid's own order"""
Validity = Float[Tensor, "#item point channel"]
"""1 where a value was measured, 0 where not; one item may stand for all"""
CellFeatures = Float[Tensor, "item cell point channel"]
"""normalised values sorted into cells"""
StartFeatures = Float[Tensor, "#item #cell point channel"]
"""the same at a latent that all items share: one item stands for all, and one cell where cells are alike"""
CellWeights = Float[Tensor, "#item cell point #channel"]
"""share of each value in its item's mean; sums to one over an item"""
Latents = Float[Tensor, "#item site latent"]
"""one item may stand for all: the start of a fit"""
Modulations = Float[Tensor, "item site modulation"]
"""what the network receives: shifts (and scales) of all layers, side by side"""
ItemMask = Bool[Tensor, " item"]
PerItem = Float[Tensor, " item"]
CellJacobian = Float[Tensor, "#item #cell point channel number"]
"""derivative of the values in a cell by the numbers the cell reads: those of one site after the other"""
CellMatrices = Float[Tensor, "#item cell number number"]
"""a symmetric matrix per cell, over the numbers the cell reads"""
