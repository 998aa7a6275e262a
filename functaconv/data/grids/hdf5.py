"""Checks that an HDF5 file holds its values itself: the format can refer to other files."""

from pathlib import Path
from typing import Any

from functaconv.data.grids.origin import Origin
from functaconv.errors import InputError, imported

# levels of groups: the NetCDF library recurses into each
_DEEPEST = 32
_HINT = "make a copy that holds all values itself, with nccopy"


def check_contained(path: Path, origin: Origin) -> None:
    """InputError for a file with links by name, with variables whose values lie in other files, or with groups that
    contain each other.
    """
    h5py = imported("h5py", "era5", "NetCDF")
    with origin.trouble("cannot read"), h5py.File(path, "r") as file:
        links: dict[str, Any] = {}

        def note(name: str, link: Any) -> bool | None:
            # an error raised here would be lost in the library, which recurses too
            links[name] = link
            return True if name.count("/") > _DEEPEST else None

        file.visititems_links(note)
        visited = {h5py.h5o.get_info(file.id).addr}
        for name, link in links.items():
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{origin.shown}: {name} is a link, which is not followed", hint=_HINT)
            item = file[name]
            if isinstance(item, h5py.Dataset):
                made = item.id.get_create_plist()
                if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
                    raise InputError(f"{origin.shown}: the values of {name} lie in other files", hint=_HINT)
            elif isinstance(item, h5py.Group):
                place = h5py.h5o.get_info(item.id).addr
                if place in visited:
                    raise InputError(f"{origin.shown}: {name} is a group that is there twice", hint=_HINT)
                if name.count("/") == _DEEPEST:
                    raise InputError(f"{origin.shown}: more than {_DEEPEST} groups in each other")
                visited.add(place)
