"""HTTP to a server that may do anything: answer late, never, without end, compressed, or in a ring.

Every request has a limit on the time to connect, on each wait and on the whole; every answer one on
its bytes, counted as they come, and none is decompressed. Nothing is tried twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from edgeres.errors import ArtefactError, BackendMissingError
from edgeres.system.within import within

CONNECT_S = 5.0
WAIT_S = 8.0
"""Longest time without a byte."""
ANSWER_S = 9.0
"""Longest time to the first byte of an answer, redirects and their bodies included."""
SLOWEST = 20_000
"""Bytes a second below which bodies, there or back, take too long."""
_HASHED = 10_000_000
"""Bytes a second that a registry reads of what it got, before it answers."""
SMALL_BYTES = 4 << 20
"""Most bytes of an answer that is no layer."""
_REDIRECTS = 5
_BLOCK = 1 << 16


class GuardedSession(requests.Session):
    """A session of requests with limits.

    Args:
        host: The registry, for messages.
        plain_http: Whether requests without encryption are allowed.
    """

    def __init__(self, host: str, *, plain_http: bool) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS
        self.body_bytes = SMALL_BYTES
        self._host = host
        adapter = _GuardedAdapter(self, plain_http)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    # The library passes whatever ``requests`` takes on, hence ``Any``.
    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As ``requests.Session.request``, within the limits.

        Raises:
            ArtefactError: The answer makes no sense.
            BackendMissingError: The server cannot be reached, is too slow, or has a fault.
        """
        size = _length(kwargs.get("data"))
        sent, hashed = size / SLOWEST, size / _HASHED
        kwargs["timeout"] = (CONNECT_S + sent, WAIT_S + hashed)
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "Accept-Encoding": "identity"}
        with http_errors(self._host):
            # Headers may come byte by byte for ever, each in time; only a clock beside sees that.
            found = within(
                ANSWER_S + sent + hashed,
                lambda: super(GuardedSession, self).request(*args, **kwargs),
            )
        if found.status_code >= 500:
            found.close()
            raise BackendMissingError(
                f"{self._host}: the registry answered {found.status_code} ({found.reason}).",
                hint="It has a fault of its own; try again later, or tell who runs it.",
            )
        return found


@contextmanager
def http_errors(host: str) -> Iterator[None]:
    """The errors of ``requests`` as errors of edgeres, also while a body is read.

    Raises:
        ArtefactError: The answer makes no sense.
        BackendMissingError: The server cannot be reached or is too slow.
    """
    try:
        yield
    except requests.TooManyRedirects as error:
        raise _no_sense(host, f"more than {_REDIRECTS} redirects") from error
    except (requests.Timeout, TimeoutError) as error:
        raise _unreachable(host, "does not answer in time") from error
    except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
        late = isinstance((*error.args, error)[0], urllib3.exceptions.TimeoutError)
        what = "does not answer in time" if late else f"cannot be reached ({type(error).__name__})"
        raise _unreachable(host, what) from error
    except requests.RequestException as error:
        raise _no_sense(host, str(error)) from error


def _unreachable(host: str, what: str) -> BackendMissingError:
    return BackendMissingError(
        f"{host}: {what}.",
        hint="Check the address; --plain-http is for a registry without encryption.",
    )


def _no_sense(host: str, reason: str) -> ArtefactError:
    return ArtefactError(
        f"{host}: the registry's answer makes no sense: {' '.join(reason.split())[:200]}.",
        hint="Check the name and that a registry runs there.",
    )


class _GuardedAdapter(requests.adapters.HTTPAdapter):
    """Bounds the body of every answer, those of redirects and logins too."""

    def __init__(self, session: GuardedSession, plain_http: bool) -> None:
        super().__init__(max_retries=0)
        self._session = session
        self._plain_http = plain_http

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """As ``HTTPAdapter.send``."""
        address = urlsplit(str(request.url))
        if address.scheme == "http" and not self._plain_http:
            raise BackendMissingError(
                f"{address.netloc}: asks for a request without encryption.",
                hint="--plain-http allows it, for a registry on this machine.",
            )
        answer = super().send(request, *args, **kwargs)
        coding = str(answer.headers.get("Content-Encoding", "identity"))
        if coding.lower() != "identity":
            answer.close()
            raise requests.RequestException(f"a body with the encoding {coding[:40]}")
        limit = self._session.body_bytes

        def stream(amount: int = _BLOCK, decode_content: bool | None = None) -> Iterator[bytes]:
            return _bounded(raw, limit)

        raw: Any = answer.raw
        raw.stream = stream
        return answer


def _bounded(raw: Any, limit: int) -> Iterator[bytes]:
    """The bytes of a body as they come, within the limits."""
    begin, done = time.monotonic(), 0
    with ExitStack() as stack:
        stack.callback(raw.close)  # else the connection, which nobody can use again, stays open
        while block := raw.read1(_BLOCK, decode_content=False):
            done += len(block)
            if done > limit:
                raise requests.RequestException(f"more than {limit} bytes came")
            if time.monotonic() - begin > WAIT_S + done / SLOWEST:
                raise requests.Timeout("the body comes too slowly")
            yield block
        stack.pop_all()


def _length(data: Any) -> int:
    """Bytes of a request's body, as far as they are known."""
    if data is None:
        return 0
    try:
        return int(requests.utils.super_len(data))
    except (TypeError, ValueError, OSError):
        return 0
