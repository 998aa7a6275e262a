"""Occupancy as voxel files have it: binvox runs to 0 and 1 in uint8, and back.

binvox (https://www.patrickmin.com/binvox/binvox.html) stores y fastest, then z, then x. Its line `dim` gives the
lengths in that order, slowest first: `dim X Z Y`, as the reference reader takes them. Most files are cubes, where
this does not show. Arrays here are `[x, y, z]`.
"""

import re

import numpy as np

from functaconv.data import limits
from functaconv.data.limits import check_ahead
from functaconv.errors import ItemError

# bytes of a header; those that binvox writes take about 100
_MOST_HEADER = 4096
_DATA = re.compile(rb"^[ \t]*data[ \t]*\r?\n", re.MULTILINE)
_LONGEST_RUN = 255
# runs that are expanded together: numpy makes eight bytes of each count
_TOGETHER = 1 << 20


def read_binvox(content: bytes) -> np.ndarray:
    """Occupancy `[x, y, z]`, uint8 0 or 1; ItemError says why there is none.

    `translate` and `scale` place the voxels in the world; they are not needed here, and may be absent.
    """
    (x, z, y), start = _header(content)
    voxels = x * y * z
    if voxels > limits.EXPANDED // 2:
        raise ItemError(f"dim {x} {z} {y}: {voxels} voxels, expected at most {limits.EXPANDED // 2}")
    if (len(content) - start) % 2:
        raise ItemError(f"{len(content) - start} bytes of data, expected pairs of a value and a count")
    values, counts = np.frombuffer(content, np.uint8, offset=start).reshape(-1, 2).T
    if values.size and values.max() > 1:
        raise ItemError(f"value {values.max()} in run {int(np.argmax(values > 1))}, expected 0 (empty) or 1 (occupied)")
    if not counts.all():
        raise ItemError(f"run {int(np.argmin(counts))} has no voxels, expected 1 to {_LONGEST_RUN}")
    stored = int(counts.sum(dtype=np.int64))
    if stored != voxels:
        raise ItemError(f"dim {x} {z} {y} needs {voxels} voxels, found {stored} in {counts.size} runs")
    check_ahead(2 * voxels)
    flat, place = np.empty(voxels, np.uint8), 0
    for start in range(0, counts.size, _TOGETHER):
        piece = np.repeat(values[start : start + _TOGETHER], counts[start : start + _TOGETHER])
        flat[place : place + piece.size] = piece
        place += piece.size
    return np.ascontiguousarray(flat.reshape(x, z, y).transpose(0, 2, 1))


def write_binvox(occupancy: np.ndarray) -> bytes:
    """The file that `read_binvox` reads: `occupancy` is `[x, y, z]`, boolean or 0 and 1."""
    if occupancy.ndim != 3 or not occupancy.size:
        raise ItemError(f"shape {occupancy.shape}, expected x, y and z, each of length one or more")
    if not ((occupancy == 0) | (occupancy == 1)).all():
        raise ItemError("values other than 0 and 1; choose a threshold first")
    x, y, z = occupancy.shape
    voxels = occupancy.astype(np.uint8).transpose(0, 2, 1).ravel()
    starts = np.flatnonzero(np.diff(voxels, prepend=1 - voxels[:1]))
    lengths = np.diff(starts, append=voxels.size)
    # a long run is as many full ones as needed, and a rest of 1 to 255
    pieces = (lengths - 1) // _LONGEST_RUN + 1
    runs = np.full((int(pieces.sum()), 2), _LONGEST_RUN, np.uint8)
    runs[:, 0] = np.repeat(voxels[starts], pieces)
    runs[np.cumsum(pieces) - 1, 1] = lengths - (pieces - 1) * _LONGEST_RUN
    return b"#binvox 1\ndim %d %d %d\ntranslate 0 0 0\nscale 1\ndata\n" % (x, z, y) + runs.tobytes()


def _header(content: bytes) -> tuple[tuple[int, int, int], int]:
    """The lengths of x, z and y, and where the data begin. Lines with other words are passed over."""
    first = content[:80].partition(b"\n")[0]
    if first.split()[:1] != [b"#binvox"]:
        raise ItemError(f"expected a binvox file, which starts with #binvox; found {_shown(first)}")
    # version 2 holds labels, not occupancy
    if first.split()[1:] != [b"1"]:
        raise ItemError(f"expected binvox version 1, found {_shown(first)}")
    end = _DATA.search(content, 0, _MOST_HEADER)
    if end is None:
        raise ItemError(f"no line `data` in the first {min(len(content), _MOST_HEADER)} bytes: not a binvox header")
    lines = [line for line in content[: end.start()].splitlines() if line.split()[:1] == [b"dim"]]
    if len(lines) != 1:
        raise ItemError(f"a header with {len(lines)} lines `dim X Z Y`, expected one")
    words = lines[0].split()[1:]
    # nine digits: beyond any grid, and short enough that reading the number costs nothing
    if len(words) != 3 or not all(re.fullmatch(rb"[0-9]{1,9}", word) and int(word) for word in words):
        raise ItemError(f"expected `dim` and three lengths of one or more, found {_shown(lines[0])}")
    x, z, y = map(int, words)
    return (x, z, y), end.end()


def _shown(line: bytes) -> str:
    return repr(line[:40].decode("ascii", "replace"))
