"""Decoding: items of a functaset at any size or place, as files, a tar, or arrays."""

import io
import math
import os
import re
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from functaconv.base import Base
from functaconv.checkpoint import base_of, write_atomically
from functaconv.errors import InputError, OutputExistsError, UsageError, lookup
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.signals.device import device_of
from functaconv.signals.grid import Grid, Region
from functaconv.summary import Items

MOST_VALUES = 1 << 30
"""of one rendered item: 4 GiB of float32"""
BATCH_VALUES = 1 << 24
"""of the items rendered together: 64 MiB"""


@dataclass(frozen=True)
class View:
    """At what size, and which part of the unit interval, square or cube.

    Without a size an item has its native resolution times `scale`, in `region` as elsewhere.
    """

    size: tuple[int, ...] | None = None
    scale: float = 1.0
    region: Region | None = None

    def grid(self, native: Sequence[int]) -> Grid:
        """The grid of an item whose whole is `native` points large."""
        spans = self.region or ((0.0, 1.0),) * len(native)
        shape = self.size
        if shape is None:
            shape = tuple(
                max(1, round(size * (high - low) * self.scale))
                for size, (low, high) in zip(native, spans, strict=False)
            )
        if len(shape) != len(native) or len(spans) != len(native):
            raise UsageError(
                f"the items have {len(native)} axes; the size or region has {max(len(shape), len(spans))}",
                hint="--size takes HxW for images, --region y0:y1,x0:x1",
            )
        if math.prod(shape) > MOST_VALUES:
            raise UsageError(f"{'x'.join(map(str, shape))} is too large for one item", hint="render it by --region")
        return Grid(tuple(shape), self.region)


@dataclass(frozen=True)
class Rendered:
    """What came of `render`."""

    count: int
    path: str
    files: tuple[str, ...]


def size_of(text: str) -> tuple[int, ...]:
    """`64x48` (or `512`, `32x32x32`) as a shape."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) < 10**7 for part in parts) or len(parts) > 3:
        raise UsageError(f"cannot read the size {text!r}", hint="write it as height x width: --size 256x256")
    return tuple(int(part) for part in parts)


def region_of(text: str) -> Region:
    """`y0:y1,x0:x1` in the unit square."""
    try:
        spans = tuple((float(low), float(high)) for low, high in (part.split(":") for part in text.split(",")))
    except ValueError:
        spans = ()
    if not spans or not all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in spans):
        raise UsageError(
            f"cannot read the region {text!r}", hint="write it as y0:y1,x0:x1, such as --region 0.25:0.75,0:1"
        )
    return spans


def selection_of(texts: Sequence[str], count: int) -> list[int]:
    """`INDEX` and half-open `START:STOP` as item numbers; negative ones count from the end."""
    chosen: list[int] = []
    for text in texts:
        match = re.fullmatch(r"\s*(-?\d+)\s*|\s*(-?\d*)\s*:\s*(-?\d*)\s*", text)
        if match is None:
            raise UsageError(f"cannot read the item {text!r}", hint="write an index, or START:STOP (half open)")
        if match[1] is not None:
            index = int(match[1])
            if not -count <= index < count:
                found = f"0 to {count - 1}" if count else "it is empty"
                raise InputError(f"there is no item {index}: the functaset has {count}", hint=found)
            chosen.append(index % count)
        else:
            span = slice(*(int(end) if end else None for end in (match[2], match[3])))
            chosen.extend(range(*span.indices(count)))
    return chosen


def render(
    functaset: Functaset | Path | str,
    output: Path | str | None,
    *,
    items: Sequence[int | str] | None = None,
    keys: Sequence[str] = (),
    view: View | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    device: str = "auto",
    stdout: BinaryIO | None = None,
    progress: bool = False,
) -> Rendered:
    """Decode items and write them.

    One item goes to the file `output`; several to a directory, which must be new or empty, or to a tar when
    `output` ends in `.tar`; `-` is stdout, one item as it is, several as a tar. Formats: png (clipped to 0..1),
    npy and npz (float32, not clipped, channels last: images 0..1, arrays in their own units).
    """
    functaset = functaset if isinstance(functaset, Functaset) else open_functaset(functaset)
    index = Items.of(functaset.keys, functaset.shapes, functaset.tiles)
    chosen = _chosen(functaset, index, items, keys)
    if not chosen:
        raise InputError(f"{functaset.path} has no item to render", hint="`functaconv inspect` shows what it holds")
    target = "-" if output is None else str(output)
    kind = _format(format, target, functaset, len(chosen))
    to_bytes = lookup(FORMATS, kind, what="format")
    decoded = arrays(functaset, chosen, view=view, device=device, index=index, features=kind == "png")
    # a view or a device that makes no sense is noticed before anything is made at the target
    rendered: Iterable[tuple[str, np.ndarray]] = chain([next(decoded)], decoded)
    if progress:
        rendered = tqdm(rendered, total=len(chosen), unit="item")
    names = _Names(kind)
    with ExitStack() as stack:
        put = _sink(target, len(chosen), stack, stdout)
        written = [put(names(key), to_bytes(array)) for key, array in rendered]
    return Rendered(len(written), target, tuple(written[:1000]))


def arrays(
    functaset: Functaset,
    chosen: Sequence[int] | None = None,
    *,
    view: View | None = None,
    device: str = "auto",
    index: Items | None = None,
    features: bool = False,
) -> Iterator[tuple[str, np.ndarray]]:
    """Key and float32 array (channels last) of items, in order, decoded in batches.

    Images are fractions of their code range, arrays in their own units unless `features` (scaled to 0..1 by the
    training range) are asked for.
    """
    view = view or View()
    index = index or Items.of(functaset.keys, functaset.shapes, functaset.tiles)
    base = base_of(functaset, device_of(device))
    numbers = range(len(index)) if chosen is None else chosen
    for group in _alike(index, numbers, view, base.axes.channels):
        grid = view.grid(index.shape[group[0]].tolist())
        if index.rows[group[0]] > 1:
            decoded = _joined(base, functaset, index, group[0], grid)[None]
        else:
            rows = index.first[list(group)]
            latents = torch.from_numpy(functaset.latents(rows)).reshape(len(rows), -1, base.latent)
            decoded = base.decode(latents.to(base.device), grid.coords())
        values = decoded if features else base.normalizer.values(decoded)
        for number, array in zip(group, values.cpu().numpy(), strict=True):
            yield str(index.keys[number]), array.reshape(*grid.shape, base.axes.channels)


def _alike(index: Items, numbers: Sequence[int], view: View, channels: int) -> Iterator[list[int]]:
    """Neighbours of one native shape together, as many as memory bears; an item in tiles stays alone."""
    group: list[int] = []
    for number in numbers:
        if group:
            points = view.grid(index.shape[group[0]].tolist()).points
            same = (index.shape[number] == index.shape[group[0]]).all()
            alone = index.rows[number] > 1 or index.rows[group[0]] > 1
            if not same or alone or (len(group) + 1) * points * channels > BATCH_VALUES or len(group) >= 256:
                yield group
                group = []
        group.append(number)
    if group:
        yield group


def _joined(base: Base, functaset: Functaset, index: Items, number: int, grid: Grid) -> Tensor:
    """An item cut into tiles, decoded on one grid: each point by the tile it lies in."""
    first, rows = int(index.first[number]), int(index.rows[number])
    tiles = functaset.tiles
    assert tiles is not None
    dims = len(grid.shape)
    whole = index.shape[number]
    latents = torch.from_numpy(functaset.latents(slice(first, first + rows))).reshape(rows, -1, base.latent)
    shapes = functaset.shapes[first : first + rows]
    centres = [grid.axis(axis) for axis in range(dims)]
    out = torch.zeros(*grid.shape, base.axes.channels)
    for row in range(rows):
        inside, local = [], []
        for axis in range(dims):
            start, stop = int(tiles[first + row, axis]), int(tiles[first + row, axis] + shapes[row, axis])
            at = centres[axis] * float(whole[axis])
            # the outermost tiles reach beyond the border: there one extrapolates
            above = at >= start if start else torch.ones_like(at, dtype=torch.bool)
            below = at < stop if stop < whole[axis] else torch.ones_like(at, dtype=torch.bool)
            picked = torch.nonzero(above & below).flatten()
            inside.append(picked)
            local.append(((at[picked] - start) / (stop - start)).float())
        if not all(map(len, inside)):
            continue
        coords = torch.stack(torch.meshgrid(*local, indexing="ij"), -1).reshape(-1, dims)
        decoded = base.decode(latents[row : row + 1].to(base.device), coords)[0].cpu()
        out[torch.meshgrid(*inside, indexing="ij")] = decoded.reshape(*(len(axis) for axis in inside), -1)
    return out.reshape(-1, base.axes.channels).to(base.device)


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
    suffix = Path(target).suffix.lstrip(".").lower()
    if asked is None:
        named = suffix if target != "-" and (suffix in FORMATS or (count == 1 and suffix not in ("", "tar"))) else None
        asked = named or ("png" if functaset.attributes.modality == "image" else "npy")
    channels = len(list(functaset.attributes.normaliser["offset"]))  # type: ignore[arg-type]
    if asked == "png" and (len(functaset.layout.axes) != 2 or channels not in (1, 3)):
        raise UsageError(
            f"png holds images of 1 or 3 channels; these items have {len(functaset.layout.axes)} axes "
            f"and {channels} channels",
            hint="--format npy",
        )
    if count == 1 and suffix in FORMATS and suffix != asked:
        raise UsageError(f"{target} does not name a {asked} file", hint="leave --format out, or name it so")
    if count > 1 and target != "-" and suffix in FORMATS:
        raise UsageError(
            f"{target} names one file, and {count} items are to be rendered", hint="name a directory, or a .tar"
        )
    return asked


def _png(array: np.ndarray) -> bytes:
    codes = np.rint(np.clip(np.nan_to_num(array), 0, 1) * 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(codes[..., 0] if codes.shape[-1] == 1 else codes).save(content, "PNG")
    return content.getvalue()


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array.astype(np.float32), allow_pickle=False)
    return content.getvalue()


def _npz(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, array=array.astype(np.float32))
    return content.getvalue()


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {"png": _png, "npy": _npy, "npz": _npz}

Sink = Callable[[str, bytes], str]


def _sink(target: str, count: int, stack: ExitStack, stdout: BinaryIO | None) -> Sink:
    if target == "-":
        stream = stdout or sys.stdout.buffer
        if count > 1:
            return _tar_sink(stack.enter_context(tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT)))

        def put(_name: str, content: bytes) -> str:
            stream.write(content)
            stream.flush()
            return "-"

        return put
    path = Path(target)
    if path.suffix.lower() == ".tar":
        if path.exists():
            raise OutputExistsError(f"{path} exists", hint="choose another name, or remove it")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_appearing(temporary, path))
        return _tar_sink(stack.enter_context(tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT)))
    if count == 1 and path.suffix:
        if path.exists():
            raise OutputExistsError(f"{path} exists", hint="choose another name, or remove it")
        return lambda _name, content: _written(path, content)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputExistsError(f"{path} exists and is not an empty directory", hint="choose another name")
    path.mkdir(parents=True, exist_ok=True)
    return lambda name, content: _written(path / name, content)


@contextmanager
def _appearing(temporary: Path, path: Path) -> Iterator[None]:
    """The file that is being written appears under its name when it is whole."""
    try:
        yield
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _written(path: Path, content: bytes) -> str:
    write_atomically(path, content)
    return str(path)


def _tar_sink(tar: tarfile.TarFile) -> Sink:
    def put(name: str, content: bytes) -> str:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
        return name

    return put


class _Names:
    """Keys as file names: nothing leaves the directory, nothing is written twice."""

    def __init__(self, suffix: str) -> None:
        self._suffix, self._taken = suffix, set[str]()

    def __call__(self, key: str) -> str:
        stem = re.sub(r"[\x00-\x1f\x7f/\\:*?\"<>|]", "_", key).lstrip(".").strip() or "item"
        # a tar's USTAR header holds 100 bytes of name; directories hold 255
        limit = 100 - len(self._suffix) - 8
        stem = stem.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
        name, number = f"{stem}.{self._suffix}", 2
        while name.lower() in self._taken:
            name, number = f"{stem}_{number}.{self._suffix}", number + 1
        self._taken.add(name.lower())
        return name
