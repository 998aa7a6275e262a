"""Objects in buckets (S3, Google Cloud Storage, Azure) with obstore, which also has zarr stores read from them.

Credentials, endpoints and proxies are those of the environment (`AWS_...`, `GOOGLE_...`, `AZURE_...`). No message
repeats an exception's words: they hold the URL.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from functaconv.data.naming import scheme_of, shown
from functaconv.data.patience import LostError, Retries, in_our_words, source_timeout
from functaconv.data.remote import Body, RefusedError
from functaconv.data.web import split_login
from functaconv.errors import InputError, UsageError, imported

if TYPE_CHECKING:
    from zarr.storage import ObjectStore

BUCKETS = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
# variables that make obstore read public buckets without credentials
_UNSIGNED = {"s3": "AWS_SKIP_SIGNATURE", "gs": "GOOGLE_SKIP_SIGNATURE", "az": "AZURE_SKIP_SIGNATURE"}
# where a machine of Amazon, Google or Microsoft asks for its credentials, when there are no others
_METADATA = ("169.254.169.254", "metadata.google.internal")


def check_extra(url: str) -> None:
    """UsageError for a kind of URL that cannot be read, MissingExtraError where only a package is missing."""
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        return
    if scheme not in BUCKETS:
        # the part after @ and the query may hold credentials: only the scheme is repeated
        raise UsageError(f"cannot read from {scheme}:", hint=f"URLs may be http, https, {', '.join(BUCKETS)}")
    imported("obstore.store", "remote", f"{shown(url)}: reading from {scheme}")


def bucket_object(url: str) -> Callable[[int, float], Body]:
    """How to ask a bucket for an object; see `remote.Remote`."""
    bucket, key = _split(url)
    if not bucket or not key:
        raise InputError(f"{shown(url)}: no valid name of a bucket and an object", hint="s3://BUCKET/shard.tar")
    return partial(_open, url, key)


def _open(url: str, key: str, position: int, timeout: float) -> Body:
    import obstore

    with in_our_words(partial(judge, url)):
        store = _store(url, timeout)
        # asked for with a range even from 0 on, an empty object would be an error
        response = obstore.get(store, key, options={"range": {"offset": position}} if position else {})
    # pieces as they come: when the connection breaks, they need not be asked for again
    pieces = iter(response.stream(min_chunk_size=1))
    rest = b""

    def read(count: int) -> bytes:
        nonlocal rest
        if not rest:
            with in_our_words(partial(judge, url)):
                rest = bytes(next(pieces, b""))
        piece, rest = rest[:count], rest[count:]
        return piece

    meta = response.meta
    announced = {"size": meta["size"], "etag": meta["e_tag"], "modified": meta["last_modified"].isoformat()}
    return Body(announced, response.range[0], read)


def list_objects(pattern: str) -> list[str]:
    """The objects that match a pattern, or the *.tar below a prefix that ends in `/`, in alphabetical order."""
    import obstore

    bucket, key = _split(pattern)
    key = f"{key}*.tar" if pattern.endswith("/") else key
    folder = re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0]
    name, timeout = shown(pattern), source_timeout()

    def listed() -> list[str]:
        with in_our_words(partial(judge, pattern)):
            store = _store(pattern, timeout / 2)
            if "/" in key.removeprefix(f"{folder}/") or "**" in key:
                return [entry["path"] for entries in obstore.list(store, folder or None) for entry in entries]
            # what lies deeper than the pattern is not listed
            return [entry["path"] for entry in obstore.list_with_delimiter(store, folder or None)["objects"]]

    try:
        paths = Retries(name, timeout).run(listed)
    except RefusedError as error:
        raise InputError(f"cannot list {name}: the server answers {error}", hint=error.hint) from None
    parts = key.split("/")
    return sorted(f"{scheme_of(pattern)}://{bucket}/{path}" for path in paths if _fits(path.split("/"), parts))


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether folders and name match, part by part; `**` stands for any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _fits(path, pattern[1:] or ["*"]) or (bool(path) and _fits(path[1:], pattern))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def zarr_store(url: str) -> "ObjectStore[Any]":
    """A zarr store in a bucket or on a web server. A query is no part of it: keys are appended to the URL."""
    from zarr.storage import ObjectStore

    store = imported("obstore.store", "remote", f"{shown(url)}: a zarr store at a URL")
    attempts = {"max_retries": 4, "retry_timeout": timedelta(seconds=source_timeout())}
    if scheme_of(url) in BUCKETS:
        return ObjectStore(_store(url, source_timeout(), prefix=_split(url)[1] or None, retry_config=attempts))
    try:
        plain, headers = split_login(url)
    except ValueError:
        raise UsageError(f"not a valid URL: {shown(url)}", hint="expected https://SERVER/PATH") from None
    options = _client(source_timeout()) | {"default_headers": headers}
    return ObjectStore(store.HTTPStore.from_url(plain.partition("?")[0], client_options=options, retry_config=attempts))


def _split(url: str) -> tuple[str, str]:
    """Bucket and key; UsageError where the bucket holds what looks like credentials."""
    bucket, _, key = url.partition("://")[2].partition("/")
    if "@" in bucket:
        hint = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID ..., or what GOOGLE_ and AZURE_ have for it"
        raise UsageError(f"{shown(url)}: credentials have no place in the URL of a bucket", hint=hint)
    return bucket, key


def _store(url: str, timeout: float, **options: Any) -> Any:
    scheme = scheme_of(url) or ""
    store = imported("obstore.store", "remote", f"{shown(url)}: reading from {scheme}")
    options = {"client_options": _client(timeout), "retry_config": {"max_retries": 0}} | options
    if scheme == "s3":
        options |= _aws_credentials()
    return getattr(store, BUCKETS[scheme])(_split(url)[0], **options)


def _client(timeout: float) -> dict[str, Any]:
    seconds = timedelta(seconds=timeout)
    # an object as a whole may take as long as it does; http where the user gave an endpoint that speaks it
    return {"connect_timeout": seconds, "read_timeout": seconds, "timeout": timedelta(days=365), "allow_http": True}


def _aws_credentials() -> dict[str, Any]:
    """Credentials of profiles and sessions, found by boto3; obstore itself reads variables and machine metadata."""
    if {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & os.environ.keys():
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}
    from botocore.exceptions import BotoCoreError

    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except (BotoCoreError, ValueError):
        raise RefusedError(401, "no credentials found", _unsigned_hint("s3")) from None


def _unsigned_hint(scheme: str) -> str:
    return f"check the credentials; a public bucket needs none: {_UNSIGNED[scheme]}=true"


def judge(url: str, error: Exception, seconds: float) -> LostError | RefusedError | None:
    """The meaning of an error of obstore; None for an error of another library."""
    # zarr derives an error of its own from FileNotFoundError for missing keys
    if not (type(error).__module__.startswith("obstore") or type(error) is FileNotFoundError):
        return None
    text = str(error)
    hint = _unsigned_hint(scheme) if (scheme := scheme_of(url) or "") in BUCKETS else None
    if any(host in text for host in _METADATA):
        return RefusedError(401, "no credentials found", hint)
    status = re.search(r"status code: ([0-9]{3})\b", text)
    if status:
        return RefusedError(int(status[1]), hint=hint if status[1] in ("401", "403") else None)
    if "Account must be specified" in text:
        return RefusedError(401, "no account", "set AZURE_STORAGE_ACCOUNT_NAME")
    if "Received redirect" in text:
        return RefusedError(301, "the bucket lies in another region", "set AWS_REGION")
    if re.search(r"kind: Timeout|TimedOut|timed out", text):
        return LostError(f"no answer in {seconds:.0f} s", silent=seconds)
    if re.search(r"kind: (Interrupted|Decode)|body error", text):
        return LostError("the connection broke off")
    return LostError("no connection to the server")
