"""Hosts that hang, talk too much or answer nonsense: a limit and one line; others go on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("asyncssh", reason="asyncssh is not installed")

import asyncssh

from edgeres.devices import remote, ssh
from edgeres.devices.fleet import FleetDevice, benchmark_fleet
from edgeres.devices.framing import MARK, framed, unframed
from edgeres.devices.host_answer import check_benchmark, read_answer
from edgeres.devices.remote import benchmark_on
from edgeres.devices.ssh import run_on
from edgeres.errors import BackendMissingError, DataError, StageError, UsageError

from . import bad_host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[bad_host.Host]:
    (tmp_path / "host").mkdir()
    with bad_host.running(tmp_path / "host") as running:
        yield running


async def hangs(process, command: str) -> bool:
    await asyncio.sleep(600)
    return True


async def talks(process, command: str) -> bool:
    while True:
        process.stdout.write(b"x" * (1 << 16))
        await process.stdout.drain()


async def says_nothing(process, command: str) -> bool:
    return True


async def says_binary(process, command: str) -> bool:
    process.stdout.write(bytes(range(256)))
    return True


def test_a_motd_and_a_profile_are_harmless(host, engine) -> None:
    host.before = bad_host.MOTD
    host.python = "edgeres-python"  # a program that prints before Python does
    program = host.home / "python"
    program.write_text(f"#!/bin/sh\necho 'Welcome! {{}}'\nexec {bad_host.sys.executable} \"$@\"\n")
    program.chmod(0o755)
    found = benchmark_on(
        replace(host.device(), python=str(program)), [engine], threads=1, seconds=0.2
    )
    assert found["engines"][str(engine)]["latency_ms"]["p50"] > 0
    assert list((host.home / ".cache/edgeres").glob("run-*")) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (hangs, "does not do what it is asked within"),
        (talks, "prints without end|does not do what it is asked"),
        (says_nothing, "could not start the command|arrived damaged"),
        (says_binary, "could not start the command|arrived damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_commands_that_hang_or_talk_have_a_limit(host, engine, monkeypatch, wrong, told) -> None:
    host.wrong = wrong
    monkeypatch.setattr(ssh, "_WAIT_S", 0.01)
    if wrong in (hangs, talks):  # the others answer, on a busy machine perhaps later than that
        monkeypatch.setattr(ssh, "_STEP_S", 2.0)
        monkeypatch.setattr(ssh, "_CLOSE_S", 1.0)
        monkeypatch.setattr(ssh.Session.repeat, "__kwdefaults__", {"seconds": 2.0})
    begin = time.monotonic()
    with pytest.raises((StageError, DataError, Exception), match=told) as caught:
        benchmark_on(host.device(), [engine], threads=1, seconds=0.1)
    assert caught.value.exit_code in (3, 5)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 100


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("", "ended with 0 and no answer"),
        ("{}", "ended with 0 and no answer"),
        (f"{MARK}{{}}", "makes no sense: environment: Field required"),
        (f"{MARK}[]", "makes no sense: it is a list"),
        (f"{MARK}" + "[" * 99_999, "no answer"),
        (f'{MARK}{{"error": 3}}', "its error is none"),
        (f'{MARK}{{"error": {{"id": "bad-data", "message": "odd"}}}}', "odd"),
    ],
    ids=["nothing", "unframed", "empty", "list", "deep", "odd error", "an error"],
)
def test_nonsense_from_a_host_is_one_line(host, engine, tmp_path, printed: str, told: str) -> None:
    (tmp_path / "says").write_text(printed)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat {tmp_path / 'says'}\n")
    program.chmod(0o755)
    device = replace(host.device(), python=str(program))
    with pytest.raises((StageError, DataError), match=told) as caught:
        benchmark_on(device, [engine], threads=1, seconds=0.1)
    assert "\n" not in str(caught.value)


def test_a_host_that_is_too_slow_is_told_so(host, engine, tmp_path, monkeypatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    device = replace(host.device(), python=str(program))
    monkeypatch.setattr(remote, "_SPARE_S", -30.0)
    with pytest.raises(StageError, match="did not end there in the time"):
        benchmark_on(device, [engine], seconds=0.1)


def test_a_host_without_sftp_is_told_at_once(engine, tmp_path) -> None:
    said: list[str] = []
    (tmp_path / "bare").mkdir()
    with (
        bad_host.running(tmp_path / "bare", sftp=False) as host,
        pytest.raises(BackendMissingError, match="starts no SFTP"),
    ):
        benchmark_on(host.device(), [engine], seconds=0.1, say=said.append)
    assert not said


def test_one_bad_host_never_stops_the_fleet(host, engine, monkeypatch) -> None:
    from edgeres.devices import fleet

    def odd(device, *rest, **more):
        if device.host == "odd":
            raise KeyError("engines")
        return benchmark_on(device, *rest, **more)

    monkeypatch.setattr(fleet, "benchmark_on", odd)
    devices = [
        FleetDevice("odd", replace(host.device(), host="odd"), 1),
        FleetDevice("good", host.device(), 1),
        FleetDevice("gone", replace(host.device(), port=1), 1),
    ]
    odd_one, good, gone = benchmark_fleet(devices, [engine], seconds=0.1)
    assert odd_one.error is not None
    assert odd_one.error.exit_code == 5
    assert "odd: KeyError" in odd_one.error.message
    assert good.error is None
    assert gone.error is not None


def test_an_answer_is_found_among_anything() -> None:
    content = {"a": 1}
    for before in ("", "Welcome\r\n", "{}", f"{MARK}[]"):
        printed = before + framed(content) + "\nbye"
        assert unframed(printed.encode()) == content
        assert unframed(printed.replace("\n", "\r\n").encode()) == content
    with pytest.raises(ValueError, match="no answer"):
        unframed(f"x{MARK}{{}}".encode())
    assert read_answer(b"{}", "host") is None


def test_figures_are_held_to_a_schema() -> None:
    times = {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    part = {"backend": "b", "device": "cpu", "latency_ms": times, "doubts": [],
            "peak_memory_bytes": None, "more": 1}  # fmt: skip
    good = {"environment": {"cpu": "c", "threads": 1}, "stable": True, "engines": {"e": part}}
    assert check_benchmark(good, ["e"], "host") == good
    for wrong in (
        {**good, "stable": "yes"},
        {**good, "engines": {}},
        {**good, "engines": {"e": {**part, "doubts": "no"}}},
        {**good, "engines": {"e": {**part, "latency_ms": {**times, "p50": float("nan")}}}},
        {**good, "environment": {"cpu": "c" * 9999, "threads": 1}},
    ):
        with pytest.raises(StageError, match="host: its answer makes no sense"):
            check_benchmark(wrong, ["e"], "host")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "secret").write_bytes(key.export_private_key("pkcs8-pem", passphrase="x"))
    (folder / "plain").write_bytes(key.export_private_key())
    (folder / "junk").write_bytes(os.urandom(500))
    (folder / "bad line").write_text("host ssh-ed25519 notakey\n@x y\n")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "fifo")
    return folder


def nothing_on(device) -> None:
    asyncio.run(run_on(device, {}, ["true"], seconds=60))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "no private key can be read there"),
        ("junk", "is no private key"),
        ("empty", "is no private key"),
        ("fifo", "is a FIFO"),
        ("secret", "has a passphrase, and no agent runs"),
        (".", "no private key can be read there"),
    ],
)
def test_keys_that_cannot_be_used_are_named(host, keys, monkeypatch, name, told) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(UsageError, match=told) as caught:
        nothing_on(replace(host.device(), identity=keys / name))
    assert caught.value.exit_code == 2
    nothing_on(replace(host.device(), identity=keys / "plain"))


def test_a_key_with_a_passphrase_comes_from_the_agent(host, keys, monkeypatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(keys / "no socket"))
    nothing_on(replace(host.device(), identity=keys / "secret"))


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("bad line", UsageError, "is no file of known host keys"),
        ("binary", UsageError, "is no file of known host keys"),
        ("fifo", UsageError, "is a FIFO"),
        ("nothing", BackendMissingError, "there is no file of known host keys"),
        ("empty", BackendMissingError, "its host key is not the one that is known"),
    ],
)
def test_known_hosts_that_make_no_sense_are_named(host, keys, name, kind, told) -> None:
    with pytest.raises(kind, match=told) as caught:
        nothing_on(replace(host.device(), known_hosts=keys / name))
    assert json.dumps(str(caught.value)).count("\\n") == 0
