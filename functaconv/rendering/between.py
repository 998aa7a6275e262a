"""Pictures of the way from one item to another: a strip of frames side by side, or an animation."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from functaconv.errors import UsageError
from functaconv.functaset.reader import Functaset
from functaconv.rendering.formats import FORMATS
from functaconv.rendering.latents import Latents, interpolate
from functaconv.rendering.options import RenderOptions
from functaconv.rendering.output import sink
from functaconv.signals.device import device_of
from functaconv.signals.grid import View
from functaconv.summary import Items

# milliseconds that a frame of an animation is shown
FRAME = 100
PICTURES = ("png", "gif")


def ends_of(text: str) -> tuple[str, str]:
    """The two items of `A,B`."""
    first, comma, last = (part.strip() for part in text.partition(","))
    if not (first and comma and last):
        raise UsageError(f"cannot read the items {text!r}", hint="write two numbers, or two keys: --between 0,7")
    return first, last


def render_between(
    functaset: Functaset, index: Items, target: str, options: RenderOptions, stdout: BinaryIO | None
) -> None:
    """Write the frames of `options.between` to `target`, a png or a gif, or to stdout."""
    assert options.between is not None
    if options.items is not None or options.keys:
        raise UsageError("--between names its items itself", hint="leave --item and --key out")
    kind = options.format or (Path(target).suffix.lstrip(".").lower() if target != "-" else PICTURES[0])
    if kind not in PICTURES:
        raise UsageError(
            f"{target} names no picture", hint=f"frames are a strip or an animation: {' or '.join(PICTURES)}"
        )
    FORMATS["png"].check(functaset)
    rows = [_row(functaset, index, end) for end in options.between]
    latents = Latents(functaset, device_of(options.device))
    way = interpolate(functaset, rows[0], rows[1], options.frames).to(latents.base.device)
    view = options.view or View()
    grid = functaset.native_grid(rows[0]).resampled(view)
    # one by one: an enlarged frame may be large
    frames = [
        functaset.layout.kind.drawn(latents.features(way[at : at + 1], grid)[0].cpu().numpy()) for at in range(len(way))
    ]
    with ExitStack() as stack:
        sink(target, 1, stack, stdout, overwrite=options.overwrite)(f"between.{kind}", _picture(frames, kind))


def _row(functaset: Functaset, index: Items, end: int | str) -> int:
    """The first row of an item, by its number or key."""
    try:
        number = int(end)
    except ValueError:
        return functaset.index(str(end))
    if not -len(index) <= number < len(index):
        raise UsageError(f"there is no item {number}", hint=f"0 to {len(index) - 1}, or a key")
    return int(index.first[number])


def _picture(frames: list[np.ndarray], kind: str) -> bytes:
    content = io.BytesIO()
    if kind == "png":
        frames = [np.concatenate(frames, axis=1)]
    first, *others = (Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames)
    animation = {"save_all": True, "append_images": others, "duration": FRAME, "loop": 0} if kind == "gif" else {}
    first.save(content, kind, **animation)
    return content.getvalue()
