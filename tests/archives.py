"""Tars made and read in memory."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def tar(members: Iterable[tuple[str, bytes]], **options: Any) -> bytes:
    """A tar with these members, in this order; nothing is checked, as `pack` would."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A stream that can neither seek nor be relied on to give as much as was asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(min(len(buffer), 300))
        buffer[: len(piece)] = piece
        return len(piece)


def members_of(folder: Path) -> dict[str, bytes]:
    """What the shards in a folder hold, by name."""
    found: dict[str, bytes] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return found


def records_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """The same by key, then by suffix."""
    found: dict[str, dict[str, bytes]] = {}
    for name, content in members_of(folder).items():
        key, _, suffix = name.partition(".")
        found.setdefault(key, {})[suffix] = content
    return found
