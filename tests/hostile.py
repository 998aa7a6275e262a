"""Files that mean harm: to be refused, each by itself, in little time and memory."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.canary}",)


def payload(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def pickled_npy(canary: Path) -> bytes:
    """An array of one object."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def torch_file(canary: Path) -> bytes:
    """As `torch.save` writes it: a zip with a pickle."""
    return zipped({"archive/data.pkl": payload(canary), "archive/version": b"3"})


def eps(canary: Path) -> bytes:
    """PostScript that runs a command where Ghostscript is not told to be safe."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch "
        + str(canary).encode()
        + b") (w) file\n%%EOF\n"
    )


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    """A header that says anything, and data that are there."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zeros_npz(size: int, *, claimed: int | None = None) -> bytes:
    """An npz of zeros a thousandth of `size` large; its directory may claim another size."""
    header = npy(f"({size // 4 - 1024 // 4},)")
    content = header + bytes(size - 1024)
    found = bytearray(zipped({"array.npy": content}, zipfile.ZIP_DEFLATED))
    if claimed is not None:
        for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = found.index(mark) + place
            found[at : at + 4] = struct.pack("<L", claimed)
    return bytes(found)


def bzip2_npz(size: int) -> bytes:
    """The same by a method that makes a hundred-thousandth of it."""
    return zipped({"array.npy": npy(f"({size},)", "'|u1'", bytes(size))}, zipfile.ZIP_BZIP2)


def many_members_zip(count: int) -> bytes:
    """A zip whose directory lists one empty member many times."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHLL", 5, 0, 0, 0, 0, 0, 0) + b"x.npy"
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, count * len(entry), 0, 0)
    return entry * count + end


def png(width: int, height: int, *, chunks: bytes = b"", data: bytes | None = None) -> bytes:
    """A gray PNG by hand, whatever its size."""
    header = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * height)) if data is None else data
    parts = png_chunk(b"IHDR", header), chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def tiff(tags: Mapping[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of one directory: tag -> type, count, value or place."""
    entries = b"".join(struct.pack("<HHLL", tag, *entry) for tag, entry in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<L", 8) + directory + data


def tiff_image(width: int, height: int, **more: tuple[int, int, int]) -> bytes:
    """A gray TIFF of zeros; `more` are tags by number, as `t322`."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 0),
            277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, min(width * height, 1 << 31))}  # fmt: skip
    tags |= {int(name[1:]): entry for name, entry in more.items()}
    place = 8 + 2 + 12 * len(tags) + 4
    tags[273] = (4, 1, place)
    return tiff(tags, bytes(min(width * height, 1 << 16)))


def webp(width: int, height: int) -> bytes:
    """A canvas of that size, with nothing on it."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBPVP8X" + struct.pack("<L", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<L", len(content)) + content


def scanned_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG that says it is `side` pixels large, with more scans than any encoder makes."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG", progressive=True)
    content = bytearray(buffer.getvalue())
    frame = content.index(b"\xff\xc2")
    content[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    end = content.index(b"\xff\xd9")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 1, 0x00)
    return bytes(content[:end]) + scan * scans + bytes(content[end:])


def binvox(dims: str, runs: bytes = b"\0\xff") -> bytes:
    return f"#binvox 1\ndim {dims}\ntranslate 0 0 0\nscale 1\ndata\n".encode() + runs


def deep_json(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def shard(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar of these members, names as they are, with links and devices among them."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("device.png", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return path


def packed(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
