"""HTTP and S3 as fsspec knows them: its proxies, credentials and endpoints, with requests of our own.

No message repeats an exception's words: aiohttp and botocore put URLs into them, and those may be signed.
"""

import asyncio
import importlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from functaconv.data.naming import scheme_of, shown
from functaconv.data.patience import LostError, Patience, Retries, source_timeout
from functaconv.data.remote import Announcement, RefusedError, Remote
from functaconv.errors import InputError, MissingExtraError, UsageError

Result = TypeVar("Result")

_EXTRAS = {"http": ("aiohttp", "http"), "https": ("aiohttp", "http"), "s3": ("s3fs", "s3")}
_PIECE, _AHEAD = 1 << 16, 4 << 20
_REASONS = {
    "TooManyRedirects": "it leads from one address to the next",
    "ClientResponseError": "the answer is no valid HTTP",
    "ClientConnectorCertificateError": "the server's certificate is not to be trusted",
    "ClientSSLError": "no secure connection to the server",
    "SSLError": "no secure connection to the server",
    "ClientConnectorDNSError": "the server's name is not known",
    "ClientPayloadError": "the connection broke off",
    "IncompleteReadError": "the connection broke off",
    "ResponseStreamingError": "the connection broke off",
    "ServerDisconnectedError": "the server closed the connection",
    "TimeoutError": "no answer",
    "EndpointConnectionError": "no connection to the server",
    "ConnectTimeoutError": "no connection to the server",
}
# no server was asked: botocore's names for what is missing on our side, with the answer a server would give
_NOT_ASKED = {
    "NoCredentialsError": (401, "no credentials found"),
    "PartialCredentialsError": (401, "incomplete credentials"),
    "CredentialRetrievalError": (401, "no credentials found"),
    "TokenRetrievalError": (401, "no credentials found"),
    "UnauthorizedSSOTokenError": (401, "the SSO session has expired"),
    "SSOTokenLoadError": (401, "the SSO session has expired"),
    "ParamValidationError": (400, "no valid name of a bucket and an object"),
}


def check_extra(url: str) -> None:
    """UsageError for a kind of URL that cannot be read, MissingExtraError where only a package is missing."""
    scheme = scheme_of(url)
    if scheme not in _EXTRAS:
        # the part after @ and the query may hold credentials: only the scheme is repeated
        raise UsageError(f"cannot read from {scheme}:", hint=f"URLs may be {', '.join(_EXTRAS)}")
    module, extra = _EXTRAS[scheme]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{shown(url)}: reading from {scheme} needs the package {error.name or module} ({error})",
            hint=f"pip install 'functaconv[{extra}]'",
        ) from None


def remote_of(url: str) -> Remote:
    """The object at a URL; its server is not asked yet."""
    check_extra(url)
    try:
        return S3Object(url) if scheme_of(url) == "s3" else HttpObject(url)
    except ValueError:
        raise UsageError(f"not a valid URL: {shown(url)}", hint="expected https://SERVER/PATH") from None


def list_objects(pattern: str) -> list[str]:
    """The s3 objects that a pattern fits, or the *.tar of a prefix that ends in `/`, in alphabetical order."""
    check_extra(pattern)
    from fsspec.utils import glob_translate

    bucket, _, key = pattern.partition("://")[2].partition("/")
    key = f"{key}*.tar" if pattern.endswith("/") else key
    start = re.split(r"[*?\[]", key, maxsplit=1)[0]
    # what lies deeper than the pattern is not listed
    delimiter = {} if re.search(r"/|\*\*", key[len(start) :]) else {"Delimiter": "/"}
    fits, found, page = re.compile(glob_translate(key)), list[str](), dict[str, str]()
    while True:
        answer = _listed({"Bucket": bucket, "Prefix": start, **delimiter, **page}, shown(pattern))
        found += [entry["Key"] for entry in answer.get("Contents", ()) if fits.match(entry["Key"])]
        if not answer.get("NextContinuationToken"):
            return sorted(f"s3://{bucket}/{key}" for key in found)
        page = {"ContinuationToken": answer["NextContinuationToken"]}


def _listed(asked: Mapping[str, str], name: str) -> Any:
    """One page of a bucket's list."""
    from fsspec.asyn import sync

    patience = Patience.usual()
    files = _filesystem("s3", os.getpid(), patience.timeout)

    async def list_page() -> Any:
        await files.set_session()
        return await _answer(files._call_s3("list_objects_v2", **asked), patience.timeout / 2, name)

    try:
        return Retries(name, patience).run(lambda: sync(files.loop, list_page))
    except RefusedError as error:
        raise InputError(f"cannot list {name}: the server answers {error}", hint="check name and credentials") from None


class HttpObject:
    """What a GET answers."""

    def __init__(self, url: str) -> None:
        self._name = shown(url)
        self._files = _filesystem("http", os.getpid(), source_timeout())
        self._url = self._files.encode_url(url)
        if not self._url.host:
            raise ValueError

    def open(self, position: int, timeout: float) -> "Answer":
        from fsspec.asyn import sync

        answer: Answer = sync(self._files.loop, self._open, position, timeout)
        return answer

    async def _open(self, position: int, timeout: float) -> "Answer":
        import aiohttp

        options = dict(self._files.kwargs)
        # a length of what is sent is a length of what is read only without another encoding
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        if position:
            headers["Range"] = f"bytes={position}-"
        session = await self._files.set_session()
        options |= {"headers": headers, "timeout": aiohttp.ClientTimeout(total=None), "raise_for_status": False}
        response = await _answer(session.get(self._url, **options), timeout, self._name)
        if response.status not in (200, 206):
            response.close()
            raise RefusedError(response.status, pause=_seconds(response.headers.get("Retry-After")))
        start, size = _extent(response.headers.get("Content-Range"), response.headers.get("Content-Length"))
        announced = Announcement(size, *(_printable(response.headers.get(name)) for name in ("ETag", "Last-Modified")))
        return Answer(announced, start, self._name, response.content.read, response.close)


class S3Object:
    """What GetObject answers."""

    def __init__(self, url: str) -> None:
        self._name = shown(url)
        self._files = _filesystem("s3", os.getpid(), source_timeout())
        self._bucket, self._key, _ = self._files.split_path(url)
        if "@" in self._bucket:
            raise UsageError(
                f"{self._name}: credentials have no place in an s3 URL", hint="AWS_PROFILE, or AWS_ACCESS_KEY_ID ..."
            )

    def open(self, position: int, timeout: float) -> "Answer":
        from fsspec.asyn import sync

        answer: Answer = sync(self._files.loop, self._open, position, timeout)
        return answer

    async def _open(self, position: int, timeout: float) -> "Answer":
        # the time it takes to set this up is not the server's
        await self._files.set_session()
        options = {"Range": f"bytes={position}-"} if position else {}
        request = self._files._call_s3("get_object", Bucket=self._bucket, Key=self._key, **options)
        found = await _answer(request, timeout, self._name)
        start, size = _extent(found.get("ContentRange"), found.get("ContentLength"))
        modified = found.get("LastModified")
        announced = Announcement(
            size, _printable(found.get("ETag")), None if modified is None else modified.isoformat()
        )
        body = found["Body"]
        return Answer(announced, start, self._name, body.read, body.close)


class Answer:
    """An answer of which the bytes are still to come. To be made in the loop, which reads ahead.

    It is read without pause because aiohttp gives nothing of what it holds once the connection has broken.
    """

    def __init__(
        self,
        announced: Announcement,
        start: int,
        name: str,
        read: Callable[[int], Awaitable[bytes]],
        close: Callable[[], None],
    ) -> None:
        self.announced, self.start = announced, start
        self._name, self._close, self._left = name, close, b""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue(_AHEAD // _PIECE)
        self._reader = self._loop.create_task(self._read_on(read))

    def read(self, count: int, timeout: float) -> bytes:
        from fsspec.asyn import sync

        content: bytes = sync(self._loop, self._taken, count, timeout)
        return content

    def close(self) -> None:
        def stop() -> None:
            self._reader.cancel()
            self._close()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(stop)

    async def _read_on(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        piece: bytes | Exception = b"-"
        while piece and isinstance(piece, bytes):
            try:
                piece = await read(_PIECE)
            except Exception as error:
                piece = _judged(error, 0.0, self._name)
            await self._pieces.put(piece)

    async def _taken(self, count: int, timeout: float) -> bytes:
        """What has come, at least something: crossing between threads takes as long as the copy of 100 KiB."""
        taken = [self._left] if self._left else []
        size = len(self._left)
        while size < count and (not taken or not self._pieces.empty()):
            piece = await _answer(self._pieces.get(), timeout, self._name)
            if isinstance(piece, Exception) or not piece:
                # so it will be at the next call
                self._pieces.put_nowait(piece)
                if taken or not piece:
                    break
                raise piece
            taken.append(piece)
            size += len(piece)
        content = b"".join(taken)
        self._left = content[count:]
        return content[:count]


async def _answer(request: Awaitable[Result], timeout: float, name: str) -> Result:
    """What is awaited; LostError, RefusedError or UsageError in place of whatever the libraries raise."""
    started = time.monotonic()
    try:
        return await asyncio.wait_for(request, timeout)
    # the libraries share no error: aiohttp's, botocore's and s3fs' translations of those
    except Exception as error:
        judged = _judged(error, time.monotonic() - started, name)
    raise judged


def _judged(error: Exception, seconds: float, name: str) -> Exception:
    names = [kind.__name__ for kind in type(error).__mro__]
    # s3fs makes errors of the system of those that botocore raises
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(answer, dict):
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        status = 408 if code == "RequestTimeout" else status
        return RefusedError(status, code if re.fullmatch("[A-Za-z]{3,40}", code) else "")
    for kind in names:
        if kind in _NOT_ASKED:
            return RefusedError(*_NOT_ASKED[kind])
    if "InvalidURL" in names:
        return UsageError(f"not a valid URL: {name}", hint="expected https://SERVER/PATH")
    if isinstance(error, TimeoutError):
        return LostError(f"no answer in {seconds:.0f} s", silent=seconds)
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return LostError(os.strerror(number).lower())
    return LostError(next((_REASONS[kind] for kind in names if kind in _REASONS), names[0]))


def _extent(content_range: str | None, content_length: str | int | None) -> tuple[int, int | None]:
    """Where an answer starts, and the size of the whole object if it was said."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]+|\*)", content_range or "")
    if found:
        return int(found[1]), _count(found[2])
    return 0, _count(str(content_length))


def _count(text: str) -> int | None:
    """A number of bytes; None where that is none, or of more digits than any."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _printable(header: str | None) -> str | None:
    # bytes that are no UTF-8 cannot be written to JSON; the escape keeps different ones different
    return header and header.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and re.fullmatch(r"\d{1,6}", retry_after) else 0.0


@lru_cache(maxsize=8)
def _filesystem(protocol: str, process: int, timeout: float) -> Any:  # noqa: ARG001 - another process, another loop
    """fsspec's, once for all threads: only requests go through it, and they are made in its loop."""
    import fsspec
    from fsspec.config import conf

    if protocol == "s3":
        config = conf.get("s3", {}).get("config_kwargs", {})
        # attempts are counted by us
        config = {**config, "connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        files = fsspec.filesystem("s3", config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
        files.retries = 1
        return files
    client = {**conf.get("http", {}).get("client_kwargs", {}), **conf.get("https", {}).get("client_kwargs", {})}
    # a server that calls a .tar.gz an encoding of a .tar would change the length
    client = {"trust_env": True, **client, "auto_decompress": False}
    return fsspec.filesystem("http", client_kwargs=client, skip_instance_cache=True)
