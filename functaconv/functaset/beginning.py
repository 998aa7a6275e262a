"""A functaset that begins, or begins anew: its folder appears, and takes the place of another, in one step."""

import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

from functaconv.documents import differences
from functaconv.errors import InputError, OutputExistsError
from functaconv.files import replace_bytes, sync
from functaconv.functaset.claims import Claims, Owner, locked
from functaconv.functaset.files import first_problem, read_json
from functaconv.functaset.schema import FORMAT, PARTS, VERSION, Layout, canonical, parse_attributes

SETTINGS = "settings.json"
FORGOTTEN = 3600.0
"""seconds after which the beginning of a store that nobody completed is swept away"""


class Asked(BaseModel):
    """What is relied on of an unfinished functaset's settings."""

    shards: list[str] = []
    solver: str | None = None
    steps: Annotated[int, Field(strict=True, ge=0, le=2**20)] | None = None


class Begun(BaseModel):
    """What an unfinished functaset says of itself."""

    layout: Layout
    settings: Asked


def open_store(
    path: Path, layout: Layout, settings: Mapping[str, Any], *, overwrite: bool, run: str | None = None
) -> bool:
    """Make sure that a store with these settings stands at `path`, and say whether it is finished.

    What another process of the same `run` began is not overwritten again, and what holds nothing always is.
    OutputExistsError when what is to be overwritten is being written.
    """

    def is_old() -> bool:
        return run is None or _run_of(path) != run

    overwrite = (overwrite or holds_nothing(path)) and is_old()
    exists = check_store(path, layout, settings, overwrite=overwrite)
    if overwrite or not exists:
        clear_staging(path)
        _create(path, {**_description(layout, settings), "run": run}, replaces=is_old if exists else None)
        # another process may have been first, with settings of its own
        check_store(path, layout, settings, overwrite=False)
    is_finished = _attributes(path) is not None
    if is_finished:
        # the last run may have been killed after sealing
        shutil.rmtree(path / PARTS, ignore_errors=True)
    return is_finished


def is_finished(path: Path) -> bool:
    """There is a sealed functaset at `path`."""
    return _attributes(path) is not None


def holds_nothing(path: Path) -> bool:
    """There is no item in the functaset at `path`: all failed, say, and it stands in the way of a better try."""
    summary = (_attributes(path) or {}).get("summary")
    return isinstance(summary, dict) and summary.get("count") == 0


def check_store(path: Path, layout: Layout, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether there is a store at `path`; an error unless it is ours and, but to `overwrite`, has these settings."""
    asked = _description(layout, settings)
    exists = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if exists and not is_ours(path):
        raise OutputExistsError(f"{path} exists and is not a functaset", hint="choose another name, or move it away")
    if overwrite or not exists:
        return exists
    attributes = _attributes(path)
    if attributes is not None:
        sealed = parse_attributes(attributes, path)
        found = _description(sealed.layout, sealed.settings)
    else:
        found = {name: value for name, value in _read(path, Path(PARTS, SETTINGS)).items() if name != "run"}
    if changes := differences(found, asked):
        raise OutputExistsError(
            f"{path} was made with other settings: {'; '.join(changes)}", hint="--overwrite or another name"
        )
    return True


def is_ours(path: Path) -> bool:
    """There is a functaset at `path`, finished or not."""
    return _attributes(path) is not None or is_unfinished(path)


def is_unfinished(path: Path) -> bool:
    """There is the beginning of a functaset at `path`; true also just after it was finished."""
    found = _json_or_none(path, Path(PARTS, SETTINGS))
    return isinstance(found, dict) and found.get("format") == FORMAT


def read_begun(path: Path) -> Begun:
    """What the unfinished functaset at `path` is to be."""
    try:
        return Begun.model_validate(_read(path, Path(PARTS, SETTINGS)))
    except ValidationError as error:
        raise InputError(
            f"{path / PARTS / SETTINGS}: damaged: {first_problem(error)}", hint="encode --overwrite begins anew"
        ) from None


def _description(layout: Layout, settings: Mapping[str, Any]) -> dict[str, Any]:
    content = {"format": FORMAT, "version": VERSION, "layout": layout.model_dump(), "settings": settings}
    description: dict[str, Any] = canonical(content)
    return description


def _create(
    path: Path,
    description: dict[str, Any],
    *,
    replaces: Callable[[], bool] | None,
    fill: Callable[[Path], None] = lambda _: None,
) -> None:
    """Put a store without arrays at `path`, in one step. It takes the place of ours if there is one, and it is one that
    `replaces`: asked when nobody else can replace it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    replaced = Path(PARTS, "replaced")
    try:
        (staging / PARTS).mkdir(parents=True)
        replace_bytes(staging / PARTS / SETTINGS, to_json(description))
        fill(staging)
        sync(staging)
        with _alone_with(path):
            if path.exists() and replaces is not None:
                if not replaces():
                    # another process of ours was first
                    shutil.rmtree(staging)
                    return
                check_alone(path)
                # below the parts: should we be killed now, it goes when they go
                path.rename(staging / replaced)
            staging.rename(path)
    except BaseException as error:
        if (staging / replaced).exists() and not path.exists():
            (staging / replaced).rename(path)
        shutil.rmtree(staging, ignore_errors=True)
        # another process was first, which is as good
        if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(path.parent)
    shutil.rmtree(path / replaced, ignore_errors=True)


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Of those who would replace the folder at `path`, at most one at a time goes on. There need not be a folder."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            yield
            return
        try:
            with locked(descriptor):
                # while we waited somebody may have put another in its place
                if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                    yield
                    return
        finally:
            os.close(descriptor)


def check_alone(path: Path) -> None:
    """OutputExistsError when a live process is writing the store at `path`."""
    with closing(Claims(path / PARTS, Owner(uuid.uuid4().hex))) as claims:
        claims.check_alone()


def replace_store(path: Path, layout: Layout, settings: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """Put an unfinished store in the place of a finished one; `fill` makes its parts, below the folder it is given."""
    description = {**_description(layout, settings), "run": None}
    _create(path, description, replaces=lambda: is_finished(path), fill=fill)


def clear_staging(path: Path) -> None:
    """Remove beginnings of a store at `path` that were killed before they had its name."""
    for staging in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with suppress(OSError):
            if time.time() - staging.stat().st_mtime > FORGOTTEN and not (staging / PARTS / "replaced").exists():
                shutil.rmtree(staging, ignore_errors=True)


def _run_of(path: Path) -> str | None:
    """The run that made or makes what is at `path`."""
    attributes = _attributes(path)
    found = attributes if attributes is not None else _json_or_none(path, Path(PARTS, SETTINGS))
    return found.get("run") if isinstance(found, dict) else None


def _attributes(path: Path) -> dict[str, Any] | None:
    """The attributes of a sealed store, unchecked."""
    root = _json_or_none(path, Path("zarr.json"))
    attributes = root.get("attributes") if isinstance(root, dict) else None
    found = attributes.get("functaconv") if isinstance(attributes, dict) else None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _json_or_none(path: Path, name: Path) -> Any:
    try:
        return _read(path, name)
    except InputError:
        return None


def _read(path: Path, name: Path) -> Any:
    """A JSON file of the store at `path`."""
    return read_json(path / name, within=path)
