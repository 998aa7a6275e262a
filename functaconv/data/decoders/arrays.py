"""Arrays in npy and npz files, never unpickled; sizes are checked before memory is taken."""

import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO, cast

import numpy as np

from functaconv.data import limits
from functaconv.data.limits import check_ahead
from functaconv.errors import ItemError

# what numpy, zipfile and zlib raise on damaged bytes, and warnings where a caller made them errors
ARRAY_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    Warning,
)
# bytes of a npy header; numpy has the same limit
_MAX_HEADER = 10_000
# as all programs write it; numpy reads it with Python's parser, which may fail when several threads use it
_HEADER = re.compile(
    rb"\{\s*'descr':\s*(?:'([^']{2,20})'|\[.*\]),\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([0-9L, -]*)\),?\s*\}\s*"
)
# bytes that are decompressed together
_PIECE = 1 << 20
# members of an archive: each is an object of Python, and an npz has one for an array
_MAX_MEMBERS = 10_000


def read_npy(content: bytes) -> np.ndarray:
    """The array of a npy file; one of `ARRAY_ERRORS`, or an ItemError, for a damaged one."""
    check_ahead(2 * len(content))
    return _read_stream(io.BytesIO(content), len(content))


def read_npz(content: bytes, name: str | None) -> np.ndarray:
    """The array called `name` of a npz file, or its only one."""
    if content.count(b"PK\x01\x02") > _MAX_MEMBERS:
        raise ItemError(f"an archive of more than {_MAX_MEMBERS} files")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist()
                  if info.filename.endswith(".npy")}  # fmt: skip
        names = ", ".join(sorted(arrays))[:200] or "none"
        if name is None and len(arrays) != 1:
            raise ItemError(f"{len(arrays)} arrays ({names}), expected one; choose with the field npz:NAME")
        if name is not None and name not in arrays:
            raise ItemError(f"no array {name!r}, found {names}")
        info = arrays[name] if name is not None else next(iter(arrays.values()))
        if info.file_size > limits.EXPANDED:
            raise ItemError(f"{info.filename}: expands to {info.file_size} bytes, expected at most {limits.EXPANDED}")
        # other methods are not written by numpy, and do not decompress in bounded pieces
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ItemError(
                f"{info.filename}: compressed in a way (zip method {info.compress_type}) numpy never writes"
            )
        check_ahead(2 * info.file_size)
        with archive.open(info) as stream:
            return _read_stream(cast(BinaryIO, stream), info.file_size)


def _read_stream(stream: BinaryIO, size: int) -> np.ndarray:
    """One array in npy format out of `size` bytes, which its header must call for."""
    shape, fortran, dtype, start = npy_header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ItemError(f"values of type {dtype}, expected integers, floats or booleans")
    if not shape or any(length < 1 for length in shape):
        raise ItemError(f"shape {shape}, expected one axis or more, each of length one or more")
    needed, available = math.prod(shape) * dtype.itemsize, size - start
    if needed > limits.EXPANDED:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, expected at most {limits.EXPANDED}")
    if needed != available:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, found {available}")
    content, filled = np.empty(needed, np.uint8), 0
    while filled < needed and (piece := stream.read(min(_PIECE, needed - filled))):
        content[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if filled < needed:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, found {filled}")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the first axis is the fastest, type, and where the values begin; ValueError where damaged."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ItemError(f"npy format {version[0]}.{version[1]}, which is for records; expected numbers (1.0 or 2.0)")
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _MAX_HEADER:
        raise ItemError(f"a header of {length} bytes, expected at most {_MAX_HEADER}")
    header = _HEADER.fullmatch(stream.read(length))
    if header is None:
        raise ValueError("no header of an array of numbers")
    if header[1] is None:
        raise ItemError("values of several types together, expected integers, floats or booleans")
    shape = tuple(int(side) for side in header[3].replace(b"L", b"").split(b",") if side.strip())
    start = np.lib.format.MAGIC_LEN + len(size) + length
    return shape, header[2] == b"True", np.dtype(header[1].decode("ascii")), start


def numeric(array: np.ndarray, suffix: str) -> np.ndarray:
    """The array in native byte order, writable and C-ordered, in a type that the rest of the program takes."""
    kind = array.dtype.kind
    if kind == "b":
        # on disk a boolean may be any byte
        return np.ascontiguousarray((array.view(np.uint8) != 0).view(np.uint8))
    dtype = np.dtype(np.float32) if kind == "f" else array.dtype.newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):
        # a copy only where it is needed: arrays may be large, and the readers make new ones
        result: np.ndarray = array.astype(dtype, order="C", copy=not array.flags.writeable)
    if kind == "f":
        finite = np.isfinite(result)
        if not finite.any() and not np.isfinite(array).any():
            raise ItemError(f"{suffix}: no finite value among {array.size}")
        if array.dtype.itemsize > dtype.itemsize and not np.array_equal(finite, np.isfinite(array)):
            raise ItemError(f"{suffix}: values beyond float32 (more than 3.4e38), found {array.dtype}")
    return result
