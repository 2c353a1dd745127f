"""One bundle for several CPUs: safe and plain weights, and engines of other architectures."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

import edgeres
from edgeres.backends import get_backend
from edgeres.bundling.manifest import EXACT_SUMS
from edgeres.errors import BackendMissingError, GateError, UsageError
from edgeres.system.environment import Environment

from .conftest import TARGETS, small_run

pytestmark = pytest.mark.skipif(not TARGETS, reason="needs a runtime")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network with safe and with plain weights."""
    kinds = {"safe": "on", "plain": "off"}
    return {
        kind: small_run(
            tmp_path_factory.mktemp(kind),
            TARGETS[:1],
            f"quantize: {{saturation_safe: {switch}}}\n",
        )
        for kind, switch in kinds.items()
    }


@pytest.fixture(scope="module")
def both(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with both."""
    backend = get_backend(TARGETS[0])
    if backend.qdq_rules("cpu").saturating:
        pytest.skip("this CPU cannot answer for plain weights")
    path = tmp_path_factory.mktemp("both") / "net.edgeres"
    return edgeres.bundle(runs["safe"], path, also=[runs["plain"]]).path


def without_exact_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend(TARGETS[0])
    rules = replace(backend.qdq_rules("cpu"), saturating=True)
    monkeypatch.setattr(Environment, "int8_dot_products", False)
    monkeypatch.setattr(type(backend), "qdq_rules", lambda self, device="cpu", options=None: rules)


def test_each_cpu_gets_the_weights_that_suit_it(both, images, monkeypatch):
    first = TARGETS[0]
    with edgeres.Session(both) as session:
        needs = {name: entry.needs for name, entry in session.manifest.engines.items()}
        assert needs == {first: (), f"{first}-plain": (EXACT_SUMS,)}
        assert session.target == f"{first}-plain"
        plain = session.classify(images, top=1)
    without_exact_sums(monkeypatch)
    with edgeres.Session(both) as session:
        assert session.target == first
        assert [a[0].label for a in session.classify(images, top=1)] == [a[0].label for a in plain]
    with pytest.raises(BackendMissingError, match="overflow"):
        edgeres.Session(both, target=f"{first}-plain")


def test_each_engine_has_its_own_proof(both, runs):
    with edgeres.Session(both) as session:
        engines = session.manifest.engines
    for kind, name in (("safe", TARGETS[0]), ("plain", f"{TARGETS[0]}-plain")):
        report = json.loads((runs[kind] / "report.json").read_text())
        assert engines[name].proven == report["targets"][TARGETS[0]]
        assert engines[name].saturation_safe is (kind == "safe")
        assert engines[name].architecture == "any"


def test_two_runs_for_the_same_cpus_are_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="suit the same CPUs"):
        edgeres.bundle(runs["safe"], tmp_path / "x.edgeres", also=[runs["safe"]])


def test_a_run_of_another_network_is_refused(runs, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(runs["plain"], other, ignore=shutil.ignore_patterns(".stages"))
    report = json.loads((other / "report.json").read_text())
    report["model"]["sha256"] = "0" * 64
    (other / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="is a run of another network"):
        edgeres.bundle(runs["safe"], tmp_path / "x.edgeres", also=[other])


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "aarch64"), ("arm64", "x86_64")])
def test_an_engine_of_another_architecture_is_refused_and_can_be_rebuilt(
    changed, images, monkeypatch, machine, name
):
    first = TARGETS[0]

    def compiled_elsewhere(manifest, files):
        manifest["engines"] = {first: manifest["engines"][first] | {"architecture": name}}

    path = changed(compiled_elsewhere)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(BackendMissingError, match=f"compiled for {name}.*--rebuild builds it anew"):
        edgeres.Session(path, target=first)
    with pytest.raises(BackendMissingError, match=f"no engine can run here.*compiled for {name}"):
        edgeres.Session(path)
    monkeypatch.undo()
    elsewhere = name if machine == "x86_64" else "riscv64"
    path = changed(
        lambda manifest, files: manifest["engines"][first].update(architecture=elsewhere)
    )
    with edgeres.Session(path, target=first, rebuild=True) as session:
        assert session.rebuilt
        assert session.classify(images, top=1)[1][0].label == "Trouser"


def test_no_rebuild_is_promised_that_gives_the_same_engine(changed, target):
    def other_answers(manifest, files):
        for entry in manifest["engines"].values():
            scores = json.loads(files[entry["expected"]])["scores"]
            shuffled = [row[::-1] for row in scores]
            files[entry["expected"]] = json.dumps({"scores": shuffled}).encode()

    with pytest.raises(GateError, match="other answers") as caught:
        edgeres.Session(changed(other_answers), target=target)
    assert "A rebuild gives the same engine" in caught.value.hint
    assert "--rebuild" not in caught.value.hint


def test_a_device_chooses_among_the_engines(bundle_file):
    """Where no engine of the bundle can run on it, each says why."""
    with pytest.raises(BackendMissingError, match="no engine can run here") as caught:
        edgeres.Session(bundle_file, device="npu")
    for target in TARGETS:
        assert f"{target}: " in str(caught.value)


def test_a_device_that_is_not_here_is_not_promised_by_a_rebuild(bundle_file, target):
    with pytest.raises(BackendMissingError) as caught:
        edgeres.Session(bundle_file, target=target, device="cuda:7")
    assert "--rebuild" not in caught.value.hint
