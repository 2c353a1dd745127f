"""Where a command runs: here, or on a host that is reached over SSH."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgeres.errors import UsageError

_SCHEME = "ssh://"


@dataclass(frozen=True)
class SshDevice:
    """A host, how to log in, and the Python to run there.

    Attributes:
        host: Name or address.
        port: TCP port; ``None`` leaves it to the user's SSH configuration.
        user: Login name; ``None`` likewise.
        known_hosts: File of host keys that are trusted; ``None`` for ``~/.ssh/known_hosts``. There
            is no way to trust a key that is not in it.
        identity: Private key; ``None`` for the user's own keys and agent.
        python: Program that runs there.
        store: Folder there for copied files and runs, relative to the home folder.
    """

    host: str
    port: int | None = None
    user: str | None = None
    known_hosts: Path | None = None
    identity: Path | None = None
    python: str = "python3"
    store: str = ".cache/edgeres"

    @property
    def name(self) -> str:
        """The address as it was written."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEME}{user}{host}{port}"


def is_remote(device: str | None) -> bool:
    """Whether a device is reached over SSH."""
    return device is not None and device.startswith(_SCHEME)


def parse_ssh(
    address: str,
    *,
    known_hosts: Path | None = None,
    identity: Path | None = None,
    python: str = "python3",
) -> SshDevice:
    """Reads ``ssh://[user@]host[:port]``.

    Raises:
        UsageError: The text is no such address, or it carries a password or a path.
    """
    wrong = UsageError(
        f"--device: expected ssh://[user@]host[:port], got {address!r}.",
        hint="Keys come from your SSH configuration, never from the address.",
    )
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if (
        parts.scheme != "ssh"
        or not parts.hostname
        or parts.hostname.startswith("-")
        or parts.password is not None
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise wrong
    return SshDevice(parts.hostname, port, parts.username, known_hosts, identity, python)
