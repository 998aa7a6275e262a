"""Objects on web servers, with the standard library's HTTP and its proxies (`https_proxy`, `no_proxy`).

No message repeats an exception's words: they may hold the URL, which may be signed.
"""

import base64
import os
import re
import socket
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException, HTTPMessage, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import IO, cast
from urllib.parse import quote, unquote, urlsplit

from functaconv.data.patience import LostError, in_our_words
from functaconv.data.remote import Body, RefusedError, count_in

_REASONS: dict[type[BaseException], str] = {
    RemoteDisconnected: "the server closed the connection",
    IncompleteRead: "the connection broke off",
    HTTPException: "the answer is no valid HTTP",
    ssl.SSLCertVerificationError: "the server's certificate is not to be trusted",
    ssl.SSLError: "no secure connection to the server",
    socket.gaierror: "the server's name is not known",
}


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """The URL as it is asked for, without user, password and fragment, and the headers with the login.

    ValueError for one that has no server.
    """
    parts = urlsplit(url)
    if not parts.hostname or (parts.port or 1) < 1:
        raise ValueError("no server")
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return quote(plain, safe=string.punctuation), headers


def web_object(url: str) -> Callable[[int, float], Body]:
    """How to ask a web server for an object; see `remote.Remote`."""
    plain, login = split_login(url)
    return partial(_open, plain, login)


def _open(url: str, login: dict[str, str], position: int, timeout: float) -> Body:
    # without another encoding, so that the announced length is the length of the object
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - http(s), as checked
    if position:
        request.add_header("Range", f"bytes={position}-")
    for name, value in login.items():
        # not sent to another server after a redirect
        request.add_unredirected_header(name, value)
    with in_our_words(_judged):
        response = cast(HTTPResponse, urllib.request.build_opener(_Redirects).open(request, timeout=timeout))
    if response.status not in (200, 206):
        response.close()
        raise RefusedError(response.status)
    content_range = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]+|\*)", response.headers.get("Content-Range", ""))
    is_part = response.status == 206 and content_range is not None
    size = count_in(content_range[2] if is_part and content_range else response.headers.get("Content-Length"))
    announced = {"size": size, "etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}

    def read(count: int) -> bytes:
        with in_our_words(_judged):
            return response.read1(count)

    return Body(announced, int(content_range[1]) if is_part and content_range else 0, read, response.close)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To servers only; the login goes along as long as it is the same one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (request.type, request.host) == (req.type, req.host):
            request.unredirected_hdrs.update(req.unredirected_hdrs)
        return request


def _judged(error: Exception, seconds: float) -> LostError | RefusedError | None:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return RefusedError(error.code)
    if not isinstance(error, (OSError, HTTPException)):
        return None
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return LostError(f"no answer in {seconds:.0f} s", silent=seconds)
    for kind, words in _REASONS.items():
        if isinstance(reason, kind):
            return LostError(words)
    number = getattr(reason, "errno", None)
    return LostError(os.strerror(number).lower() if isinstance(number, int) else "no connection to the server")
