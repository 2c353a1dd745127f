"""Which Q/DQ each provider of ONNX Runtime is given, and the choice between uint8 and int8."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.backends import get_backend
from edgeres.backends.activations import with_activations
from edgeres.backends.base import BuildConfig
from edgeres.backends.onnxruntime.backend import BACKEND
from edgeres.backends.onnxruntime.provider_table import PROVIDERS
from edgeres.backends.onnxruntime.rules import RULES, cpu_rules, provider_rules
from edgeres.backends.openvino.rules import RULES as OPENVINO
from edgeres.backends.target import rules_of
from edgeres.errors import BackendMissingError, UsageError
from edgeres.sqnr import sqnr_db

from .conftest import write_network

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

DEVICES = {name: next(iter(kind.devices)) for name, kind in PROVIDERS.items()}


@pytest.mark.parametrize(
    ("provider", "dtype", "symmetric", "in_float"),
    [
        ("qnn", "uint8", False, {"MatMul"}),
        ("directml", "uint8", False, {"Mul", "Sigmoid"}),
        ("xnnpack", "int8", False, {"Gemm", "Add", "GlobalAveragePool"}),
        ("tensorrt", "int8", True, {"MaxPool", "Sigmoid"}),
        ("tensorrt_rtx", "int8", True, {"MaxPool", "Sigmoid"}),
        ("openvino", "uint8", False, {"Mul", "Sigmoid"}),
    ],
)
def test_each_provider_gets_the_form_that_it_computes(
    provider: str, dtype: str, symmetric: bool, in_float: set[str]
) -> None:
    device = {"cuda": "cuda:0"}.get(DEVICES[provider], DEVICES[provider])
    rules = rules_of("onnxruntime", device, options={"provider": provider})
    assert rules.name == f"onnxruntime-{provider}"
    assert (rules.activation_dtype, rules.activation_symmetric) == (dtype, symmetric)
    assert not rules.ops & in_float
    assert "Conv" in rules.ops
    assert rules.to_dict() != BACKEND.qdq_rules("cpu").to_dict()


def test_every_provider_is_said_what_it_computes() -> None:
    for name, kind in PROVIDERS.items():
        rules = provider_rules(name, kind, "cuda:0")
        assert (rules is None) == (kind.qdq in ("float", "refused")), name
        assert kind.float_ops <= RULES.ops, name


@pytest.mark.parametrize(("device", "provider"), [("cuda:0", "cuda"), ("npu", "coreml")])
def test_what_has_no_int8_has_no_rules(device: str, provider: str) -> None:
    with pytest.raises(BackendMissingError, match=f"no INT8 rules for {device} by its provider"):
        rules_of("onnxruntime", device, options={"provider": provider})


def test_a_provider_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of cuda, tensorrt"):
        rules_of("onnxruntime", "cpu", options={"provider": "nobody"})
    with pytest.raises(BackendMissingError, match="several providers for npu"):
        rules_of("onnxruntime", "npu")


def test_weights_for_a_cpu_that_nobody_asked_are_safe() -> None:
    if "OpenVINOExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has OpenVINO's provider")
    assert rules_of("onnxruntime", "cpu", options={"provider": "openvino"}).saturating
    assert not rules_of("onnxruntime", "npu", options={"provider": "qnn"}).saturating


def test_int8_activations_are_a_choice() -> None:
    own = BACKEND.qdq_rules("cpu")
    assert with_activations(own, "auto") is own
    assert with_activations(own, "uint8") is own
    signed = with_activations(own, "int8")
    assert (signed.activation_dtype, signed.name) == ("int8", "onnxruntime-cpu-int8")
    assert replace(signed, name=own.name, activation_dtype="uint8").to_dict() == own.to_dict()
    for rules in (OPENVINO, get_backend("null").qdq_rules("cpu")):
        with pytest.raises(UsageError, match="takes uint8 activations, not int8"):
            with_activations(rules, "int8")


@pytest.mark.parametrize(("machine", "faster"), [("aarch64", True), ("x86_64", False)])
def test_int8_activations_are_measured_on_arm_alone(
    monkeypatch: pytest.MonkeyPatch, machine: str, faster: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cpu_rules().others_may_be_faster is faster


def test_int8_activations_are_right(tmp_path: Path, images: NDArray[np.float32]) -> None:
    """In float here, as far as x86 leaves it so; tests marked arm64 see the INT8 kernels."""
    source = write_network(tmp_path / "s8.onnx", rules_of("onnxruntime", activations="int8"))
    plain = write_network(tmp_path / "fp32.onnx")
    answers = []
    for path in (source, plain):
        built = BACKEND.build(path, tmp_path / f"{path.stem}-out.onnx", BuildConfig(threads=1))
        with BACKEND.load(built, BuildConfig(threads=1)) as runner:
            answers.append(runner.infer({"input": images})["logits"])
    assert sqnr_db(answers[1], answers[0]) > 20
