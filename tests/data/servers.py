"""A web server on this machine that misbehaves as it is told to."""

import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """To one request."""

    status: int = 200
    stop: int | None = None
    """the connection is closed after so many bytes of the body"""
    etag: str | None = '"a"'
    ranges: bool = True
    most: int | None = None
    """a range is answered with so many bytes and no more, and says so"""
    chunked: bool = False
    """without a length"""
    silent: bool = False
    """nothing comes, after the headers if any body is to come before"""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """The answers, the last one again and again, and what was asked."""

    content: bytes
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]


@contextmanager
def serving(script: Script) -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = script.answers[min(len(script.asked), len(script.answers) - 1)]
            script.asked.append(dict(self.headers))
            if answer.silent and answer.stop is None:
                script.over.wait()
                self.close_connection = True
                return
            start = 0
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            status = answer.status
            if status == 200 and answer.ranges and found:
                start, status = int(found[1]), 206
            body = script.content[start:] if status in (200, 206) else b""
            if status == 206 and answer.most is not None:
                body = body[: answer.most]
            self.send_response(status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.etag:
                self.send_header("ETag", answer.etag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(script.content)}")
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body if answer.stop is None else body[: answer.stop]
            self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n" if answer.chunked and sent else sent)
            if answer.silent:
                script.over.wait()
            if answer.stop is not None:
                self.wfile.flush()
                # as far away servers do: the bytes come before the end
                time.sleep(0.03)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif answer.chunked:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            pass

    with _running(Handler) as script.url:
        try:
            yield script
        finally:
            script.over.set()


@contextmanager
def serving_folder(folder: Path) -> Iterator[str]:
    """The URL of a server of files, which lists none of them to programs."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            pass

    with _running(Handler) as url:
        yield url


@contextmanager
def _running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            # whoever asked has hung up
            pass

    with _in_thread(Server(("127.0.0.1", 0), handler)) as url:
        yield url


@contextmanager
def _in_thread(server: socketserver.TCPServer) -> Iterator[str]:
    """The URL of a server that answers while the block runs."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def breaking(port: int, after: int) -> Iterator[str]:
    """The URL of a way to a server on this machine that breaks every answer off after so many bytes."""

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                threading.Thread(target=self.ask, args=(server,), daemon=True).start()
                left = after
                while left and (piece := server.recv(min(left, 1 << 16))):
                    self.request.sendall(piece)
                    left -= len(piece)

        def ask(self, server: socket.socket) -> None:
            with suppress(OSError):
                while piece := self.request.recv(1 << 16):
                    server.sendall(piece)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with _in_thread(Server(("127.0.0.1", 0), Way)) as url:
        yield url
