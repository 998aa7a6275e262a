"""The files of a zip archive in a folder of their own: bounded, and nowhere else."""

import mmap
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from functaconv.errors import InputError

__all__ = ["member_names", "unzipped"]

_MOST_MEMBERS = 200_000
"""a zarr store has one for each chunk; each is an object of Python and a file"""
_ALWAYS, _TIMES = 1 << 30, 50
"""bytes that a zip may expand to, and how many times its own size: an archive beyond both is no dataset"""
_SPARE = 1 << 28
"""bytes that are left on the disk"""
_ERRORS = (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)
"""of damaged, encrypted and unusual archives"""


def member_names(path: Path, shown: str) -> list[str]:
    """The names of the files in an archive; nothing is expanded. InputError if it cannot be read."""
    with _opened(path, shown) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


@contextmanager
def unzipped(path: Path, shown: str) -> Iterator[Path]:
    """A temporary folder with the files of an archive, as long as the context lasts.

    zipfile keeps to the sizes that the archive states, makes no links, and drops what leads out of the folder.
    """
    with _opened(path, shown) as archive:
        needed, own = sum(info.file_size for info in archive.infolist()), path.stat().st_size
        if needed > max(_ALWAYS, _TIMES * own):
            raise InputError(f"{shown}: a zip archive of {own} bytes that would expand to {needed}")
        with tempfile.TemporaryDirectory(prefix="functaconv-") as folder:
            free = shutil.disk_usage(folder).free - _SPARE
            if needed > free:
                raise InputError(
                    f"{shown}: unpacking needs {needed} bytes in {tempfile.gettempdir()}, {max(free, 0)} are free",
                    hint="set TMPDIR to a folder with more room",
                )
            try:
                archive.extractall(folder)
            except _ERRORS as error:
                raise InputError(f"{shown}: cannot unpack: {str(error) or type(error).__name__}") from error
            yield Path(folder)


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # the entries of the directory: zipfile makes an object of each
            entries = sum(1 for _ in re.finditer(rb"PK\x01\x02", content))
        if entries > _MOST_MEMBERS:
            raise InputError(f"{shown}: a zip archive of more than {_MOST_MEMBERS} files")
        archive = zipfile.ZipFile(path)
    except _ERRORS as error:
        raise InputError(f"{shown}: cannot read the zip archive: {str(error) or type(error).__name__}") from error
    with archive:
        yield archive
