"""Registries that answer late, never, without end or in a ring: one line each, within seconds."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeres.bundling import guarded_http
from edgeres.bundling.registry import pull, push
from edgeres.cli import app
from edgeres.errors import ArtefactError, BackendMissingError, EdgeResError

from . import registry_server as wrong

pytest.importorskip("oras", reason="oras is not installed")

#: Far more than the limits, and less than the two minutes that a registry hangs.
SECONDS = 60.0
#: Those that take longer than any limit.
LATE = (wrong.never, wrong.slow_headers, wrong.slow_body, wrong.token_never_comes)
UPLOAD = """
import sys, tracemalloc
from pathlib import Path
from edgeres.bundling.oci import open_registry, upload
reference, path = sys.argv[1], Path(sys.argv[2])
with open_registry(reference, True) as (client, container):
    tracemalloc.start()
    layer = {"digest": sys.argv[3], "size": path.stat().st_size}
    upload(client, container, path, layer)
    print(tracemalloc.get_traced_memory()[1] >> 20)
"""


@pytest.fixture
def bundle_file(load_program, tmp_path: Path) -> Path:
    fuzz = load_program(Path(__file__).parents[2] / "benchmarks" / "fuzz.py")
    path = tmp_path / "net.edgeres"
    path.write_bytes(fuzz._bundles()[0])
    return path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[wrong.Registry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # no login of whoever runs the tests
    monkeypatch.setenv("HOME", str(tmp_path))
    with wrong.running() as server:
        yield server


def test_the_limits_are_within_ten_seconds() -> None:
    assert guarded_http.CONNECT_S < guarded_http.WAIT_S < guarded_http.ANSWER_S < 10


def test_it_is_a_registry_when_it_is_let(registry, bundle_file, tmp_path) -> None:
    reference = f"{registry.host}/models/net:1"
    pushed = push(bundle_file, reference, plain_http=True)
    got = tmp_path / "got" / "net.edgeres"
    assert pull(pushed.pinned, got, plain_http=True).digest == pushed.digest
    assert got.read_bytes() == bundle_file.read_bytes()
    assert [path.name for path in got.parent.iterdir()] == ["net.edgeres"]


@pytest.mark.parametrize(
    ("answers", "kind", "told"),
    [
        (wrong.never, BackendMissingError, "does not answer in time"),
        (wrong.slow_headers, BackendMissingError, "does not answer in time"),
        (wrong.slow_body, BackendMissingError, "does not answer in time"),
        (wrong.endless_body, ArtefactError, "more than 4194304 bytes"),
        (wrong.gzip_bomb, ArtefactError, "a body with the encoding gzip"),
        (wrong.wants_login, BackendMissingError, "another login .*`docker login"),
        (wrong.wants_token, BackendMissingError, "another login .*`docker login"),
        (wrong.token_never_comes, BackendMissingError, "does not answer in time"),
        (wrong.odd_login, EdgeResError, "login"),
        (wrong.forbids, BackendMissingError, r"answered 403\)\. Log in with `docker login 127"),
        (wrong.redirects_in_a_ring, ArtefactError, "more than 5 redirects"),
        (wrong.fails, BackendMissingError, "answered 500"),
        (wrong.deep_json, ArtefactError, "makes no sense"),
        (wrong.speaks_something_else, EdgeResError, "cannot be reached|makes no sense"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_line_within_seconds(
    registry, tmp_path, capfd, monkeypatch, answers, kind, told
) -> None:
    registry.wrong = answers
    if answers in LATE:  # the others answer, on a busy machine perhaps later than that
        monkeypatch.setattr(guarded_http, "WAIT_S", 1.5)
        monkeypatch.setattr(guarded_http, "ANSWER_S", 2.0)
    begin = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=told) as caught:
            pull(f"{registry.host}/models/net:1", tmp_path / "net.edgeres", plain_http=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < SECONDS
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (3, 4)
    assert not (tmp_path / "net.edgeres").exists()
    gc.collect()  # a connection that was left open warns
    assert capfd.readouterr() == ("", "")
    if answers is wrong.endless_body:
        assert peak < 64 << 20


@pytest.mark.parametrize("answers", [wrong.wants_login, wrong.forbids, wrong.fails])
def test_a_push_is_tried_once(registry, bundle_file, answers) -> None:
    registry.wrong = lambda handler: handler.path != "/v2/" and answers(handler)
    begin = time.monotonic()
    with pytest.raises(BackendMissingError):
        push(bundle_file, f"{registry.host}/models/net:1", plain_http=True)
    assert time.monotonic() - begin < SECONDS
    assert len(registry.requests) == len(set(registry.requests))


def test_a_layer_is_sent_as_it_is_read_and_anew_after_a_login(registry, tmp_path) -> None:
    registry.wrong = lambda handler: (
        (
            handler.path.startswith("/token")
            or (handler.command == "PUT" and "Authorization" not in handler.headers)
        )
        and wrong.wants_token(handler)
    )
    layer = tmp_path / "layer"
    layer.write_bytes(bytes(64 << 20))
    digest = f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, f"{registry.host}/models/net:1", str(layer), digest],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(registry.blobs) == [digest]
    assert sum(one.startswith("PUT") for one in registry.requests) == 2
    assert int(done.stdout) < 16  # MiB


def test_a_layer_that_is_longer_than_it_says_is_cut_off(registry, bundle_file, tmp_path) -> None:
    pushed = push(bundle_file, f"{registry.host}/models/net:1", plain_http=True)
    registry.wrong = lambda handler: "/blobs/" in handler.path and wrong.endless_body(handler)
    with pytest.raises(ArtefactError, match="bytes came"):
        pull(pushed.pinned, tmp_path / "got" / "net.edgeres", plain_http=True)
    assert list((tmp_path / "got").iterdir()) == []


def test_encryption_is_not_given_up_on_the_way(registry) -> None:
    from edgeres.bundling.registry_client import RegistryClient

    client = RegistryClient("registry.example.org", plain_http=False)
    with pytest.raises(BackendMissingError, match="without encryption"):
        client.session.get(f"http://{registry.host}/v2/")
    client.session.close()
    assert registry.requests == []


def test_the_command_gives_one_line_and_its_code(registry, tmp_path) -> None:
    registry.wrong = wrong.forbids
    command = ["pull", f"{registry.host}/a/b:1", "--output", str(tmp_path / "b"), "--plain-http"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 4
    assert len(done.stderr.splitlines()) == 1
    done = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(done.stdout)["error"]["id"] == "backend-missing"
