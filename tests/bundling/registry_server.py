"""A registry in a thread: it keeps what is pushed, and does wrong what a test asks for."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Wrong = Callable[["Handler"], bool]
"""Answers a request in a test's own way; ``False`` leaves it to the registry."""


class Registry(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.wrong: Wrong = lambda handler: False
        self.requests: list[str] = []
        self.ended = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def say(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.server.wrong(self):
            self._do_right(body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815  # names of http.server

    def _do_right(self, body: bytes) -> None:
        blob = re.fullmatch(r"/v2/[^?]+/blobs/(sha256:\w+)", self.path)
        manifest = re.fullmatch(r"/v2/[^?]+/manifests/(\S+)", self.path)
        if self.path == "/v2/":
            self.say(200, b"{}")
        elif self.command == "POST":
            self.say(202, Location=f"http://{self.server.host}{self.path}1")
        elif self.command == "PUT" and manifest is None:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.server.blobs[digest] = body
            self.say(201)
        elif self.command == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.server.manifests |= {manifest[1]: body, digest: body}
            self.say(201)
        elif blob is not None and blob[1] in self.server.blobs:
            self.say(200, self.server.blobs[blob[1]])
        elif manifest is not None and manifest[1] in self.server.manifests:
            self.say(200, self.server.manifests[manifest[1]])
        else:
            self.say(404)


def never(handler: Handler) -> bool:
    handler.server.ended.wait(120)
    return True


def slow_headers(handler: Handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.ended.wait(0.5):
            handler.wfile.write(b"X-Odd: 1\r\n")
    handler.close_connection = True
    return True


def slow_body(handler: Handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.ended.wait(0.5):
            handler.wfile.write(b"x")
    handler.close_connection = True
    return True


def endless_body(handler: Handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.ended.is_set():
            handler.wfile.write(bytes(1 << 20))
    handler.close_connection = True
    return True


def gzip_bomb(handler: Handler) -> bool:
    handler.say(200, gzip.compress(bytes(200 << 20), 1), Content_Encoding="gzip")
    return True


def wants_login(handler: Handler) -> bool:
    handler.say(401)
    return True


def wants_token(handler: Handler) -> bool:
    """Gives a token to anybody, and takes none."""
    if handler.path.startswith("/token"):
        handler.say(200, json.dumps({"token": "x"}).encode())
    else:
        realm = f'Bearer realm="http://{handler.server.host}/token",service="x"'
        handler.say(401, WWW_Authenticate=realm)
    return True


def token_never_comes(handler: Handler) -> bool:
    return never(handler) if handler.path.startswith("/token") else wants_token(handler)


def odd_login(handler: Handler) -> bool:
    handler.say(401, WWW_Authenticate="Bearer")
    return True


def forbids(handler: Handler) -> bool:
    handler.say(403)
    return True


def redirects_in_a_ring(handler: Handler) -> bool:
    handler.say(302, Location=f"http://{handler.server.host}/v2/?{time.monotonic_ns()}")
    return True


def fails(handler: Handler) -> bool:
    handler.say(500, b'{"errors": [{"message": "odd"}]}')
    return True


def deep_json(handler: Handler) -> bool:
    if "/manifests/" not in handler.path:
        return False
    handler.say(200, b"[" * 100_000)
    return True


def speaks_something_else(handler: Handler) -> bool:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True
    return True


@contextlib.contextmanager
def running() -> Iterator[Registry]:
    server = Registry()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
