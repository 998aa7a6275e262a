"""Checks that a classic NetCDF file is as long as its header says: beyond its end the NetCDF library reads zeros."""

import math
import struct
from pathlib import Path
from typing import BinaryIO

from functaconv.data.grids.origin import DAMAGED, Origin
from functaconv.errors import InputError

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def check_classic(path: Path, origin: Origin) -> None:
    with origin.trouble("cannot read the header"), path.open("rb") as stream:
        needed = _length(stream)
    size = path.stat().st_size
    if size < needed:
        raise InputError(
            f"{origin.shown} is truncated: its header speaks of {needed} bytes, found {size}", hint=DAMAGED
        )


def _length(stream: BinaryIO) -> int:
    """Bytes of a classic NetCDF file (CDF-1, -2 or -5) up to the end of its data, from its header."""
    version = stream.read(4)[3]

    def number(size: int = 8 if version == 5 else 4) -> int:
        value: int = struct.unpack(">I" if size == 4 else ">Q", stream.read(size))[0]
        return value

    def skip(length: int) -> None:
        stream.seek(-(-length // 4) * 4, 1)

    def entries() -> range:
        """Of a list of dimensions, attributes or variables: each begins with its name."""
        number(4)
        return range(number())

    def skip_attributes() -> None:
        for _ in entries():
            skip(number())
            size = _TYPE_BYTES[number(4)]
            skip(size * number())

    records = number()
    if records == (1 << (64 if version == 5 else 32)) - 1:
        # written as a stream: as many records as there are
        records = 0
    lengths = []
    for _ in entries():
        skip(number())
        lengths.append(number())
    skip_attributes()
    end, steps = 0, []
    for _ in entries():
        skip(number())
        shape = [lengths[number()] for _ in range(number())]
        skip_attributes()
        size = _TYPE_BYTES[number(4)]
        number()
        begin = number(4 if version == 1 else 8)
        if shape and shape[0] == 0:
            steps.append((begin, size * math.prod(shape[1:])))
        else:
            end = max(end, begin + size * math.prod(shape))
    # the variables of a record follow each other, each padded to 4 bytes, unless there is only one
    record = steps[0][1] if len(steps) == 1 else sum(-(-size // 4) * 4 for _, size in steps)
    if records:
        end = max([end, *(begin + (records - 1) * record + size for begin, size in steps)])
    return max(end, stream.tell())
