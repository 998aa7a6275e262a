"""Copies of shards as plain local tars, for random access: remote ones are fetched, compressed ones decompressed."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from functaconv.data.compression import plain
from functaconv.data.items import DamageError
from functaconv.data.naming import shown
from functaconv.data.storage import is_seekable, opened
from functaconv.errors import InputError

_CHUNK = 1 << 20
_HINT = "set TMPDIR to a directory with more room, or fetch and decompress the shards yourself"


class LocalCopies:
    """Plain tars of shards, in a temporary directory that is removed with this object, and at exit.

    Local uncompressed shards stay where they are. InputError where a copy cannot be written, and where a shard is
    damaged.
    """

    def __init__(self, shards: Sequence[str], announce: Callable[[str], None] = lambda _: None) -> None:
        self._folder: Path | None = None
        self._copies: dict[str, Path] = {}
        for number, shard in enumerate(shards):
            if is_seekable(shard):
                continue
            announce(f"copying {shown(shard)}: it is to be read in any order")
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="functaconv-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._copies[shard] = self._folder / f"{number:06d}.tar"
            _copy(shard, self._copies[shard])

    def opened(self, shard: str) -> AbstractContextManager[BinaryIO | None]:
        """The copy of a shard; None for one that needs none."""
        copy = self._copies.get(shard)
        return nullcontext() if copy is None else copy.open("rb")


def _copy(shard: str, target: Path) -> None:
    try:
        with opened(shard) as source, target.open("wb") as copy:
            shutil.copyfileobj(plain(source), copy, _CHUNK)
    except DamageError as error:
        raise InputError(f"{shown(shard)}: {error}", hint=error.hint) from error
    except OSError as error:
        raise InputError(
            f"cannot copy {shown(shard)} to {target.parent}: {error.strerror or error}", hint=_HINT
        ) from error
