"""Checks that an HDF5 file holds its values itself: the format can refer to other files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from functaconv.data.grids.origin import Origin
from functaconv.errors import InputError, imported

if TYPE_CHECKING:
    import h5py

# levels of groups: the NetCDF library recurses into each
_DEEPEST = 32
_HINT = "make a copy that holds all values itself, with nccopy"


def check_contained(path: Path, origin: Origin) -> None:
    """InputError for a file with links by name, with variables whose values lie in other files, or with groups that
    contain each other.
    """
    h5py = imported("h5py", "era5", "NetCDF")
    with origin.trouble("cannot read"), h5py.File(path, "r") as file:
        groups = [(file, "", 0)]
        visited = {_place(file)}
        while groups:
            group, above, depth = groups.pop()
            for name, item in _items(group, above, origin):
                if isinstance(item, h5py.Dataset):
                    if _lies_elsewhere(item):
                        raise InputError(f"{origin.shown}: the values of {name} lie in other files", hint=_HINT)
                elif isinstance(item, h5py.Group):
                    if _place(item) in visited:
                        raise InputError(f"{origin.shown}: {name} is a group that is there twice", hint=_HINT)
                    if depth == _DEEPEST:
                        raise InputError(f"{origin.shown}: more than {_DEEPEST} groups in each other")
                    visited.add(_place(item))
                    groups.append((item, f"{name}/", depth + 1))


def _items(group: "h5py.Group", above: str, origin: Origin) -> "Iterator[tuple[str, h5py.HLObject]]":
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{origin.shown}: {above}{name} is a link, which is not followed", hint=_HINT)
        yield above + name, group[name]


def _place(group: "h5py.Group") -> int:
    """Where in the file it lies."""
    import h5py

    return int(h5py.h5o.get_info(group.id).addr)


def _lies_elsewhere(variable: "h5py.Dataset") -> bool:
    import h5py

    made = variable.id.get_create_plist()
    return bool(made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL)
