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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgeres.devices.address import SshDevice
from edgeres.devices.ssh_login import LOGIN_S, connect
from edgeres.errors import ArtefactError, BackendMissingError, StageError, StorageError
from edgeres.system.extras import import_extra
from edgeres.system.files import file_sha256

_CHUNK = 1 << 22
_TRIES = 6
_WAIT_S = 0.5  # doubles with every try
_POLL_S = 0.5
_SPARE_S = 30.0
_CLOSE_S = 5.0
_MOST_OUTPUT = 4 << 20
_MOST_FETCHED = 2 << 30
_MOST_TOLD = 1 << 16
"""Bytes that are read of a command's standard output, of a file that it brings, and of what the
login shell says."""
_STEP_S = 60.0
"""Longest time for a step that is short, whatever the host does."""
_SLOWEST = 20_000
"""Bytes a second below which a transfer takes too long."""
_TOLD = "edgeres-told:"
"""Stands before what a command of ours says, after whatever a profile printed."""

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
    session = Session(device, say or (lambda text: None))
    store = PurePosixPath(device.store)
    folder = store / f"run-{uuid.uuid4().hex}"
    try:
        for path in files.values():
            patience = _STEP_S + path.stat().st_size / _SLOWEST
            await session.repeat(partial(_upload, path=path, store=store), seconds=patience)
        hashes = {name: file_sha256(path) for name, path in files.items()}
        script = _script(device, folder, hashes, command, seconds)
        await session.repeat(lambda link: _start(link, folder, script))
        await session.repeat(
            lambda link: _wait(link, folder, seconds), seconds=seconds + _SPARE_S + _STEP_S
        )
        patience = _STEP_S + len(fetch) * _MOST_FETCHED / _SLOWEST
        return await session.repeat(lambda link: _collect(link, folder, fetch), seconds=patience)
    finally:
        await session.close(folder)


class Session:
    """One connection at a time to a host, made anew when it breaks."""

    def __init__(self, device: SshDevice, say: Callable[[str], None]) -> None:
        self._device = device
        self._say = say
        self._link: Any = None

    async def repeat(self, work: Callable[[Any], Awaitable[T]], *, seconds: float = _STEP_S) -> T:
        """Does work that may be done twice, on a new connection where the last one broke.

        Raises:
            StageError: The connection broke too often, or the host did not do it in time.
        """
        asyncssh = import_extra("asyncssh")

        for attempt in range(_TRIES):
            try:
                if self._link is None:
                    self._link = await asyncio.wait_for(connect(self._device), 3 * LOGIN_S)
                return await asyncio.wait_for(work(self._link), seconds)
            except TimeoutError as error:
                await self._drop()
                raise StageError(
                    f"{self._device.name}: does not do what it is asked within {seconds:.0f} s.",
                    hint="Log in by hand and see whether commands end there.",
                ) from error
            except (asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.SFTPError) as error:
                last: Exception = error
            except (asyncssh.Error, BrokenPipeError, ConnectionError) as error:
                if getattr(error, "code", None) == asyncssh.OPEN_REQUEST_SESSION_FAILED:
                    await self._drop()
                    raise BackendMissingError(
                        f"{self._device.name}: its SSH server starts no SFTP, by which files are "
                        "copied.",
                        hint="Turn it on there: `Subsystem sftp internal-sftp` in sshd_config.",
                    ) from error
                last = error
            await self._drop()
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
        asyncssh = import_extra("asyncssh")
        # Where it does not work the folder stays; the result is what counts.
        with suppress(asyncssh.Error, OSError, TimeoutError, StageError):
            told = _told(self._link, f"rm -rf {shlex.quote(str(folder))}")
            await asyncio.wait_for(told, _CLOSE_S)
            self._link.close()
            await asyncio.wait_for(self._link.wait_closed(), _CLOSE_S)
        await self._drop()

    async def _drop(self) -> None:
        """Gives the connection up, whatever the host still wants to say."""
        link, self._link = self._link, None
        if link is not None:
            link.abort()
            with suppress(import_extra("asyncssh").Error, OSError, TimeoutError):
                await asyncio.wait_for(link.wait_closed(), _CLOSE_S)


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
    return (await _told(link, f"sha256sum {shlex.quote(str(path))}")).out.partition(" ")[0]


@dataclass(frozen=True)
class _Told:
    """What a short command said: its exit code, and the text of either stream."""

    code: int
    out: str
    err: str


async def _told(link: Any, command: str) -> _Told:
    """Runs a short command; of what it prints the first bytes are read, after our mark."""
    async with link.create_process(f"echo {_TOLD}; {command}", encoding=None) as process:
        process.stdin.write_eof()
        streams = (process.stdout, process.stderr)
        out, err = await asyncio.gather(*(_start_of(stream) for stream in streams))
        await process.wait_closed()
        code = process.exit_status
    _, mark, rest = out.decode(errors="replace").rpartition(f"{_TOLD}\n")
    return _Told(1 if code is None or not mark else int(code), rest, err.decode(errors="replace"))


async def _start_of(stream: Any) -> bytes:
    """The first bytes of a stream, read to its end.

    Raises:
        StageError: It has far more.
    """
    parts, size = [], 0
    while block := await stream.read(1 << 15):
        size += len(block)
        if size > _MOST_OUTPUT:
            raise StageError("a command prints without end.", hint="See the host's profile.")
        if size <= _MOST_TOLD:
            parts.append(block)
    return b"".join(parts)


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
    done = await _told(link, script)
    if done.code:
        reason = (done.err.strip().splitlines() or ["no reason"])[-1]
        if "No space left" in done.err:
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
    end = loop.time() + seconds + _SPARE_S
    async with link.start_sftp_client() as sftp:
        while await _size(sftp, folder / ".code") is None:
            if loop.time() > end:
                raise StageError(
                    f"the command on the host did not end within {seconds:g} s.",
                    hint="Give it more time.",
                )
            await asyncio.sleep(_POLL_S)


async def _collect(link: Any, folder: PurePosixPath, fetch: Sequence[str]) -> Finished:
    content = {}
    async with link.start_sftp_client() as sftp:
        for name in (".code", ".out", ".err", *fetch):
            if await _size(sftp, folder / name) is None:
                continue
            most = _MOST_FETCHED if name in fetch else _MOST_OUTPUT
            async with sftp.open(str(folder / name), "rb") as file:
                content[name] = bytes(await file.read(most + 1))
            if len(content[name]) > most:
                raise StageError(
                    f"the command gave more than {most:,} bytes.", hint="That is no result."
                )
    try:
        code = int(content[".code"])
    except (KeyError, ValueError) as error:
        raise StageError(
            "the host does not say how the command ended.", hint="Run again."
        ) from error
    return Finished(
        code=code,
        out=content.get(".out", b""),
        err=content.get(".err", b"").decode(errors="replace"),
        files={name: content[name] for name in fetch if name in content},
    )
