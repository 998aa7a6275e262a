"""Where the points of a stored item lay."""

from functaconv.functaset.reader import Functaset
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.signals.grid import AnyGrid, Grid


def native_grid(functaset: Functaset, row: int) -> AnyGrid:
    """The grid a row was encoded from."""
    if not functaset.layout.kind.has_coordinates:
        return Grid(tuple(functaset.shapes[row].tolist()))
    stored, _ = functaset.grid_of(row)
    return GlobeGrid(tuple(stored.latitude.tolist()), tuple(stored.longitude.tolist()))
