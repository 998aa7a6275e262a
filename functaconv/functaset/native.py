"""Where the points of a stored item lay."""

from functaconv.functaset.reader import Functaset
from functaconv.signals.grid import AnyGrid, Grid


def native_grid(functaset: Functaset, row: int) -> AnyGrid:
    """The grid a row was encoded from."""
    kind = functaset.layout.kind
    if not kind.has_coordinates:
        return Grid(tuple(functaset.shapes[row].tolist()))
    return kind.grid_of(*functaset.grid_of(row)[0].axes)
