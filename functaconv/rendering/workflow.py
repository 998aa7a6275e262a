"""Rendering: choose items, decode them, put them where they belong."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from tqdm.auto import tqdm

from functaconv.errors import InputError, OutputExistsError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.rendering.between import render_between
from functaconv.rendering.decoding import Picture, pictures
from functaconv.rendering.formats import FORMATS, Format, format_of
from functaconv.rendering.options import RenderOptions
from functaconv.rendering.output import Names, sink
from functaconv.rendering.view import selection_of
from functaconv.summary import Items

MOST_VALUES = 1 << 29
"""of the items in one file: 2 GiB"""


@dataclass(frozen=True)
class Rendered:
    """The result of `render`: how many items were written, and the files."""

    count: int
    path: str
    files: tuple[str, ...]


def render(
    functaset: Functaset | Path | str,
    output: Path | str | None,
    options: RenderOptions | None = None,
    *,
    stdout: BinaryIO | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Rendered:
    """Decode items and write them. `keywords` are those of `RenderOptions`.

    One item goes to the file `output`; several to a directory, which must be new or empty, or to a tar when
    `output` ends in `.tar`; `-` is stdout, one item as it is, several as a tar. Formats: png (clipped to 0..1; voxels
    as seen from a corner), npy and npz (float32, not clipped, channels last: images 0..1, voxels occupancy, others in
    their own units), voxels also binvox (occupied above 0.5) and obj (the surface there), grids nc. An `output` that
    ends in .nc or .zarr takes several grids into one. Frames `between` two items are one png or gif.
    """
    options = replace(options or RenderOptions(), **keywords)
    functaset = functaset if isinstance(functaset, Functaset) else open_functaset(functaset)
    index = Items.of(functaset.keys, functaset.shapes, functaset.tiles, functaset.views)
    target = "-" if output is None else str(output)
    if options.between is not None:
        render_between(functaset, index, target, options, stdout)
        return Rendered(options.frames, target, (target,))
    chosen = _chosen(functaset, index, options.items, options.keys)
    if not chosen:
        raise InputError(f"{functaset.path} has no item to render", hint="`functaconv inspect` shows what it holds")
    kind = _format(options.format, target, functaset, len(chosen))
    decoded = pictures(
        functaset, chosen, view=options.view, device=options.device, index=index, features=kind.takes_features,
        masked=options.masked,
    )  # fmt: skip
    # a view or a device that makes no sense is noticed before anything is made at the target
    rendered: Iterable[Picture] = chain([next(decoded)], decoded)
    if progress:
        rendered = tqdm(rendered, total=len(chosen), unit="item")
    if kind.is_store or (len(chosen) > 1 and _holds_many(_suffix(target))):
        return _together(functaset, rendered, Path(target), kind, options.overwrite)
    names = Names(kind.name)
    with ExitStack() as stack:
        put = sink(target, len(chosen), stack, stdout, overwrite=options.overwrite)
        written = [put(names(picture.key), kind.to_bytes(picture, functaset)) for picture in rendered]
    return Rendered(len(written), target, tuple(written[:1000]))


def _together(functaset: Functaset, rendered: Iterable[Picture], path: Path, kind: Format, overwrite: bool) -> Rendered:
    """All items in one file or store."""
    if path.exists() and not (overwrite and kind.may_replace(path)):
        raise OutputExistsError(
            f"{path} exists" + (", and render did not make it" if overwrite else ""),
            hint="choose another name" + ("" if overwrite else ", or --overwrite"),
        )
    pictures: list[Picture] = []
    values = 0
    for picture in rendered:
        values += picture.array.size
        if values > MOST_VALUES:
            raise UsageError("that is too much for one file", hint="name a directory, or choose items with --item")
        pictures.append(picture)
    kind.write(pictures, functaset, path)
    return Rendered(len(pictures), str(path), (str(path),))


def _chosen(functaset: Functaset, index: Items, items: Sequence[int | str] | None, keys: Sequence[str]) -> list[int]:
    chosen = selection_of([str(item) for item in items or ()], len(index))
    if keys:
        by_key = {str(key): number for number, key in reversed(list(enumerate(index.keys)))}
        for key in keys:
            if key not in by_key:
                # says which keys come near
                functaset.index(key)
                raise InputError(f"{key!r} is a tile", hint=f"render the whole: --key {key.rpartition('#')[0]}")
            chosen.append(by_key[key])
    return list(range(len(index))) if items is None and not keys else chosen


def _format(asked: str | None, target: str, functaset: Functaset, count: int) -> Format:
    suffix = _suffix(target)
    if asked is None:
        is_named = suffix in FORMATS or (count == 1 and suffix not in ("", "tar"))
        asked = suffix if target != "-" and is_named else functaset.layout.kind.usual_format
    chosen = format_of(asked, functaset)
    other = FORMATS.get(suffix) if target != "-" else None
    if chosen.is_store != (other is not None and other.is_store):
        name = chosen.name if chosen.is_store else suffix
        raise UsageError(f"{target} does not name a {asked} store", hint=f"write {name} to a name that ends in .{name}")
    if count == 1 and suffix in FORMATS and suffix != asked:
        raise UsageError(f"{target} does not name a {asked} file", hint="leave --format out, or name it so")
    if count > 1 and other is not None and not other.holds_many:
        raise UsageError(
            f"{target} names one file, and {count} items are to be rendered", hint="name a directory, or a .tar"
        )
    return chosen


def _holds_many(suffix: str) -> bool:
    return suffix in FORMATS and FORMATS[suffix].holds_many


def _suffix(target: str) -> str:
    return Path(target).suffix.lstrip(".").lower()
