"""Files to a host and commands on it, over SSH connections that may break at any time.

Uploads are kept by content in ``~/.cache/edgeres`` there: what is whole is not sent again, what is
half goes on where it stopped. A command runs on its own, apart from the connection, and leaves its
output in files; a broken connection is made anew and the wait goes on. Host keys must be known.
"""

from __future__ import annotations

import asyncio
import shlex
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgeres.devices.address import SshDevice
from edgeres.errors import ArtefactError, BackendMissingError, StageError, StorageError
from edgeres.system.extras import import_extra
from edgeres.system.files import file_sha256

_CHUNK = 1 << 22
_TRIES = 6
_WAIT_S = 0.5  # doubles with every try
_LOGIN_S = 20.0
_POLL_S = 0.5
_MOST_OUTPUT = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A command that ended on the host: its exit code, standard output and standard error."""

    code: int
    out: bytes
    err: str
    files: Mapping[str, bytes]


async def run_on(
    device: SshDevice,
    files: Mapping[str, Path],
    command: Sequence[str],
    *,
    fetch: Sequence[str] = (),
    seconds: float,
    say: Callable[[str], None] | None = None,
) -> Finished:
    """Copies files into a new folder on a host and runs a command in it.

    Args:
        device: The host.
        files: Name there to file here.
        command: Program and arguments; ``PYTHON`` stands for the device's Python.
        fetch: Files that the command writes, to be brought back where they are there.
        seconds: Time limit of the command.
        say: Called when a connection was lost.

    Raises:
        BackendMissingError: The host cannot be reached, its key is not trusted, or login fails.
        StageError: The connection broke too often, or the command did not end in time.
        StorageError: The host's disk is full.
    """
    session = _Session(device, say or (lambda text: None))
    store = PurePosixPath(device.store)
    folder = store / f"run-{uuid.uuid4().hex}"
    try:
        for path in files.values():
            await session.repeat(partial(_upload, path=path, store=store))
        hashes = {name: file_sha256(path) for name, path in files.items()}
        script = _script(device, folder, hashes, command, seconds)
        await session.repeat(lambda link: _start(link, folder, script))
        await session.repeat(lambda link: _wait(link, folder, seconds))
        return await session.repeat(lambda link: _collect(link, folder, fetch))
    finally:
        await session.close(folder)


class _Session:
    """One connection at a time to a host, made anew when it breaks."""

    def __init__(self, device: SshDevice, say: Callable[[str], None]) -> None:
        self._device = device
        self._say = say
        self._link: Any = None

    async def repeat(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Does work that may be done twice, on a new connection where the last one broke."""
        import asyncssh

        for attempt in range(_TRIES):
            try:
                if self._link is None:
                    self._link = await _connect(self._device)
                return await work(self._link)
            except (asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.SFTPError) as error:
                last: Exception = error
            except (asyncssh.ChannelOpenError, BrokenPipeError, ConnectionError) as error:
                last = error
            if self._link is not None:
                self._link.abort()
            self._link = None
            self._say(f"{self._device.name}: connection lost, trying again ({attempt + 1})")
            await asyncio.sleep(_WAIT_S * 2**attempt)
        raise StageError(
            f"{self._device.name}: the connection broke {_TRIES} times ({last}).",
            hint="Run again: what was copied is kept there.",
        ) from last

    async def close(self, folder: PurePosixPath) -> None:
        """Removes the run's folder, if the host still answers, and hangs up."""
        if self._link is None:
            return
        import asyncssh

        try:
            await self._link.run(f"rm -rf {shlex.quote(str(folder))}", check=False)
        except (asyncssh.Error, OSError):
            pass  # the folder stays; the result is what counts
        finally:
            self._link.close()
            await self._link.wait_closed()


async def _connect(device: SshDevice) -> Any:
    """Logs in.

    Raises:
        BackendMissingError: It cannot be done; trying again would not help.
        ConnectionError: The host does not answer just now.
    """
    asyncssh: Any = import_extra("asyncssh", extra="ssh")
    options: dict[str, Any] = {
        "host": device.host,
        "known_hosts": str(device.known_hosts or Path("~/.ssh/known_hosts").expanduser()),
        "connect_timeout": _LOGIN_S,
        "login_timeout": _LOGIN_S,
        "keepalive_interval": 10,
    }
    options |= {"port": device.port} if device.port else {}
    options |= {"username": device.user} if device.user else {}
    options |= {"client_keys": [str(device.identity)]} if device.identity else {}
    if not Path(options["known_hosts"]).is_file():
        raise BackendMissingError(
            f"{device.name}: there is no file of known host keys at {options['known_hosts']}.",
            hint="Connect once with ssh and check the key, or give --known-hosts.",
        )
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


async def _upload(link: Any, path: Path, store: PurePosixPath) -> None:
    """Brings a file into the host's store, from where an earlier try stopped.

    Raises:
        StorageError: The host's disk has no room for it; a half file is removed there, since the
            host may need the room for other things.
    """
    import asyncssh

    sha256, size = file_sha256(path), path.stat().st_size
    whole = store / "files" / sha256
    part = whole.with_suffix(".part")
    async with link.start_sftp_client() as sftp:
        await sftp.makedirs(str(whole.parent), exist_ok=True)
        if await _size(sftp, whole) == size and await _sha256(link, whole) == sha256:
            return
        done = await _size(sftp, part) or 0
        if done > size:
            await sftp.remove(str(part))
            done = 0
        await _check_room(sftp, store, path, size - done)
        try:
            # "r+b" would refuse a new file; append mode writes at the end of what is there.
            async with sftp.open(str(part), "ab") as there:
                with path.open("rb") as here:
                    here.seek(done)
                    while block := here.read(_CHUNK):
                        await there.write(block, done)
                        done += len(block)
        except (
            asyncssh.SFTPFailure
        ):  # all that the protocol says of a disk that filled up meanwhile
            await _check_room(sftp, store, path, size - (await _size(sftp, part) or 0), part)
            raise
        if await _sha256(link, part) != sha256:
            await sftp.remove(str(part))
            raise ArtefactError(
                f"{path}: arrived damaged at the host.", hint="Run again; it is copied anew."
            )
        await sftp.posix_rename(str(part), str(whole))


async def _check_room(
    sftp: Any, store: PurePosixPath, path: Path, needed: int, part: PurePosixPath | None = None
) -> None:
    """Refuses a file that the host has no room for, and removes its first part there.

    Raises:
        StorageError: Fewer bytes are free than needed.
    """
    import asyncssh

    try:
        found = await sftp.statvfs(str(store))
    except (asyncssh.SFTPOpUnsupported, asyncssh.SFTPFailure):
        return  # an extension that not every host has
    free = int(found.bavail) * int(found.frsize)
    if free >= needed:
        return
    if part is not None:
        await sftp.remove(str(part))
    raise StorageError(
        f"{path}: no space left at the host: {needed} more bytes are needed and {free} are free "
        f"in {store}.",
        hint="Free some space there and run again.",
    )


async def _sha256(link: Any, path: PurePosixPath) -> str:
    found = await link.run(f"sha256sum {shlex.quote(str(path))}", check=False)
    return str(found.stdout).partition(" ")[0]


async def _size(sftp: Any, path: PurePosixPath) -> int | None:
    import asyncssh

    try:
        return int((await sftp.stat(str(path))).size)
    except asyncssh.SFTPNoSuchFile:
        return None


def _script(
    device: SshDevice,
    folder: PurePosixPath,
    hashes: Mapping[str, str],
    command: Sequence[str],
    seconds: float,
) -> str:
    """What the host runs: files into a folder of their own, then the command, apart from us."""
    words = [device.python if word == "PYTHON" else word for word in command]
    told = " ".join(map(shlex.quote, words))
    parents = {str(PurePosixPath(name).parent) for name in hashes} - {"."}
    steps = [f"mkdir -p {shlex.quote(str(folder))}", f"cd {shlex.quote(str(folder))}"]
    steps += [f"mkdir -p {shlex.quote(parent)}" for parent in sorted(parents)]
    steps += [  # copies, not links: the command may write
        f"cp ../files/{sha256} {shlex.quote(name)}" for name, sha256 in hashes.items()
    ]
    inner = (
        f"timeout -k 5 {seconds:.0f} {told} > .out 2> .err; echo $? > .code-new; mv .code-new .code"
    )
    # Where an earlier try of this very start came through, there is nothing left to do.
    steps += ["{ mkdir .started 2> /dev/null || exit 0; }"]
    steps += [f"(setsid nohup sh -c {shlex.quote(inner)} < /dev/null > /dev/null 2>&1 &)"]
    return " && ".join(steps)


async def _start(link: Any, folder: PurePosixPath, script: str) -> None:
    done = await link.run(script, check=False)
    if done.exit_status:
        reason = str(done.stderr).strip() or "no reason"
        if "No space left" in reason:
            raise StorageError(
                f"no space left at the host: {reason}.",
                hint="Free some space there and run again.",
            )
        raise StageError(
            f"the host could not start the command: {reason}.",
            hint="It needs a POSIX shell, cp, setsid and timeout.",
        )


async def _wait(link: Any, folder: PurePosixPath, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds + 30
    async with link.start_sftp_client() as sftp:
        while await _size(sftp, folder / ".code") is None:
            if loop.time() > end:
                raise StageError(
                    f"the command on the host did not end within {seconds:g} s.",
                    hint="Give it more time.",
                )
            await asyncio.sleep(_POLL_S)


async def _collect(link: Any, folder: PurePosixPath, fetch: Sequence[str]) -> Finished:
    async with link.start_sftp_client() as sftp:
        content = {}
        for name in (".code", ".out", ".err", *fetch):
            size = await _size(sftp, folder / name)
            if size is None:
                continue
            if size > _MOST_OUTPUT and name not in fetch:
                raise StageError(f"the command printed {size} bytes.", hint="That is no result.")
            async with sftp.open(str(folder / name), "rb") as file:
                content[name] = bytes(await file.read())
    return Finished(
        code=int(content[".code"]),
        out=content.get(".out", b""),
        err=content.get(".err", b"").decode(errors="replace"),
        files={name: content[name] for name in fetch if name in content},
    )
