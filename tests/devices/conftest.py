"""A real sshd on the loopback, run by this user on a free port, and a relay that can be cut."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.devices.address import SshDevice


@dataclass
class Sshd:
    port: int
    folder: Path
    home: Path

    def device(self, port: int | None = None) -> SshDevice:
        return SshDevice(
            "127.0.0.1",
            port or self.port,
            getpass.getuser(),
            self.folder / "known_hosts",
            self.folder / "user_key",
            str(self.folder / "python"),
            str(self.home / ".cache/edgeres"),
        )

    def trust(self, port: int) -> None:
        key = (self.folder / "host_key.pub").read_text().split()[:2]
        with (self.folder / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{port} {' '.join(key)}\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bare_packages(folder: Path) -> Path:
    """A folder with links to NumPy, Pillow and ONNX Runtime alone."""
    folder.mkdir()
    for name in ("numpy", "PIL", "psutil", "onnxruntime"):
        found = find_spec(name)
        if found is None or found.origin is None:
            continue
        package = Path(found.origin).parent
        (folder / name).symlink_to(package)
        for libraries in package.parent.glob(f"{name.replace('PIL', 'pillow')}.libs"):
            (folder / libraries.name).symlink_to(libraries)
    return folder


@pytest.fixture(scope="module")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed")
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).is_file() or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd or ssh-keygen is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it when it runs as root
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "other_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copyfile(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "authorized_keys").chmod(0o600)
    # The device's Python: this one, which sees no installed package but those it needs there.
    bare = bare_packages(folder / "packages")
    script = f'#!/bin/sh\nPYTHONPATH="{bare}" exec "{sys.executable}" -S "$@"\n'
    (folder / "python").write_text(script)
    (folder / "python").chmod(0o755)
    home = folder / "home"
    home.mkdir()
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"Subsystem sftp internal-sftp\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", folder / "config"], stderr=log, start_new_session=True
        )
    try:
        for _ in range(1200):  # a minute, on a busy machine
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                pytest.skip(f"sshd does not run here: {(folder / 'log').read_text().strip()}")
            time.sleep(0.05)
        found = Sshd(port, folder, home)
        found.trust(port)
        yield found
    finally:
        process.terminate()
        process.wait(10)


class Relay:
    """Passes bytes on to sshd and can cut every connection, at once or after so many bytes."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.connections = 0
        self.cut_after: int | None = None
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            there = socket.create_connection(("127.0.0.1", self._target))
            self._pairs.append((here, there))
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                sink.sendall(block)
                if self.cut_after is not None:
                    self.cut_after -= len(block)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        self.cut()
        except OSError:
            pass

    def cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.fixture
def relay(sshd) -> Iterator[Relay]:
    found = Relay(sshd.port)
    sshd.trust(found.port)
    yield found
    found.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("engine")
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["y"], "flat"),
        ],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "source.onnx")
    backend.build(folder / "source.onnx", folder / "model.onnx", BuildConfig())
    return folder / "model.onnx"
