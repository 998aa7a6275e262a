"""Names of files as keys of items, and files opened that may be something else."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from functaconv.data.naming import printable

# a USTAR header holds a base name of 100 bytes below a directory of 155; some are left for suffix and number
_LONGEST_NAME, _LONGEST_DIRECTORY = 85, 150


def clean_key(name: str) -> str:
    """A relative path as a key: no dots, no control characters, no `..`, short enough for a tar."""
    parts = [_clean_part(part) for part in printable(name).split("/") if part not in ("", ".", "..")]
    key = "/".join(parts) or "_"
    directory, _, base = key.rpartition("/")
    if len(base.encode()) > _LONGEST_NAME or len(directory.encode()) > _LONGEST_DIRECTORY:
        start = key.encode()[: _LONGEST_NAME - 17].decode("utf-8", "ignore").replace("/", "_")
        key = f"{start}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return key


def _clean_part(part: str) -> str:
    part = re.sub(r"[\x00-\x1f\x7f-\x9f.\\]", "_", part)
    # webdataset skips names that look like __this__
    return (part.strip("_") or "_") if re.fullmatch(r"__.*__", part) else part


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, or one that a link leads to; OSError for pipes and devices, which may never end."""
    # a pipe is opened without waiting for a writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield stream
