"""Bundles to a real registry on this machine and back; what it hands out is then falsified."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeres.bundling.registry import BUNDLE, Pushed, pull, push
from edgeres.cli import app
from edgeres.errors import ArtefactError, BackendMissingError, UsageError


@dataclass
class Registry:
    host: str
    storage: Path

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[Registry]:
    pytest.importorskip("oras", reason="oras is not installed")
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("no registry is installed: apt-get install docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Deleting is on, so that a second test may replace a blob; no cache, so that it is read anew.
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: "
        f"{folder / 'storage'}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield Registry(f"127.0.0.1:{port}", folder / "storage")
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def pushed(registry, bundle_file) -> Pushed:
    return push(bundle_file, f"{registry.host}/models/net:1", plain_http=True)


def layer_of(registry: Registry, pushed: Pushed) -> Path:
    manifest = json.loads(registry.blob(pushed.digest).read_bytes())
    (digest,) = [x["digest"] for x in manifest["layers"] if x["mediaType"] == BUNDLE]
    return registry.blob(digest)


def test_there_and_back_are_the_same_bytes(registry, bundle_file, pushed, tmp_path):
    again = push(bundle_file, f"{registry.host}/models/net:2", plain_http=True)
    assert again.digest == pushed.digest  # the same bundle is the same artefact
    for number, reference in enumerate((pushed.reference, pushed.pinned)):
        output = tmp_path / f"{number}.edgeres"
        assert pull(reference, output, plain_http=True).digest == pushed.digest
        assert output.read_bytes() == bundle_file.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.edgeres", "1.edgeres"]
    found = hashlib.sha256(registry.blob(pushed.digest).read_bytes()).hexdigest()
    assert pushed.digest == f"sha256:{found}"


def test_a_signature_travels_along(registry, bundle_file, tmp_path):
    signed = tmp_path / "net.edgeres"
    shutil.copyfile(bundle_file, signed)
    (tmp_path / "net.edgeres.sig").write_bytes(b"s" * 64)
    reference = f"{registry.host}/signed:1"
    push(signed, reference, plain_http=True)
    pull(reference, tmp_path / "b", plain_http=True)
    assert (tmp_path / "b.sig").read_bytes() == b"s" * 64
    # An unsigned one in its place takes the old signature away.
    (tmp_path / "net.edgeres.sig").unlink()
    push(signed, reference, plain_http=True)
    pull(reference, tmp_path / "b", plain_http=True)
    assert not (tmp_path / "b.sig").exists()


def test_what_was_exchanged_in_the_registry_is_refused(registry, pushed, changed, tmp_path):
    other = changed(lambda manifest, files: manifest.update(name="x")).read_bytes()
    folder = tmp_path / "pulled"
    folder.mkdir()
    output = folder / "net.edgeres"
    pull(pushed.reference, output, plain_http=True)
    good = output.read_bytes()
    layer = layer_of(registry, pushed)
    flipped = bytearray(layer.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    try:
        assert len(other) < len(good)  # whole and smaller: only its digest gives it away
        for content in (bytes(flipped), good + b"x", good[:-1], other):
            layer.write_bytes(content)
            with pytest.raises(ArtefactError):
                pull(pushed.reference, output, plain_http=True)
    finally:
        layer.write_bytes(good)
    manifest = registry.blob(pushed.digest)
    kept = manifest.read_bytes()
    try:
        manifest.write_bytes(kept.replace(b"net.edgeres", b"not.edgeres"))
        with pytest.raises(ArtefactError):
            pull(pushed.pinned, output, plain_http=True)
    finally:
        manifest.write_bytes(kept)
    assert output.read_bytes() == good
    assert [file.name for file in folder.iterdir()] == ["net.edgeres"]


def test_what_is_no_bundle_is_neither_pushed_nor_pulled(registry, tmp_path):
    from oras.client import OrasClient

    (tmp_path / "letter").write_text("no bundle")
    with pytest.raises(ArtefactError):
        push(tmp_path / "letter", f"{registry.host}/letter:1", plain_http=True)
    client = OrasClient(hostname=registry.host, insecure=True)
    for number, kind in enumerate((BUNDLE, "text/plain")):
        reference = f"{registry.host}/letter{number}:1"
        files = [f"{tmp_path / 'letter'}:{kind}"]
        client.push(target=reference, files=files, disable_path_validation=True, quiet=True)
        with pytest.raises(ArtefactError):
            pull(reference, tmp_path / "net.edgeres", plain_http=True)
    assert [file.name for file in tmp_path.iterdir()] == ["letter"]


def test_absent_names_and_registries_are_told_apart(registry, tmp_path):
    with pytest.raises(ArtefactError, match="404"):
        pull(f"{registry.host}/none:1", tmp_path / "b", plain_http=True)
    begin = time.monotonic()
    with pytest.raises(BackendMissingError, match="cannot be reached"):
        pull("127.0.0.1:1/net:1", tmp_path / "b", plain_http=True)
    assert time.monotonic() - begin < 60
    for wrong in ("net", "host/net", "host/net:", "host/net@sha256:12", "https://host/net:1"):
        with pytest.raises(UsageError, match="expected REGISTRY/NAME:TAG"):
            pull(wrong, tmp_path / "b")


def test_the_commands(registry, bundle_file, tmp_path):
    reference = f"{registry.host}/models/net:cli"
    more = ["--plain-http", "--json"]
    made = CliRunner().invoke(app, ["push", str(bundle_file), reference, *more])
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    got = ["pull", told["pinned"], "--output", str(tmp_path / "b"), *more]
    found = CliRunner().invoke(app, got)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["digest"] == told["digest"]
    assert (tmp_path / "b").read_bytes() == bundle_file.read_bytes()
    bad = CliRunner().invoke(app, ["pull", f"{registry.host}/none:1", "--output", "b", *more])
    assert bad.exit_code == 3
