"""What is fed with damaged inputs: each target makes a case out of a number, and runs it.

A case is accepted, or refused with one of the documented errors; whatever else happens is a finding.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch

from functaconv.checkpoint import base_from_bytes
from functaconv.data import limits
from functaconv.data.decoders import decode
from functaconv.data.decoders.binvox import write_binvox
from functaconv.data.items import Record
from functaconv.data.shards import read_records
from functaconv.modalities import Axes
from functaconv.signals.grid import Grid
from tests.archives import Pipe, tar

from .bases import small_base, undigested
from .mutation import NUMBERS, mutated, mutated_json
from .stores import Stores

small_limits = patch.multiple(limits, MEMBER=1 << 20, EXPANDED=1 << 24)
"""what passes them is a finding at once"""


class Target(Protocol):
    def case(self, random: Random) -> Any:
        """An input, the same for the same state of `random`."""

    def run(self, case: Any) -> None:
        """Read it as the program does."""


_COMPRESSED: tuple[Callable[[bytes], bytes], ...] = (
    partial(gzip.compress, mtime=0),
    bz2.compress,
    partial(lzma.compress, preset=0),
)


class Tar:
    """The tar reader, from seekable streams and from pipes, compressed or not."""

    def __init__(self) -> None:
        names = ["a.png", "a.cls", "dir/b.jpg", "dir/b.json", "c.d.npy", "long" * 40 + ".txt", "é.png"]
        self.seeds = [
            tar([(name, bytes([number]) * (number * 200)) for number, name in enumerate(names)], format=form)
            for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        ]
        self.seeds.append(tar([(name, b"x" * 600) for name in names[:4]], format=tarfile.USTAR_FORMAT))
        self.seeds.append(self.seeds[-1] + self.seeds[0])

    def case(self, random: Random) -> tuple[bytes, bool]:
        content = random.choice(self.seeds)
        if random.random() < 0.6:
            content = _with_header(random, content)
        if random.random() < 0.6:
            content = mutated(random, content, self.seeds)
        if random.random() < 0.2:
            content = random.choice(_COMPRESSED)(content)
            if random.random() < 0.5:
                content = mutated(random, content, self.seeds)
        return content, random.random() < 0.3

    @small_limits
    def run(self, case: tuple[bytes, bool]) -> None:
        content, is_piped = case
        for record in read_records("x.tar", stream=Pipe(content) if is_piped else io.BytesIO(content)):
            record.key.encode()
            json.dumps(sorted(record.fields))


class Binvox:
    """The voxel reader."""

    def __init__(self) -> None:
        chance = np.random.default_rng(0)
        self.seeds = [write_binvox(chance.random(shape) < 0.3) for shape in ((4, 4, 4), (3, 5, 7), (16, 16, 16))]
        self.seeds.append(write_binvox(np.ones((9, 9, 9))))

    def case(self, random: Random) -> bytes:
        content = random.choice(self.seeds)
        if random.random() < 0.3:
            dims = " ".join(str(random.choice((*NUMBERS, 2, 3, 4, 16))) for _ in range(random.choice((2, 3, 3, 3, 4))))
            head, mark, data = content.partition(b"data\n")
            lines = [b"dim " + dims.encode() if line.startswith(b"dim") else line for line in head.split(b"\n")]
            content = b"\n".join(lines) + mark + data
        return mutated(random, content, self.seeds)

    @small_limits
    def run(self, case: bytes) -> None:
        decode(Record(0, 0, "key", {"binvox": case}))


class Npz:
    """Numpy's formats: npy, npz, and bits that a json gives a shape."""

    def __init__(self) -> None:
        chance = np.random.default_rng(0)
        made = [chance.normal(size=(4, 5)), chance.integers(0, 255, (3, 4, 3), np.uint8), chance.random((2, 3)) < 0.5,
                np.asfortranarray(chance.normal(size=(3, 4)).astype(">f4")), np.arange(7, dtype=np.uint16)]  # fmt: skip
        self.npy = [_npy(array, version) for array in made for version in ((1, 0), (2, 0))]
        self.npz = [_npz([content], method) for content in self.npy[::3] for method in (0, 8)] + [_npz(self.npy[:3], 8)]

    def case(self, random: Random) -> dict[str, bytes]:
        npy = random.choice(self.npy)
        if random.random() < 0.6:
            npy = _with_npy_header(random, npy)
        fields: dict[str, bytes] = {}
        match random.randrange(4):
            case 0:
                fields["npy"] = mutated(random, npy, self.npy) if random.random() < 0.7 else npy
            case 1:
                # sound around what is not
                fields["npz"] = _npz(
                    [mutated(random, npy, self.npy) if random.random() < 0.5 else npy], random.choice((0, 8))
                )
            case _:
                fields["npz"] = mutated(random, random.choice(self.npz), self.npz)
        if random.random() < 0.2:
            said = {
                "packed_bits": [2, 3, 4],
                "bit_order": "little",
                "latitude": [1.0, 2.0],
                "longitude": [3.0],
                "dims": ["a"],
            }
            fields["json"] = mutated_json(random, said)
        if random.random() < 0.05:
            fields["cls"] = mutated(random, b"12", [])
        return fields

    @small_limits
    def run(self, case: dict[str, bytes]) -> None:
        decode(Record(0, 0, "key", case))


class Base:
    """The base loader."""

    def __init__(self) -> None:
        self.seeds = [
            undigested(small_base(Axes("array", 2, 2, "first", 4), "gradient")),
            undigested(small_base(Axes("image", 2, 3), "gauss-newton")),
        ]

    def case(self, random: Random) -> bytes:
        content = random.choice(self.seeds)
        match random.randrange(4):
            case 0:
                return mutated(random, content, self.seeds)
            case 1:
                return _with_json_header(content, lambda header: mutated_json(random, header))
            case 2:

                def change(header: Any) -> bytes:
                    said = json.loads(header["__metadata__"]["functaconv"])
                    header["__metadata__"]["functaconv"] = mutated_json(random, said).decode()
                    return json.dumps(header).encode()

                return _with_json_header(content, change)
            case _:
                start = 8 + int.from_bytes(content[:8], "little")
                return content[:start] + mutated(random, content[start:], [])

    def run(self, case: bytes) -> None:
        base = base_from_bytes(case, "case").base
        if base.axes.kind != "grid":
            points = base.points(Grid((3,) * base.axes.dims))
            base.decode(torch.zeros(1, base.field.sites.count, base.latent), points)


TARGETS: dict[str, Callable[[], Target]] = {
    "tar": Tar,
    "binvox": Binvox,
    "npz": Npz,
    "base": Base,
    "functaset": Stores,
}


_TAR_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))


def _with_header(random: Random, content: bytes) -> bytes:
    """A tar with a field of one of its headers changed, and the checksum of the header made right."""
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    result, at = bytearray(content), random.choice(headers)
    start, size = random.choice((*_TAR_FIELDS, (124, 12), (124, 12), (156, 1), (0, 100)))
    number = random.choice((*NUMBERS, random.randrange(4096), random.randrange(4096)))
    value = random.choice((
        b"%0*o" % (size - 1, number), b"\x80" + abs(number).to_bytes(32, "big")[-size + 1 :] if size > 1 else b"\xff",
        b"\xff" * size, b"-1", b"", b" " * size, b"../../x.png", b"/abs/x.png", b"a/../../b.png", b"\0x.png",
        b"x" * size,
        bytes([random.choice(b"0123456789xgLKSVMNX\0\xff")]), random.randbytes(size),
    ))  # fmt: skip
    result[at + start : at + start + size] = value[:size].ljust(size, b"\0")
    result[at + 148 : at + 156] = b" " * 8
    result[at + 148 : at + 156] = b"%06o\0 " % sum(result[at : at + 512])
    return bytes(result)


def _npy(array: np.ndarray, version: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def _npz(members: list[bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number, content in enumerate(members):
            archive.writestr(zipfile.ZipInfo(f"arr_{number}.npy"), content, method)
    return buffer.getvalue()


_NPY_TEXTS = (
    "(1000000, 1000000)", "()", "(0,)", "(-1,)", "(1,)", "(True,)", "(2**40,)", "(1.5,)", "None", "[3]", "('a',)",
    f"({10**30},)", "(4, 5" + ", 1" * 40 + ")", "(" * 100, "-" * 5000 + "1", "((" * 150, "'|O'", "'<f8'",
    "'<U1000000000'",
    "'V99'", "'>c16'", "[('a', '<f4'), ('b', '|O')]", "'<M8[ns]'", "'9999999999f8'", "object", "__import__('os')",
    "'f4,f4'", "False", "{'descr': 1}",
)  # fmt: skip


def _with_npy_header(random: Random, content: bytes) -> bytes:
    wide = 4 if content[6] == 2 else 2
    length = int.from_bytes(content[8 : 8 + wide], "little")
    header, data = content[8 + wide : 8 + wide + length].decode("latin-1"), content[8 + wide + length :]
    parts = [part for part in ("'shape': ", "'descr': ", "'fortran_order': ") if part in header]
    start = header.index(part := random.choice(parts)) + len(part)
    ends = [end for mark in (", 'f", ", 's", ", }") if (end := header.find(mark, start)) > 0]
    text = (header[:start] + random.choice(_NPY_TEXTS) + header[min(ends) :]).encode("latin-1")
    claimed = len(text) if random.random() < 0.9 else random.choice(NUMBERS)
    return content[:8] + (claimed % (1 << 8 * wide)).to_bytes(wide, "little") + text + data


def _with_json_header(content: bytes, change: Callable[[Any], bytes]) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = change(json.loads(content[8 : 8 + length]))
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def cases(target: Target, name: str, seed: int, indices: range) -> Iterator[tuple[int, Any]]:
    """Number and input of each case: the same in every run with this seed."""
    for index in indices:
        yield index, target.case(Random(f"{name}:{seed}:{index}"))  # noqa: S311 - to be repeated, not to be secret
