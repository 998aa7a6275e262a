"""Every place that rendered items can go to: a file, a directory, a tar, stdout."""

import io
import re
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from functaconv.errors import OutputExistsError
from functaconv.files import replace_bytes, replacing

Sink = Callable[[str, bytes], str]

# separators, what Windows refuses, control characters, line ends, reversed writing, halves of characters
_UNFIT = re.compile('[\x00-\x1f\x7f-\x9f/\\\\:*?"<>|\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# devices of Windows, whatever their suffix
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def sink(target: str, count: int, stack: ExitStack, stdout: BinaryIO | None, *, overwrite: bool = False) -> Sink:
    """Where items are put, by name. OutputExistsError where something is there that is not to be replaced."""
    if target == "-":
        stream = stdout or sys.stdout.buffer
        if count > 1:
            return _tar_sink(stack.enter_context(tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT)))

        def put(_name: str, content: bytes) -> str:
            stream.write(content)
            stream.flush()
            return "-"

        return put
    path = Path(target)
    if path.suffix.lower() == ".tar":
        _check_free(path, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(replacing(path))
        return _tar_sink(stack.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)))
    if count == 1 and path.suffix:
        _check_free(path, overwrite)
        return lambda _name, content: _written(path, content)
    if path.exists() and not path.is_dir():
        raise OutputExistsError(f"{path} is a file, expected a directory for several items", hint="choose another name")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise OutputExistsError(
            f"{path} exists and is not an empty directory",
            hint="choose another name, or replace what has the same names with --overwrite",
        )
    if (path / "zarr.json").exists():
        raise OutputExistsError(f"{path} is a store of arrays, no place for files", hint="choose another name")
    path.mkdir(parents=True, exist_ok=True)
    return lambda name, content: _written(path / name, content)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(f"{path} exists", hint="choose another name, or replace a file with --overwrite")


def _written(path: Path, content: bytes) -> str:
    replace_bytes(path, content)
    return str(path)


def _tar_sink(tar: tarfile.TarFile) -> Sink:
    def put(name: str, content: bytes) -> str:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
        return name

    return put


class Names:
    """Keys as file names: nothing leaves the directory, nothing is written twice."""

    def __init__(self, suffix: str) -> None:
        self._suffix, self._taken = suffix, set[str]()

    def __call__(self, key: str) -> str:
        stem = _UNFIT.sub("_", key).strip()
        stem = re.sub(r"^[\s.]+", "", stem) or "item"
        if _RESERVED.fullmatch(stem):
            stem = f"_{stem}"
        # a tar's USTAR header holds 100 bytes of name; directories hold 255
        limit = 100 - len(self._suffix) - 8
        stem = stem.encode()[:limit].decode("utf-8", "ignore")
        name, number = f"{stem}.{self._suffix}", 2
        while _compared(name) in self._taken:
            name, number = f"{stem}_{number}.{self._suffix}", number + 1
        self._taken.add(_compared(name))
        return name


def _compared(name: str) -> str:
    """The name as file systems may compare it: without differences of case or of how accents are encoded."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
