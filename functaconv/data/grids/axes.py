"""Latitude and longitude of a dataset's variables, by the CF conventions and by habits of other files."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from functaconv.data.grids.choice import Unfit

if TYPE_CHECKING:
    import xarray as xr

# units, usual names, and the letter of the CF axis
_AXES = {
    "latitude": (
        {"degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen"},
        {"lat", "lats", "latitude", "latitudes", "nav_lat"},
        "y",
    ),
    "longitude": (
        {"degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee"},
        {"lon", "lons", "long", "longitude", "longitudes", "nav_lon"},
        "x",
    ),
}
_DEGREES = ("degrees", "degree", "deg")
# what an axis called lat or lon may be counted in: degrees north and east, however they are spelled ("degN", "°",
# "decimal degrees"), or nothing said; no radians, no kilometres, and no degrees that grow to the south or west
_SPELLED_DEGREES = re.compile(r"(?!.*(south|west|deg[_ ]?w))(.*(deg|°).*|1|-|none|unitless|dimensionless)?")


def text(attributes: Mapping[Any, Any], name: str) -> str:
    return str(attributes.get(name, "")).strip().lower()


def horizontal(dataset: "xr.Dataset") -> dict[str, tuple[str, str] | Unfit]:
    """Of each variable the names of its latitude and longitude."""
    roles = {str(name): role_of(str(name), variable.attrs) for name, variable in dataset.variables.items()}
    return {str(name): _horizontal(dataset, str(name), roles) for name in dataset.data_vars}


def _horizontal(dataset: "xr.Dataset", name: str, roles: Mapping[str, str | None]) -> tuple[str, str] | Unfit:
    variables, variable = dataset.variables, dataset.variables[name]
    single = {}
    for wanted in _AXES:
        names = [
            other
            for other, role in roles.items()
            if role == wanted and variables[other].dims and set(variables[other].dims) <= set(variable.dims)
        ]
        if not names or name in names:
            return Unfit(
                f"no {wanted} among its axes ({_listed(variable.dims)})",
                hint="expected axes with units degrees_north and degrees_east",
            )
        # a coordinate named like its axis goes before others along it
        single[wanted] = min(names, key=lambda other: (variables[other].ndim, other not in dataset.dims, other))
        dims = variables[single[wanted]].dims
        if len(dims) > 1:
            mapping = str(variable.attrs.get("grid_mapping", "")).partition(":")[0]
            projection = text(variables[mapping].attrs, "grid_mapping_name") if mapping in variables else ""
            kind = "rotated pole" if projection.startswith("rotated") else "curvilinear grid"
            return Unfit(f"{kind}: {wanted} has {len(dims)} axes ({_listed(dims)})")
    latitude, longitude = single.values()
    if variables[latitude].dims == variables[longitude].dims:
        return Unfit(f"unstructured grid: latitude and longitude share the axis {_listed(variables[latitude].dims)}")
    if variable.dtype.kind not in "biuf":
        return Unfit(f"values of type {variable.dtype}, expected numbers", hint=None)
    return latitude, longitude


def _listed(dims: tuple[Any, ...]) -> str:
    return ", ".join(map(str, dims))


def role_of(name: str, attributes: Mapping[Any, Any]) -> str | None:
    """latitude, longitude or None, by units and standard name, then by usual names and the CF axis."""
    units, standard, letter = (text(attributes, key) for key in ("units", "standard_name", "axis"))
    if standard.startswith(("grid_", "projection_")) or name.lower() in ("rlat", "rlon"):
        return None
    for role, (known_units, names, axis) in _AXES.items():
        if units in known_units or standard == role:
            return role
        if name.lower() in names and _SPELLED_DEGREES.fullmatch(units):
            return role
        if units in _DEGREES and letter == axis:
            return role
    return None
