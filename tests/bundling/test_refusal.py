"""The runtime refuses a bundle whose engine does not fit here, and rebuilds it where asked."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace

import numpy as np
import pytest

import edgeres
from edgeres.backends import get_backend
from edgeres.errors import ArtefactError, BackendMissingError, GateError, StageError
from edgeres.system.environment import Environment

from .conftest import TARGETS


def test_another_preprocessing_fails_the_self_test(changed, images):
    def swap(manifest, files):
        manifest["preprocess"]["mean"] = [0.9]

    with pytest.raises(GateError, match="self-test gives other answers"):
        edgeres.Session(changed(swap))


def test_clipped_sums_fail_the_self_test(changed, bundle_file):
    """Pairs of INT8 products clipped to int16 leave 15 dB, as on a CPU without VNNI."""

    def clip(manifest, files):
        for entry in manifest["engines"].values():
            scores = np.array(json.loads(files[entry["expected"]])["scores"])
            noise = np.random.default_rng(0).standard_normal(scores.shape)
            noise *= np.sqrt(np.square(scores).sum() / np.square(noise).sum() / 10**1.58)
            files[entry["expected"]] = json.dumps({"scores": (scores + noise).tolist()}).encode()

    path = changed(clip)
    with pytest.raises(GateError, match=r"SQNR 1[56]\."):
        edgeres.Session(path)
    with pytest.raises(GateError, match=r"SQNR 1[56]\."):
        edgeres.Session(path, isolate=True)
    with edgeres.Session(path, self_test=False) as session:
        assert session.self_test is None


def _newer(manifest, files):
    """As if a later version of every runtime had built the engines."""
    for entry in manifest["engines"].values():
        for name in entry["files"]:
            if name.endswith(".engine.json"):
                sidecar = json.loads(files[name])
                sidecar["versions"] = dict.fromkeys(sidecar["versions"], "9999.1")
                files[name] = json.dumps(sidecar).encode()


def test_an_engine_of_a_later_runtime_is_refused_and_can_be_rebuilt(changed, images, target):
    path = changed(_newer)
    with pytest.raises(ArtefactError, match=r"built with .* 9999.1, here is .*--rebuild"):
        edgeres.Session(path, target=target)
    with edgeres.Session(path, target=target, rebuild=True) as session:
        assert session.rebuilt
        assert session.classify(images, top=1)[1][0].label == "Trouser"


def test_an_engine_that_does_not_load_can_be_rebuilt(changed, target, images):
    def damage(manifest, files):
        """Another file than was built, with all hashes right: the runtime itself refuses it."""
        entry = manifest["engines"][target]
        if entry["qdq"] == entry["engine"]:
            entry["qdq"] = "qdq.onnx"
            files["qdq.onnx"] = files[entry["engine"]]
        name = entry["engine"]
        files[name] = b"<net/>"
        side = json.loads(files[f"{name}.engine.json"])
        place = side["files"][name.rpartition("/")[2]]
        place["sha256"] = hashlib.sha256(files[name]).hexdigest()
        place["size_bytes"] = len(files[name])
        files[f"{name}.engine.json"] = json.dumps(side).encode()

    path = changed(damage)
    with pytest.raises(ArtefactError, match="cannot load it"):
        edgeres.Session(path, target=target)
    with edgeres.Session(path, target=target, rebuild=True) as session:
        assert session.rebuilt


def test_a_cpu_whose_sums_overflow_is_refused_unless_weights_are_safe(changed, monkeypatch):
    name = TARGETS[0]
    backend = get_backend(name)
    rules = replace(backend.qdq_rules("cpu"), saturating=True)
    monkeypatch.setattr(Environment, "int8_dot_products", False)
    monkeypatch.setattr(type(backend), "qdq_rules", lambda self, device, options=None: rules)

    def built_elsewhere(manifest, files):
        manifest["engines"][name] |= {
            "saturating": False,
            "saturation_safe": False,
            "needs": ["exact_int8_sums"],
        }

    path = changed(built_elsewhere)
    with pytest.raises(BackendMissingError, match="overflow"):
        edgeres.Session(path, target=name)
    with pytest.raises(BackendMissingError, match="rebuild does not help"):
        edgeres.Session(path, target=name, rebuild=True)
    safe = changed(lambda manifest, files: manifest["engines"][name].update(saturation_safe=True))
    edgeres.Session(safe, target=name).close()


def test_a_missing_runtime_is_named_with_its_cure(bundle_file, monkeypatch):
    for name in TARGETS:
        monkeypatch.setattr(type(get_backend(name)), "missing", lambda self: "not installed here.")
    with pytest.raises(BackendMissingError, match="no engine can run here"):
        edgeres.Session(bundle_file)


def _endless() -> bytes:
    """A valid network whose loop takes longer than anyone waits."""
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    constants = {
        "turns": np.array(2**60, np.int64),
        "true": np.array(True),
        "axes": np.array([1, 2, 3], np.int64),
        "ones": np.ones((1, 10), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["turns", "true", "input"], ["looped"], body=body),
            helper.make_node("ReduceMean", ["looped", "axes"], ["mean"], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Mul", ["column", "ones"], ["scores"]),
        ],
        "endless",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (constants | {"last": np.array([1], np.int64)}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def test_an_engine_that_hangs_is_stopped(changed, monkeypatch):
    if "onnxruntime" not in TARGETS:
        pytest.skip("needs onnxruntime")

    def hang(manifest, files):
        entry = manifest["engines"]["onnxruntime"]
        name = entry["engine"]
        files[name] = _endless()
        side = json.loads(files[f"{name}.engine.json"])
        side["files"]["model.onnx"] = {
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "size_bytes": len(files[name]),
        }
        files[f"{name}.engine.json"] = json.dumps(side).encode()

    monkeypatch.setattr("edgeres.bundling.selftest.TRIAL_SECONDS", 4.0)
    started = time.monotonic()
    with pytest.raises(StageError, match="did not end within its limit of 4 s"):
        edgeres.Session(changed(hang), target="onnxruntime", isolate=True)
    assert time.monotonic() - started < 100
