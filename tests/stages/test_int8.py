"""From FP32 to INT8, one function a stage: files in, files out, images opened or named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.errors import ArtefactError, DataError, UsageError
from edgeres.quantization.account import QuantizeAccount
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.stages.int8 import calibrate, equalize, quantize, sensitivity, summary_path
from edgeres.stages.table_origin import TableOrigin

from .conftest import GREY, grey_images

RULES = get_backend("onnxruntime").qdq_rules("cpu")
EMPIRICAL = QuantizeBlock(bias_correction="empirical", measured_samples=16)


@pytest.fixture(scope="module")
def table(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.json"
    calibrate(network, path, data=grey_images(), samples=20, preprocess=GREY)
    return path


def test_a_table_says_what_it_was_made_from(table):
    loaded = CalibrationTable.load(table)
    assert loaded.samples == 20
    origin = TableOrigin.of(loaded)
    assert origin.samples == 20
    assert origin.preprocess == GREY.to_dict()
    assert origin.images != grey_images().fingerprint  # of the twenty, not of all


def test_opened_images_and_named_ones_give_the_same_table(network, table, tmp_path):
    images = grey_images()
    np.savez(tmp_path / "a.npz", images=images.images, labels=images.labels)
    calibrate(
        network,
        tmp_path / "named.json",
        data=f"npz:{tmp_path / 'a.npz'}",
        samples=20,
        preprocess=GREY,
    )
    named, opened = (
        json.loads(path.read_text())["tensors"] for path in (tmp_path / "named.json", table)
    )
    assert named == opened


def test_more_images_than_there_are_cannot_calibrate(network, tmp_path):
    with pytest.raises(DataError, match="41 images were asked for"):
        calibrate(
            network, tmp_path / "t.json", data=grey_images(), samples=41, preprocess=GREY,
        )  # fmt: skip
    assert not (tmp_path / "t.json").exists()


def test_a_quantized_file_has_its_account_beside_it(network, table, tmp_path):
    result = quantize(network, table, tmp_path / "q.onnx", rules=RULES, settings=QuantizeBlock())
    content = json.loads((tmp_path / "q.json").read_text())
    assert list(content) == ["rules", *result.to_dict()]
    assert content["rules"] == RULES.to_dict()
    account = QuantizeAccount.beside(tmp_path / "q.onnx")
    assert account.saturation_safe == result.saturation_safe
    assert set(account.weight_sqnr_db) == set(result.quantized_nodes) - {"add", "pool", "flat"}


def test_what_is_measured_needs_images_and_reads_no_more_than_it_is_told(network, table, tmp_path):
    with pytest.raises(UsageError):
        quantize(network, table, tmp_path / "q.onnx", rules=RULES, settings=EMPIRICAL)

    def biases(**changes):
        quantize(
            network, table, tmp_path / "q.onnx", rules=RULES, settings=EMPIRICAL, preprocess=GREY,
            **changes,
        )  # fmt: skip
        return (tmp_path / "q.onnx").read_bytes()

    images = grey_images()
    all_of_them = biases(data=images)
    assert biases(data=images, samples=None) == all_of_them
    assert biases(data=grey_images(seed=3)) != all_of_them


def test_equalizing_keeps_names_and_answers(network, tmp_path):
    from edgeres.quantization.simulate import simulated_logits

    equalize(network, tmp_path / "e.onnx")
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32)
    before, after = (simulated_logits(p, [images]) for p in (network, tmp_path / "e.onnx"))
    assert np.allclose(before, after, atol=1e-4)


def test_sensitivity_calibrates_on_the_images_that_it_does_not_measure(network):
    settings = QuantizeBlock()
    measured = sensitivity(
        network, rules=RULES, data=grey_images(), samples=10, preprocess=GREY, settings=settings
    )
    assert measured.samples == 10
    assert {node.node for node in measured.nodes} >= {"stem", "one", "two", "fc"}
    with pytest.raises(DataError):
        sensitivity(
            network, rules=RULES, data=grey_images(), samples=41, preprocess=GREY,
            settings=settings,
        )  # fmt: skip


def test_sensitivity_refuses_a_table_of_another_model(network, table, tmp_path):
    text = json.loads(table.read_text())
    text["model_sha256"] = "0" * 64
    (tmp_path / "t.json").write_text(json.dumps(text))
    with pytest.raises(ArtefactError, match="it is of model 000000000000"):
        sensitivity(
            network, rules=RULES, data=grey_images(), samples=10, preprocess=GREY,
            settings=QuantizeBlock(), table=tmp_path / "t.json",
        )  # fmt: skip


def test_numbers_of_a_training_lie_beside_what_it_learned():
    assert summary_path(Path("a/q.trained.safetensors")) == Path("a/q.trained.json")
