"""The file of learned weights and scales: it comes back whole, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgeres.errors import ArtefactError
from edgeres.quantization.qat_parameters import QatLayer, QatParameters
from edgeres.quantization.quantize import prepare, quantize
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.files import file_sha256

from .conftest import FUSING, SYMMETRIC


@pytest.fixture(scope="module")
def trained(resnet, table) -> QatParameters:
    """What training under ``FUSING`` might give: the start with other numbers."""
    prepared = prepare(resnet, table, FUSING, QuantizeSettings())
    random = np.random.default_rng(0)
    layers = {
        item.layer.name: QatLayer(
            item.layer.weight + random.normal(0, 0.01, item.layer.weight.shape).astype(np.float32),
            item.weight.scales * np.float32(1.03),
            None if item.bias is None else item.bias + np.float32(0.01),
        )
        for item in prepared.items
    }
    activations = {
        prepared.placement.source[name]: dataclasses.replace(
            params, scale=float(np.float32(params.scale * 0.97))
        )
        for name, params in prepared.params.items()
    }
    return QatParameters(file_sha256(resnet), layers, activations)


def test_comes_back_as_it_was_and_equal_content_gives_equal_bytes(trained, tmp_path) -> None:
    trained.save(tmp_path / "a")
    found = QatParameters.load(tmp_path / "a")
    found.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert found.activations == dict(trained.activations)
    assert list(found.layers) == list(trained.layers)
    for name, layer in trained.layers.items():
        other = found.layers[name]
        assert np.array_equal(other.weight, layer.weight)
        assert np.array_equal(other.scales, layer.scales)
        assert layer.bias is not None
        assert np.array_equal(other.bias, layer.bias)


@pytest.mark.parametrize("saturating", [False, True])
def test_the_writer_takes_it_as_it_is(resnet, table, trained, tmp_path, saturating) -> None:
    rules = dataclasses.replace(FUSING, saturating=saturating)
    result = quantize(resnet, table, rules, tmp_path / "q.onnx", qat=trained)
    assert result.findings == ()
    assert result.saturation_safe or not saturating
    prepared = prepare(resnet, table, rules, QuantizeSettings(), qat=trained)
    for item in prepared.items:
        learned = trained.layers[item.layer.name]
        assert np.array_equal(item.weight.scales, learned.scales)
        assert np.array_equal(item.bias, learned.bias)
        nearest = np.clip(np.rint(learned.weight / learned.scales[:, None]), -127, 127)
        moved = int(np.count_nonzero(item.weight.values != nearest))
        assert moved == item.weight.proof.moved
        assert saturating or moved == 0
    for name, params in prepared.params.items():
        assert params == trained.activations[prepared.placement.source[name]]


def test_another_model_or_rule_set_is_refused(resnet, table, trained, tmp_path) -> None:
    other = dataclasses.replace(trained, model_sha256="0" * 64)
    with pytest.raises(ArtefactError, match="of model 000000000000"):
        quantize(resnet, table, FUSING, tmp_path / "q.onnx", qat=other)
    with pytest.raises(ArtefactError, match="another rule set"):
        quantize(resnet, table, SYMMETRIC, tmp_path / "q.onnx", qat=trained)
    assert not (tmp_path / "q.onnx").exists()


def _damage(trained: QatParameters, kind: str) -> QatParameters:
    name, layer = next(iter(trained.layers.items()))
    tensor, params = next(iter(trained.activations.items()))
    match kind:
        case "nan weight":
            bad = dataclasses.replace(layer, weight=layer.weight * np.float32("nan"))
        case "zero scale":
            bad = dataclasses.replace(layer, scales=layer.scales * 0)
        case "shape":
            bad = dataclasses.replace(layer, scales=layer.scales[:-1])
        case "bias shape":
            bad = dataclasses.replace(layer, bias=np.zeros(1, np.float32))
        case "zero point":
            wrong = dataclasses.replace(params, zero_point=300)
            return dataclasses.replace(trained, activations={**trained.activations, tensor: wrong})
        case _:
            raise AssertionError(kind)
    return dataclasses.replace(trained, layers={**trained.layers, name: bad})


@pytest.mark.parametrize("kind", ["nan weight", "zero scale", "shape", "bias shape", "zero point"])
def test_numbers_that_make_no_sense_are_refused(trained, tmp_path, kind) -> None:
    _damage(trained, kind).save(tmp_path / "bad.safetensors")
    with pytest.raises(ArtefactError, match="no usable trained scales"):
        QatParameters.load(tmp_path / "bad.safetensors")


def test_files_that_are_something_else_are_refused(trained, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    trained.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    (tmp_path / "text").write_text("no")
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "other", {"about": json.dumps([1])})
    for name in ("cut", "text", "other", "missing"):
        with pytest.raises(ArtefactError, match=name):
            QatParameters.load(tmp_path / name)
