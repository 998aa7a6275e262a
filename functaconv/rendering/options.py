"""All that can be asked of a rendering."""

from collections.abc import Sequence
from dataclasses import dataclass

from functaconv.signals.grid import View


@dataclass(frozen=True)
class RenderOptions:
    """All that can be asked of `render`, in Python and on the command line."""

    items: Sequence[int | str] | None = None
    """numbers, or `START:STOP`; None for all, unless `keys` choose"""
    keys: Sequence[str] = ()
    between: tuple[int | str, int | str] | None = None
    """two items, by number or key: the way from one to the other, as a strip (png) or an animation (gif)"""
    frames: int = 8
    """pictures on that way, both ends included"""
    view: View | None = None
    """where to decode; None: at the native points"""
    format: str | None = None
    """None: by the suffix of the output, or what is usual for the items"""
    masked: bool = True
    """NaN where the input of a grid was missing"""
    overwrite: bool = False
    """replace files of the same names, and a store that `render` made"""
    device: str = "auto"
