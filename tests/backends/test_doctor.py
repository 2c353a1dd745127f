"""The doctor: what is here, what is missing, and backends that fail while they are asked."""

from __future__ import annotations

import importlib
import io
import json

import pytest
from rich.console import Console

from edgeres.backends import backend_names, get_backend
from edgeres.backends.doctor import (
    BackendHealth,
    Health,
    backend_health,
    describe_backend,
    doctor,
)
from edgeres.backends.probe import float_shapes
from edgeres.errors import BackendMissingError, StageError
from edgeres.report.command_tables import health_table
from edgeres.system.environment import describe_environment


def home_of_ort():
    return importlib.import_module("edgeres.backends.onnxruntime.backend")


def test_a_backend_that_is_here_is_ready_and_probed() -> None:
    if (reason := get_backend("onnxruntime").missing()) is not None:
        pytest.skip(reason)
    found = backend_health("onnxruntime")
    assert found.ready
    assert "cpu" in found.devices
    assert set(found.saturating) <= set(found.devices)
    assert isinstance(found.saturating["cpu"], bool)
    assert found.versions["onnxruntime"]
    json.dumps(describe_backend("onnxruntime"))


def test_a_backend_that_is_missing_says_how_to_get_it(monkeypatch) -> None:
    backend = get_backend("onnxruntime")
    monkeypatch.setattr(type(backend), "missing", lambda self: "pip install it.")
    monkeypatch.setattr(type(backend), "not_executable", lambda self: "pip install it.")
    monkeypatch.setattr(type(backend), "versions", lambda self: {})
    found = backend_health("onnxruntime")
    assert not found.ready
    assert (found.missing, found.devices, found.saturating) == ("pip install it.", (), {})


def test_trouble_while_asking_is_told_and_ends_nothing(monkeypatch) -> None:
    backend = get_backend("onnxruntime")

    def fail(self, device: str) -> None:
        raise BackendMissingError("the driver is too old.", hint="Update it.")

    monkeypatch.setattr(type(backend), "missing", lambda self: None)
    monkeypatch.setattr(type(backend), "not_executable", lambda self: None)
    monkeypatch.setattr(type(backend), "versions", lambda self: {})
    monkeypatch.setattr(type(backend), "devices", lambda self: ("cuda:0",))
    monkeypatch.setattr(type(backend), "qdq_rules", fail)
    found = backend_health("onnxruntime")
    assert found.trouble == "the driver is too old. Update it."
    assert found.devices == ("cuda:0",)
    assert not found.ready


def test_a_further_device_without_int8_does_no_harm(monkeypatch) -> None:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(type(backend), "devices", lambda self: ("cpu", "cuda:0"))
    found = backend_health("onnxruntime")
    assert found.ready
    assert found.saturating.keys() == found.float_layers.keys() == {"cpu"}
    assert "no INT8 rules for cuda:0" in found.no_int8["cuda:0"]


def test_an_engine_that_leaves_quantized_layers_in_float_is_told(monkeypatch) -> None:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    assert float_shapes(backend) == ()
    # ONNX Runtime without its optimizations fuses no Q/DQ.
    options = dict(home_of_ort()._OPTIONS) | {"graph_optimization": ("disabled",)}
    monkeypatch.setattr(home_of_ort(), "_OPTIONS", options)
    words = (
        "1x1 convolutions",
        "3x3 convolutions",
        "depthwise 3x3 convolutions",
        "matrix products",
    )
    assert float_shapes(backend) == words
    health = BackendHealth("x", None, None, ("cpu",), {}, {"cpu": False}, {}, {"cpu": words})
    console = Console(width=300, file=io.StringIO())
    console.print(health_table(Health(describe_environment(()), (health,))))
    text = console.file.getvalue()
    assert "cpu: INT8 is not used for 1x1 convolutions, 3x3 convolutions" in text


def test_a_backend_that_crashes_is_one_line_of_the_answer(monkeypatch) -> None:
    def crash(name):
        if name == backend_names()[0]:
            raise StageError("edgeres.backends.doctor:describe_backend crashed: killed by SIGSEGV.")
        health = BackendHealth(name, None, None, ("cpu",), {"x": "1"}, {"cpu": True})
        return {**vars(health), "devices": ["cpu"]}

    home = importlib.import_module("edgeres.backends.doctor")
    monkeypatch.setattr(home, "run_limited", lambda function, **limits: crash)
    steps: list[tuple[int, int]] = []
    found = doctor(progress=lambda done, total: steps.append((done, total)))
    assert [b.name for b in found.backends] == list(backend_names())
    assert "SIGSEGV" in found.backends[0].trouble
    assert found.backends[1].saturating == {"cpu": True}
    assert found.backends[1].devices == ("cpu",)
    assert steps[-1] == (len(backend_names()), len(backend_names()))
    told = json.loads(json.dumps(found.to_dict()))
    assert told["backends"][backend_names()[0]]["ready"] is False
    assert told["environment"]["cpu"]


def test_backends_are_asked_in_children(monkeypatch) -> None:
    home = importlib.import_module("edgeres.backends.doctor")
    monkeypatch.setattr(home, "backend_names", lambda: ("null",))
    (found,) = doctor().backends
    assert (found.name, found.ready, found.devices) == ("null", True, ("cpu",))


@pytest.mark.slow
def test_all_backends_are_asked_in_children() -> None:
    found = doctor(seconds=120)
    assert {b.name for b in found.backends} == set(backend_names())
    json.dumps(found.to_dict())
    here = {b.name: b for b in found.backends}
    if get_backend("onnxruntime").missing() is None:
        assert here["onnxruntime"].ready, here["onnxruntime"]
