"""Shards as streams of bytes: how to open them, whether they can be read again, and their fingerprints."""

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from functaconv.data.compression import LONGEST_START, compression_of
from functaconv.data.naming import STDIN, is_local, is_pipe, scheme_of, short_name, shown
from functaconv.data.pipes import pipe_stream, stdin_stream
from functaconv.data.remote import RemoteStream
from functaconv.errors import InputError, UsageError

_END = 1 << 16


def opened(
    shard: str, stream: BinaryIO | None = None, *, known: Mapping[str, Any] | None = None
) -> AbstractContextManager[BinaryIO]:
    """The bytes of a shard as they are stored; `stream`, which is not closed, if there is one.

    `known` is the shard's fingerprint: a URL that has become another object is a ChangedInputError. A shard that
    cannot be read is an InputError, a server or command that does not answer a ServiceError.
    """
    if stream is not None:
        return nullcontext(stream)
    if shard == STDIN:
        return nullcontext(stdin_stream())
    if scheme_of(shard) is not None:
        return cast(BinaryIO, _remote(shard, known))
    try:
        return pipe_stream(shard) if is_pipe(shard) else Path(shard).open("rb")
    # ValueError: a zero byte in the name
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the shard {shown(shard)}: {reason}") from error


def is_read_once(shard: str) -> bool:
    """Whether it can be read only once: stdin, a command, a named pipe."""
    if shard == STDIN or is_pipe(shard):
        return True
    return is_local(shard) and not stat.S_ISREG(_mode(shard))


def is_seekable(shard: str) -> bool:
    """Whether records can be read at offsets: true for a plain local tar, not for compressed or remote ones."""
    if not is_local(shard) or not stat.S_ISREG(_mode(shard)):
        return False
    with opened(shard) as stream:
        return compression_of(stream.read(LONGEST_START)) is None


def fingerprint(shard: str, stream: BinaryIO | None = None) -> dict[str, str | int]:
    """Facts by which a changed or another shard is noticed, without credentials.

    `stream` is the shard, if it is open already, at its beginning.

    Files have name, size and `sha256`, over the first and the last 64 KiB (a smaller file: over all of it). URLs
    have the last part of their name, and what the server says: size, etag, and without one the date `modified`; what
    it does not say is left out. What can be read only once has a name.
    """
    name: dict[str, str | int] = {"name": short_name(shard)}
    if is_read_once(shard):
        return name
    if not is_local(shard):
        with _remote(shard, None) if stream is None else nullcontext(stream) as remote:
            assert isinstance(remote, RemoteStream)
            facts = dict(remote.announcement())
        if facts.get("etag"):
            facts.pop("modified", None)
        return name | facts
    with opened(shard, stream) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(file.tell(), size - _END))
        digest.update(file.read(_END))
        file.seek(0)
    return {**name, "size": size, "sha256": digest.hexdigest()}


def _remote(url: str, known: Mapping[str, Any] | None) -> RemoteStream:
    from functaconv.data.buckets import BUCKETS, bucket_object, check_extra
    from functaconv.data.web import web_object

    check_extra(url)
    try:
        remote = bucket_object(url) if scheme_of(url) in BUCKETS else web_object(url)
    except ValueError:
        raise UsageError(f"not a valid URL: {shown(url)}", hint="expected https://SERVER/PATH") from None
    announced = {name: known[name] for name in ("size", "etag", "modified") if name in known} if known else None
    return RemoteStream(remote, shown(url), announced)


def _mode(path: str) -> int:
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the shard {path}: {reason}") from error
