"""Zip archives unpacked to temporary folders."""

import errno
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from functaconv.errors import InputError

# an archive that expands to more than both, bytes and times its own size, is no dataset
_ALWAYS, _TIMES = 1 << 30, 50
# what zipfile raises on damaged, encrypted and unusual archives
_ERRORS = (OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)


def member_names(path: Path, shown: str) -> list[str]:
    """The names of the files in an archive; nothing is expanded. InputError if it cannot be read."""
    with _opened(path, shown) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


@contextmanager
def unzipped(path: Path, shown: str) -> Iterator[Path]:
    """A temporary folder with the files of an archive, as long as the context lasts.

    zipfile expands no more than the archive states, makes no links, and writes nothing outside the folder.
    """
    with _opened(path, shown) as archive, tempfile.TemporaryDirectory(prefix="functaconv-") as folder:
        needed, size = sum(info.file_size for info in archive.infolist()), path.stat().st_size
        if needed > max(_ALWAYS, _TIMES * size):
            raise InputError(f"{shown}: a zip archive of {size} bytes that would expand to {needed}")
        try:
            archive.extractall(folder)
        except _ERRORS as error:
            is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            hint = f"set TMPDIR to a folder with {needed} free bytes" if is_full else None
            raise InputError(f"{shown}: cannot unpack: {str(error) or type(error).__name__}", hint=hint) from error
        yield Path(folder)


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except _ERRORS as error:
        raise InputError(f"{shown}: cannot read the zip archive: {str(error) or type(error).__name__}") from error
    with archive:
        yield archive
