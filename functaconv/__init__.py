"""functaconv converts array datasets to functasets: one shared coordinate network, one small latent per item."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from functaconv.checkpoint import read_base as read_base
    from functaconv.conversion import encode as encode
    from functaconv.errors import FunctaconvError as FunctaconvError
    from functaconv.functaset.opening import open_functaset as open_functaset
    from functaconv.functaset.reader import Functaset as Functaset
    from functaconv.inspection import inspect as inspect
    from functaconv.packing import pack as pack
    from functaconv.recipe import Recipe as Recipe
    from functaconv.rendering import decode as decode
    from functaconv.rendering import interpolate as interpolate
    from functaconv.rendering import render as render
    from functaconv.reporting import report as report
    from functaconv.training import fit_base as fit_base

# loaded on first use: `--help` must not wait for torch
_HOMES = {
    "FunctaconvError": "errors",
    "Functaset": "functaset.reader",
    "Recipe": "recipe",
    "decode": "rendering",
    "encode": "conversion",
    "fit_base": "training",
    "inspect": "inspection",
    "interpolate": "rendering",
    "open_functaset": "functaset.opening",
    "pack": "packing",
    "read_base": "checkpoint",
    "render": "rendering",
    "report": "reporting",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
