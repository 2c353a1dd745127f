"""``edgeres bundle``, ``run``, ``push`` and ``pull``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from edgeres.data.preprocess import Preprocess

from .conftest import invoke

MADE = SimpleNamespace(
    manifest=SimpleNamespace(not_proven={"openvino": "fail: it lost 3 points."}),
    path=Path("out/bundle.edgeres"), size_bytes=1234, sha256="ab", to_dict=lambda: {"sha256": "ab"},
)  # fmt: skip


def test_an_engine_that_is_not_proven_is_told_on_stderr(note, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    seen = note("edgeres.bundling.make.bundle", MADE)
    result = invoke("bundle", "out", "--target", "openvino", "--labels", tmp_path / "labels.txt")
    assert result.exit_code == 0, result.output
    assert "1,234 bytes, SHA-256 ab" in result.stdout
    assert "the engine for openvino is not proven; its verdict is fail" in result.stderr
    assert list(seen.options["targets"]) == ["openvino"]
    assert list(seen.options["class_names"]) == ["cat", "dog"]


def test_a_model_repository_has_no_signature():
    result = invoke("bundle", "out", "--serve", "triton", "--license", "MIT")
    assert result.exit_code == 2
    assert "are for a bundle" in result.stderr


class Session:
    asked: ClassVar[dict] = {}
    manifest = SimpleNamespace(not_proven={})
    target, rebuilt, self_test = "openvino", False, None
    preprocess = Preprocess()

    def __init__(self, file, **options):
        Session.asked = options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def outcomes(self, images, top, ahead):
        return ([SimpleNamespace(label="cat", confidence=0.75)][:top] for _ in images)


@pytest.mark.parametrize(
    ("options", "isolate"), [([], True), (["--trust"], False), (["--key", "k.pem"], False)]
)
def test_a_bundle_that_nobody_signed_runs_in_a_child_first(monkeypatch, options, isolate):
    monkeypatch.setattr("edgeres.bundling.session.Session", Session)
    result = invoke("run", "b.edgeres", "a.png", *options)
    assert result.exit_code == 0, result.output
    assert "75.00 %  cat" in result.stdout
    assert Session.asked["isolate"] is isolate
    told = json.loads(invoke("run", "b.edgeres", "a.png", "--json").stdout)
    assert told["images"] == [{"image": "a.png", "answers": [{"label": "cat", "confidence": 0.75}]}]


@pytest.mark.parametrize("name", ["push", "pull"])
def test_a_registry_pins_what_went_over(note, name):
    made = SimpleNamespace(pinned="r/n@sha256:ab", to_dict=lambda: {"reference": "r/n"})
    seen = note(f"edgeres.bundling.registry.{name}", made)
    words = {"push": ["b.edgeres", "r/n:1"], "pull": ["r/n:1", "--output", "b.edgeres"]}[name]
    result = invoke(name, *words, "--plain-http")
    assert "r/n@sha256:ab" in result.stdout
    assert seen.options["plain_http"] is True
