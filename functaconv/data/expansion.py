"""From what the user gives as shards to one name per tar."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import braceexpand

from functaconv.data.decoders import ARRAY_SUFFIXES
from functaconv.data.naming import STDIN, hinted, is_local, is_pipe, is_url_like, scheme_of, shown
from functaconv.errors import InputError, UsageError

_SUPPORTED = (
    "supported are local tar files, globs, braces {000..003}, directories of .tar files, http(s), s3, gs and az URLs, "
    "- for stdin, and with --allow-pipe pipe:COMMAND"
)


def expand_shards(specs: str | Sequence[str], *, allow_pipe: bool = False) -> list[str]:
    """The shards that paths, globs, braces, directories, URLs, comma lists, `-` and `pipe:` stand for, in that order.

    A name that exists is taken as it is, whatever it contains. The same shard twice is a UsageError, and so is
    `pipe:COMMAND` without `allow_pipe`. In a list with commas a URL reaches to the next URL, so other names must stand
    before it.
    """
    shards = [
        shard for spec in ([specs] if isinstance(specs, str) else specs) for shard in _expand(str(spec), allow_pipe)
    ]
    if not shards:
        raise UsageError("no shards given", hint=_SUPPORTED)
    counts = Counter(os.path.realpath(shard) if is_local(shard) else shard for shard in shards)
    repeated = sorted(shown(name) for name, count in counts.items() if count > 1)
    if repeated:
        raise UsageError(f"given more than once: {', '.join(repeated)}", hint="name each shard once")
    return shards


def _expand(spec: str, allow_pipe: bool) -> list[str]:
    if spec == STDIN:
        return [spec]
    if is_pipe(spec) and not os.path.lexists(spec):
        return _pipes(spec, allow_pipe)
    path = Path(spec)
    if spec and os.path.lexists(spec):
        return _tars(path) if path.is_dir() else [_local(spec)]
    if spec != spec.strip():
        return _expand(spec.strip(), allow_pipe)
    parts = _parts(spec)
    if parts != [spec]:
        if any(is_pipe(part) for part in parts):
            raise UsageError("a pipe is in a list with commas", hint="give pipe:COMMAND as an argument of its own")
        return [shard for part in parts if part for shard in _expand(part, allow_pipe)]
    if "{" in spec:
        try:
            names = list(braceexpand.braceexpand(spec))
        except ValueError:
            raise UsageError(
                f"unbalanced braces in {hinted(spec)!r}", hint="write {000000..000003}, in quotes"
            ) from None
        if names != [spec]:
            return [shard for name in names for shard in _expand(name, allow_pipe)]
    if scheme_of(spec) is not None:
        return _urls(spec)
    if glob.has_magic(spec):
        names = glob.glob(spec, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = sorted(name for name in names if not Path(name).is_dir())
        if not files:
            raise InputError(f"no file matches {hinted(spec)!r}", hint="check the pattern, and quote it in the shell")
        return [_local(name) for name in files]
    raise InputError(f"no such shard: {hinted(spec)!r}", hint=_SUPPORTED)


def _parts(spec: str) -> list[str]:
    """What a list with commas holds; those in the query or the password of a URL part nothing."""
    parts: list[str] = []
    for part in re.split(r",(?![^{}]*\})", spec):
        word = part.strip()
        if parts and is_url_like(parts[-1]) and not is_url_like(word) and not is_pipe(word):
            parts[-1] += f",{part}"
        else:
            parts.append(word)
    return [part.rstrip(",") for part in parts]


def _local(name: str) -> str:
    # a file may be called `-` or `pipe:rm x.tar`: its name must not make a command of it
    return name if is_local(name) else f"./{name}"


def _pipes(spec: str, allow_pipe: bool) -> list[str]:
    if not allow_pipe:
        raise UsageError(
            f"{shown(spec)} runs a command, which has to be allowed",
            hint="--allow-pipe lets it run",
        )
    # braces belong to the shell
    return [spec]


def _urls(spec: str) -> list[str]:
    from functaconv.data.buckets import BUCKETS, check_extra, list_objects

    check_extra(spec)
    name = shown(spec)
    if scheme_of(spec) not in BUCKETS:
        if name.endswith("/") or "*" in name:
            raise UsageError(
                f"{name}: a web server does not list its files", hint="name them: train-{000000..000003}.tar"
            )
        return [spec]
    if not (spec.endswith("/") or glob.has_magic(spec)):
        return [spec]
    objects = list_objects(spec)
    if not objects:
        raise InputError(
            f"no object matches {name}", hint="a prefix that ends in / stands for the *.tar directly below it"
        )
    return objects


def _tars(folder: Path) -> list[str]:
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the directory {folder}: {error.strerror or error}") from error
    tars = sorted(_local(str(path)) for path in files if path.suffix.lower() == ".tar" and path.is_file())
    if not tars:
        raw = any(path.is_dir() or path.suffix.lower().removeprefix(".") in ARRAY_SUFFIXES for path in files)
        hint = f"run `functaconv pack {folder} SHARDS` first" if raw else "expected files named *.tar in it"
        if any(re.search(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", path.name.lower()) for path in files):
            hint = f"compressed tars are named by a pattern, such as '{folder}/*.tar.gz'"
        if (folder / "zarr.json").exists():
            hint = "it is a zarr store, not shards; `functaconv inspect` looks at one functaset at a time"
        raise InputError(f"no tar shards in the directory {folder}", hint=hint)
    return tars
