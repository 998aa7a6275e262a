"""Rendering: choose items, decode them, put them where they belong."""

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from functaconv.errors import InputError, OutputExistsError, UsageError, lookup
from functaconv.files import replace_bytes
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.rendering.decoding import Picture, pictures
from functaconv.rendering.formats import FORMATS, check_format, usual_format
from functaconv.rendering.netcdf import MOST_VALUES, is_rendered, to_netcdf, to_zarr
from functaconv.rendering.output import Names, sink
from functaconv.rendering.view import View, selection_of
from functaconv.summary import Items

TOGETHER = ("nc", "zarr")
"""several items go into one file of these"""


@dataclass(frozen=True)
class Rendered:
    """What came of `render`."""

    count: int
    path: str
    files: tuple[str, ...]


def render(
    functaset: Functaset | Path | str,
    output: Path | str | None,
    *,
    items: Sequence[int | str] | None = None,
    keys: Sequence[str] = (),
    view: View | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    masked: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    stdout: BinaryIO | None = None,
    progress: bool = False,
) -> Rendered:
    """Decode items and write them.

    One item goes to the file `output`; several to a directory, which must be new or empty, or to a tar when
    `output` ends in `.tar`; `-` is stdout, one item as it is, several as a tar. Formats: png (clipped to 0..1; voxels
    as seen from a corner), npy and npz (float32, not clipped, channels last: images 0..1, voxels occupancy, others in
    their own units), voxels also binvox (occupied above 0.5) and obj (the surface there), grids nc. With `masked` a
    grid is NaN where its input was. An `output` that ends in .nc or .zarr takes several grids into one. `overwrite`
    replaces files of the same names, and a store that `render` made.
    """
    functaset = functaset if isinstance(functaset, Functaset) else open_functaset(functaset)
    index = Items.of(functaset.keys, functaset.shapes, functaset.tiles)
    chosen = _chosen(functaset, index, items, keys)
    if not chosen:
        raise InputError(f"{functaset.path} has no item to render", hint="`functaconv inspect` shows what it holds")
    target = "-" if output is None else str(output)
    kind = _format(format, target, functaset, len(chosen))
    decoded = pictures(
        functaset, chosen, view=view, device=device, index=index, features=kind == "png", masked=masked
    )  # fmt: skip
    # a view or a device that makes no sense is noticed before anything is made at the target
    rendered: Iterable[Picture] = chain([next(decoded)], decoded)
    if progress:
        rendered = tqdm(rendered, total=len(chosen), unit="item")
    if kind == "zarr" or (len(chosen) > 1 and _suffix(target) in TOGETHER):
        return _together(functaset, rendered, Path(target), kind, overwrite)
    to_bytes = lookup(FORMATS, kind, what="format")
    names = Names(kind)
    with ExitStack() as stack:
        put = sink(target, len(chosen), stack, stdout, overwrite=overwrite)
        written = [put(names(picture.key), to_bytes(picture, functaset)) for picture in rendered]
    return Rendered(len(written), target, tuple(written[:1000]))


def _together(functaset: Functaset, rendered: Iterable[Picture], path: Path, kind: str, overwrite: bool) -> Rendered:
    """All items in one file or store."""
    is_ours = is_rendered(path) if kind == "zarr" else path.is_file()
    if path.exists() and not (overwrite and is_ours):
        raise OutputExistsError(
            f"{path} exists" + (", and render did not make it" if overwrite else ""),
            hint="choose another name" + ("" if overwrite else ", or --overwrite"),
        )
    found: list[Picture] = []
    values = 0
    for picture in rendered:
        values += picture.array.size
        if values > MOST_VALUES:
            raise UsageError("that is too much for one file", hint="name a directory, or choose items with --item")
        found.append(picture)
    if kind == "zarr":
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        to_zarr(found, functaset, temporary)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        replace_bytes(path, to_netcdf(found, functaset))
    return Rendered(len(found), str(path), (str(path),))


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


def _format(asked: str | None, target: str, functaset: Functaset, count: int) -> str:
    suffix = _suffix(target)
    known = {*FORMATS, "zarr"}
    if asked is None:
        named = suffix if target != "-" and (suffix in known or (count == 1 and suffix not in ("", "tar"))) else None
        asked = named or usual_format(functaset)
    lookup(dict.fromkeys(sorted(known)), asked, what="format")
    check_format(asked, functaset)
    if (asked == "zarr") != (suffix == "zarr" and target != "-"):
        raise UsageError(f"{target} does not name a {asked} store", hint="write zarr to a name that ends in .zarr")
    if count == 1 and suffix in known and suffix != asked:
        raise UsageError(f"{target} does not name a {asked} file", hint="leave --format out, or name it so")
    if count > 1 and target != "-" and suffix in known and suffix not in TOGETHER:
        raise UsageError(
            f"{target} names one file, and {count} items are to be rendered", hint="name a directory, or a .tar"
        )
    return asked


def _suffix(target: str) -> str:
    return Path(target).suffix.lstrip(".").lower()
