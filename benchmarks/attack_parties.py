"""Tries of `attack.py` on others: registries, SSH hosts and schedulers that do what they like.

The servers are those of the tests: real ones in a thread, told what to do wrong.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from attack_try import Try

TESTS = Path(__file__).parent.parent / "tests"
REGISTRIES = {
    "never": (4,), "slow_headers": (4,), "slow_body": (4,), "endless_body": (3,),
    "gzip_bomb": (3,), "wants_login": (4,), "wants_token": (4,), "token_never_comes": (4,),
    "odd_login": (3, 4), "forbids": (4,), "redirects_in_a_ring": (3,), "fails": (4,),
    "deep_json": (3,), "speaks_something_else": (3, 4),
}  # fmt: skip
"""What a registry does, as ``tests/bundling/registry_server.py`` calls it, and what is right."""
HOSTS = ("hangs", "talks", "says_nothing", "says_binary", "refuses", "kills_itself")
PYTHONS = {
    "nothing": "", "an empty object": "{}", "a list": "edgeres-answer: []",
    "an object of nothing": "edgeres-answer: {}", "no end": "edgeres-answer: " + "[" * 99_999,
    "an odd error": 'edgeres-answer: {"error": 3}',
    "an error that acts": 'edgeres-answer: {"error": {"id": "x", "exit_code": 99, '
                          '"message": "\\u001b[2J\\u202e", "hint": "\\u009b2J"}}',
    "NaN": 'edgeres-answer: {"environment": {"cpu": "c", "threads": NaN}}',
    "ten answers": 'edgeres-answer: {"error": {"id": "bad-data", "message": "odd"}}\n' * 10,
}  # fmt: skip
"""What the Python of a host prints instead of an answer."""
WIRES = ("silent", "closes", "junk", "floods", "http", "ssh and silent")
"""What answers at a port where something else is expected."""


def registries() -> Iterator[Try]:
    """Pull and push to every sort of registry."""
    for name, codes in REGISTRIES.items():
        place = f"<registry {name}>/models/net:1"
        pull = ("pull", place, "--output", "made/b", "--plain-http")
        yield Try(f"pull: {name}", pull, codes)
        push = ("push", "whole.edgeres", place, "--plain-http")
        taken = (0, *codes) if name == "deep_json" else codes  # nothing of it is read
        yield Try(f"push: {name}", push, taken)
    for wire in WIRES:
        words = ("pull", f"<wire {wire}>/a/b:1", "--output", "made/b")
        yield Try(f"pull, encrypted, from {wire}", words, (3, 4))
        yield Try(f"pull from {wire}", (*words, "--plain-http"), (3, 4))
    good = "<registry good>/models/net:1"
    yield Try("push to a good one", ("push", "whole.edgeres", good, "--plain-http"), (0,))
    other = ("pull", "<registry good>/models/net:2", "--output", "made/b", "--plain-http")
    yield Try("pull of what is not there", other, (3,))


def hosts() -> Iterator[Try]:
    """Benchmarks and validation on every sort of host; schedulers that are none."""
    benchmark = ("benchmark", "engine.onnx", "--seconds", "0.1", "--threads", "1")
    validate = ("validate", "engine.onnx", "--data", "npz:images.npz", "--mean", "0.286",
                "--std", "0.353", "--baseline", "engine.onnx")  # fmt: skip
    for name in HOSTS:
        for what, words in (("benchmark", benchmark), ("validate", validate)):
            given = (*words, "--device", f"<host {name}>", "--known-hosts", f"known {name}")
            yield Try(f"{what} on a host: {name}", given, (3, 4, 5), 180)
    for number, name in enumerate(PYTHONS):
        given = ("--device", "<host good>", "--known-hosts", "known good",
                 "--remote-python", f"<python {number}>")  # fmt: skip
        yield Try(f"a host that prints {name}", (*benchmark, *given), (3, 4, 5))
        if number % 2 == 0:
            yield Try(f"judged where it prints {name}", (*validate, *given), (3, 4, 5))
    for wire in WIRES:
        given = ("--device", f"ssh://<wire {wire}>", "--known-hosts", "known good")
        yield Try(f"ssh to {wire}", (*benchmark, *given), (4, 5), 120)
        scheduler = (*validate, "--scheduler", f"tcp://<wire {wire}>")
        yield Try(f"a scheduler: {wire}", scheduler, (4, 5), 120)


@contextmanager
def others(folder: Path) -> Iterator[Mapping[str, str]]:
    """Runs all servers; gives name to address."""
    registry = load(TESTS / "bundling" / "registry_server.py")
    bad_host = load(TESTS / "devices" / "bad_host.py")
    places: dict[str, str] = {}
    before = Path.cwd()
    with ExitStack() as stack:
        for name in ("good", *REGISTRIES):
            server = stack.enter_context(registry.running())
            if name != "good":
                server.wrong = getattr(registry, name)
            places[f"registry {name}"] = server.host
        home = folder / "home"
        home.mkdir(exist_ok=True)
        os.chdir(home)  # relative to this do the hosts keep what they get
        stack.callback(os.chdir, before)
        for name in ("good", *HOSTS):
            place = folder / f"host {name}"
            place.mkdir()
            host = stack.enter_context(bad_host.running(place))
            host.home, host.wrong = home, _WRONG.get(name)
            (folder / f"known {name}").write_bytes((place / "known_hosts").read_bytes())
            places[f"host {name}"] = f"ssh://me@127.0.0.1:{host.port}"
        for name in WIRES:
            places[f"wire {name}"] = stack.enter_context(_wire(name))
        for number, printed in enumerate(PYTHONS.values()):
            program = folder / f"python-{number}"
            (folder / f"said-{number}").write_text(printed)
            program.write_text(f"#!/bin/sh\ncat '{folder}/said-{number}'\n")
            program.chmod(0o755)
            places[f"python {number}"] = str(program)
        yield places


async def _hangs(process: Any, command: str) -> bool:
    import asyncio

    await asyncio.sleep(600)
    return True


async def _talks(process: Any, command: str) -> bool:
    while True:
        process.stdout.write(b"x" * (1 << 16))
        await process.stdout.drain()


async def _says_nothing(process: Any, command: str) -> bool:
    return True


async def _says_binary(process: Any, command: str) -> bool:
    process.stdout.write(bytes(range(256)))
    return True


async def _refuses(process: Any, command: str) -> bool:
    process.stderr.write(b"no\x1b[2J\n")
    process.exit(1)
    return True


async def _kills_itself(process: Any, command: str) -> bool:
    process.get_extra_info("connection").abort()
    return True


_WRONG: dict[str, Callable[[Any, str], Any]] = {
    "hangs": _hangs, "talks": _talks, "says_nothing": _says_nothing,
    "says_binary": _says_binary, "refuses": _refuses, "kills_itself": _kills_itself,
}  # fmt: skip


@contextmanager
def _wire(name: str) -> Iterator[str]:
    """A port at which something answers that speaks no protocol of ours."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def talk(link: socket.socket) -> None:
        first = {"junk": os.urandom(4096), "http": b"HTTP/1.1 400 Bad\r\n\r\n",
                 "ssh and silent": b"SSH-2.0-x\r\n"}.get(name, b"")  # fmt: skip
        try:
            link.sendall(first)
            while name == "floods" and not ended.is_set():
                link.sendall(b"SSH" * 20_000)
            if name in ("silent", "ssh and silent"):
                ended.wait(200)
        except OSError:
            pass
        finally:
            link.close()

    def serve() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(link,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        ended.set()
        server.close()


def load(path: Path) -> ModuleType:
    """A file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
