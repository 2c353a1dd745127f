"""An SSH host in a thread: it does what it is asked, or what a test wants to go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh

from edgeres.devices.address import SshDevice

Wrong = Callable[[Any, str], Awaitable[bool]]
"""Answers a command in a test's own way; ``False`` leaves it to the shell."""

MOTD = b"Welcome!\x1b[2J\n{}\n[1, 2]\n"


class _Server(asyncssh.SSHServer):
    def __init__(self, connections: list[Any]) -> None:
        self._connections = connections

    def connection_made(self, conn: Any) -> None:
        self._connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        return False


class Host:
    """Begins as a good one; ``before`` is printed first by every command, as a profile would."""

    def __init__(self, folder: Path, *, sftp: bool = True) -> None:
        self._sftp = sftp
        self.home = folder / "home"
        self.home.mkdir()
        self.wrong: Wrong | None = None
        self.before = b""
        self.python = sys.executable
        self.port = 0
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._loop = asyncio.new_event_loop()
        self._known = folder / "known_hosts"
        self._connections: list[Any] = []

    def device(self) -> SshDevice:
        store = str(self.home / ".cache/edgeres")
        return SshDevice("127.0.0.1", self.port, "me", self._known, None, self.python, store)

    def run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        ready.set()
        self._loop.run_forever()
        self._loop.close()

    def stop(self) -> None:
        async def end() -> None:
            self._server.close()
            for connection in self._connections:
                connection.abort()
                await connection.wait_closed()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self) -> None:
        self._server = await asyncssh.create_server(
            lambda: _Server(self._connections),
            "127.0.0.1",
            0,
            server_host_keys=[self._key],
            process_factory=self._process,
            sftp_factory=self._sftp,
            encoding=None,
        )
        self.port = self._server.get_port()
        public = self._key.export_public_key().decode().strip()
        self._known.write_text(f"[127.0.0.1]:{self.port} {public}\n")

    async def _process(self, process: Any) -> None:
        with contextlib.suppress(asyncssh.Error, OSError):
            process.stdout.write(self.before)
            if self.wrong is not None and await self.wrong(process, process.command):
                process.exit(0)
                return
            child = await asyncio.create_subprocess_shell(
                process.command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self.home,
            )
            out, err = await child.communicate()
            process.stdout.write(out)
            process.stderr.write(err)
            process.exit(child.returncode)


@contextlib.contextmanager
def running(folder: Path, *, sftp: bool = True) -> Iterator[Host]:
    host, ready = Host(folder, sftp=sftp), threading.Event()
    thread = threading.Thread(target=host.run, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield host
    finally:
        host.stop()
        thread.join(10)
