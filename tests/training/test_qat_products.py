"""Training of a network with products of two computed tensors: one scale for every reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeres.data.preprocess import Preprocess
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.lint import lint
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.files import file_sha256
from edgeres.training.qat import learned, qdq_network

from ..quantization.conftest import FUSING, attention_network

RULES = replace(FUSING, ops=FUSING.ops | {"MatMul"}, quantize_outputs=False, bias="float")


@pytest.mark.parametrize("products", ["float", "activations", "symmetric"])
def test_the_module_answers_as_its_file(tmp_path, products):
    source, out = attention_network(tmp_path / "net.onnx"), tmp_path / "qdq.onnx"
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    table, settings = calibrate(source, [images]), QuantizeSettings()
    rules = replace(RULES, products=products)
    network = qdq_network(source, table, rules, settings, preprocess=Preprocess(channels=3))
    trained = learned(network, file_sha256(source))
    assert quantize(source, table, rules, out, settings, qat=trained).findings == ()
    assert lint(out, rules) == ()
    with torch.no_grad():
        answers = network.eval()(torch.from_numpy(images))
    np.testing.assert_allclose(answers, simulated_logits(out, [images]), atol=1e-5)
