"""Reading the files of a store, which may be damaged or made to harm: links and devices are refused, sizes limited."""

import os
import stat
from hashlib import file_digest
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from functaconv.documents import parse_json
from functaconv.errors import InputError
from functaconv.functaset.schema import FAILED, shown

MOST_JSON = 128 << 20
MOST_FILE = 1 << 40


def read_json(path: Path, *, within: Path | None = None) -> Any:
    """The content of a JSON file that must be there, sound and of possible size: in its folder, or `within` another."""
    root = within or path.parent
    content = read_bytes(root, path.relative_to(root).as_posix(), MOST_JSON)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read: {error}", hint=f"restore {path.name} from a copy") from error


def read_root(path: Path, *, within: Path) -> dict[str, Any]:
    """The zarr.json of a store, in which the text `attributes.functaconv` is parsed where it is one."""
    content = read_json(path, within=within)
    root: dict[str, Any] = content if isinstance(content, dict) else {}
    attributes = root.get("attributes")
    if isinstance(attributes, dict) and isinstance(text := attributes.get("functaconv"), str):
        try:
            attributes["functaconv"] = parse_json(text.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise InputError(
                f"{path}: cannot be read: attributes.functaconv: {error}", hint=f"restore {path.name} from a copy"
            ) from error
    return root


def damaged(path: Path, reason: object) -> InputError:
    """The error for a damaged file that is made again once it is deleted."""
    return InputError(f"{path}: damaged: {reason}", hint=f"delete {path} and run again")


def problems(error: ValidationError, most: int = 1) -> str:
    """Place, reason and value of the first things that are not as they must be."""

    def described(problem: Any) -> str:
        place = ".".join(str(step) for step in problem["loc"])
        # a model that fails as a whole says in its message what is wrong
        value = f" (found {shown(problem['input'])})" if place else ""
        return f"{place}: {problem['msg'].removeprefix('Value error, ')}{value}".removeprefix(": ")

    return "; ".join(described(problem) for problem in error.errors(include_url=False)[:most])


def read_bytes(root: Path, name: str, most: int) -> bytes:
    """The whole of a `whole_file`."""
    path = whole_file(root, name, most)
    try:
        with path.open("rb") as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def digest_of(root: Path, name: str, most: int = MOST_FILE) -> str:
    """The sha256 of a `whole_file`."""
    path = whole_file(root, name, most)
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def whole_file(root: Path, name: str, most: int) -> Path:
    """The file of that name below `root`; an InputError unless it is a plain file of at most `most` bytes in there.

    A store may hold harmful things: a link that leads out of it, a device that never ends.
    """
    path = root / name
    try:
        status = path.stat()
        is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(path, "it is not a file")
    if not is_inside:
        raise _unreadable(path, f"it is a link that leads out of {root}")
    if status.st_size > most:
        raise _unreadable(path, f"{status.st_size} bytes, expected at most {most}")
    return path


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be read: {reason}", hint=f"restore {path.name} from a copy")


def array_bytes(root: Path) -> int:
    """Bytes of what grows with the items: arrays and failures, not the base, report and attributes."""
    arrays = sum(
        file.stat().st_size
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
        for file in folder.rglob("*")
        if file.is_file()
    )
    return arrays + (root / FAILED).stat().st_size
