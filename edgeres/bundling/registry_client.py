"""The client of the package oras, held to limits and to one try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from oras.client import OrasClient
from oras.logger import setup_logger
from oras.utils import append_url_params

from edgeres.bundling.guarded_http import GuardedSession, http_errors
from edgeres.errors import BackendMissingError


class RegistryClient(OrasClient):  # type: ignore[misc]  # the package has no types
    """Asks a registry; see :mod:`edgeres.bundling.guarded_http` for the limits."""

    session: Any

    def __init__(self, host: str, *, plain_http: bool) -> None:
        super().__init__(hostname=host, insecure=plain_http)
        setup_logger(quiet=True)  # else it writes lines of its own
        guarded = GuardedSession(host, plain_http=plain_http)
        guarded.cookies.set_policy(self.session.cookies.get_policy())
        self.session.close()
        self.session = self.auth.session = guarded
        self._host = host

    # The library's own signature; its version tries again for minutes.
    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request, and a second one where the registry wants a token first.

        Raises:
            BackendMissingError: The registry wants a login.
        """
        wanted = {**(headers or {}), **self.auth.get_auth_header()}
        more = {"data": data, "json": json, "stream": stream}
        answer: requests.Response = self.session.request(method, url, headers=wanted, **more)
        if answer.status_code in (401, 403):
            wanted, changed = self.auth.authenticate_request(answer, wanted, refresh=True)
            if changed:
                answer.close()
                if hasattr(data, "seek"):
                    data.seek(0)  # the first request read it
                answer = self.session.request(method, url, headers=wanted, **more)
        if answer.status_code in (401, 403):
            answer.close()
            raise BackendMissingError(
                f"{self._host}: the registry wants another login (it answered "
                f"{answer.status_code}).",
                hint=f"Log in with `docker login {self._host}` as somebody who may do this.",
            )
        return answer

    # The library's own version reads the whole file first.
    def put_upload(self, blob: str, container: Any, layer: dict[str, Any]) -> requests.Response:
        """Brings a file to the registry as it is read."""
        kind = {"Content-Type": "application/octet-stream"}
        begun = self.do_request(
            f"{self.prefix}://{container.upload_blob_url()}", "POST", headers=kind
        )
        place = self._get_location(begun, container)
        if not place:
            return begun
        address = append_url_params(place, {"digest": layer["digest"]})
        with Path(blob).open("rb") as file:
            return self.do_request(address, "PUT", data=file, headers=kind)

    @contextmanager
    def bodies_up_to(self, limit: int) -> Iterator[None]:
        """Lets bodies be as long as a layer."""
        usual = self.session.body_bytes
        self.session.body_bytes = limit
        try:
            yield
        finally:
            self.session.body_bytes = usual

    def blocks(self, answer: requests.Response) -> Iterator[bytes]:
        """The body of an answer as it comes, within the limits.

        Raises:
            ArtefactError: It is longer than it may be.
            BackendMissingError: It comes too slowly, or the connection breaks.
        """
        with http_errors(self._host):
            yield from answer.iter_content(1 << 20)
