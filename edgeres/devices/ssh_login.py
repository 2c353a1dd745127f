"""Logging in to a host: its key must be known, the user's key must be usable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgeres.devices.address import SshDevice
from edgeres.errors import BackendMissingError, UsageError
from edgeres.system.extras import import_extra
from edgeres.system.plain_files import refuse_special

LOGIN_S = 20.0
_MOST_BYTES = 16 << 20


async def connect(device: SshDevice) -> Any:
    """Logs in.

    Raises:
        BackendMissingError: It cannot be done; trying again would not help.
        ConnectionError: The host does not answer just now.
        UsageError: A file of keys makes no sense.
    """
    asyncssh = import_extra("asyncssh")
    options: dict[str, Any] = {
        "host": device.host,
        "known_hosts": read_known_hosts(device),
        "connect_timeout": LOGIN_S,
        "login_timeout": LOGIN_S,
        "keepalive_interval": 10,
    }
    options |= {"port": device.port} if device.port else {}
    options |= {"username": device.user} if device.user else {}
    if device.identity is not None:
        options |= _client_keys(device.identity)
    try:
        return await asyncssh.connect(**options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise BackendMissingError(
            f"{device.name}: its host key is not the one that is known ({error.reason}).",
            hint="If the host was set up anew, put its key into known_hosts; else do not trust it.",
        ) from error
    except asyncssh.PermissionDenied as error:
        raise BackendMissingError(
            f"{device.name}: login was refused ({error.reason}).",
            hint="Check the user and the key.",
        ) from error
    except (OSError, TimeoutError) as error:
        raise BackendMissingError(
            f"{device.name}: cannot be reached ({error or 'no answer in time'}).",
            hint="Check the address and that sshd runs there.",
        ) from error
    except (asyncssh.ConfigParseError, UnicodeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{device.name}: cannot be asked ({reason}).",
            hint="Check the address and your SSH configuration.",
        ) from error


def read_known_hosts(device: SshDevice) -> Any:
    """The file of trusted keys, read.

    Raises:
        BackendMissingError: There is none.
        UsageError: It cannot be read, or a line of it is no key.
    """
    asyncssh = import_extra("asyncssh")
    path = device.known_hosts or Path("~/.ssh/known_hosts").expanduser()
    refuse_special(path, UsageError)
    if not path.is_file():
        raise BackendMissingError(
            f"{device.name}: there is no file of known host keys at {path}.",
            hint="Connect once with ssh and check the key, or give --known-hosts.",
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: has more than {_MOST_BYTES:,} bytes.")
        return asyncssh.import_known_hosts(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, asyncssh.Error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"{path}: is no file of known host keys ({reason}).",
            hint="Each line is a host, a kind of key and the key; mend it, or give --known-hosts.",
        ) from error


def _client_keys(path: Path) -> dict[str, Any]:
    """The option that names the user's key; none where the agent has to give it.

    Raises:
        UsageError: There is no such key, or it needs a passphrase and no agent runs.
    """
    asyncssh = import_extra("asyncssh")
    refuse_special(path, UsageError)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: has more than {_MOST_BYTES:,} bytes.")
        return {"client_keys": [asyncssh.import_private_key(path.read_bytes())]}
    except OSError as error:
        raise UsageError(
            f"{path}: no private key can be read there ({error.strerror}).",
            hint="Check --identity.",
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        if "assphrase" not in reason:
            raise UsageError(
                f"{path}: is no private key ({reason}).", hint="Check --identity."
            ) from error
        if "SSH_AUTH_SOCK" in os.environ:
            return {}  # keys of the agent are offered where none is named
        raise UsageError(
            f"{path}: the key has a passphrase, and no agent runs to give it.",
            hint=f"Run `ssh-agent` and `ssh-add {path}` first.",
        ) from error
