"""Training that follows another network's outputs: without labels, and whatever they mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeres.backends.base import QdqRules
from edgeres.data.arrays import ArrayDataset
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.effect import effect_of
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_outputs
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.recipe.training import QatSettings
from edgeres.training.loop import LOG_NAME
from edgeres.training.objective import Following, Score
from edgeres.training.qat import QatResult, train_quantized
from edgeres.training.samples import load_samples

# Sixteen steps for a whole range: there is something to learn.
RULES = QdqRules(
    "symmetric", "int8", True, frozenset({"Conv", "Gemm", "Add"}), "float", "both", True
)
SETTINGS = QuantizeSettings(calibrator="minmax")


@pytest.fixture(scope="module")
def two_headed(trained_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network with a tensor from its middle as an output of its own."""
    model = onnx.load(trained_net / "fp32.onnx")
    middle = next(node for node in model.graph.node if node.op_type == "Add").output[0]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(middle, onnx.TensorProto.FLOAT, None)
    )
    path = tmp_path_factory.mktemp("two") / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def train(
    net: Path,
    preprocess: Preprocess,
    sets: tuple[ArrayDataset, ...],
    output: Path,
    **changes: object,
) -> QatResult:
    train_set, held_out = (
        dataclasses.replace(one, labels=np.full(len(one), -1, np.int64)) for one in sets
    )
    table = calibrate(net, [part for part, _ in batches(sets[0], preprocess, 32)])
    values = {"epochs": 3, "batch_size": 32, "flip": False, "crop_padding": 0, "threads": 1}
    return train_quantized(
        net, table, RULES, SETTINGS, QatSettings(**{"learning_rate": 0.005, **values, **changes}),
        train_set, held_out, output, preprocess=preprocess, classes=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sets(make_set: Callable[..., ArrayDataset]) -> tuple[ArrayDataset, ArrayDataset]:
    return make_set(128, 3), make_set(48, 1)


def test_every_output_of_the_file_comes_nearer_without_any_label(
    two_headed: Path, preprocess: Preprocess, sets: tuple[ArrayDataset, ...], tmp_path: Path
) -> None:
    result = train(two_headed, preprocess, sets, tmp_path)
    assert result.kept == "trained"
    assert (result.start_top1, result.held_out_top1) == (None, None)
    assert result.start_sqnr_db is not None
    assert result.held_out_sqnr_db is not None
    assert result.held_out_sqnr_db > result.start_sqnr_db + 0.5
    assert all(record.top1 is None for record in result.history)
    assert "held_out_sqnr_db" in json.loads((tmp_path / LOG_NAME).read_text().splitlines()[0])
    table = calibrate(two_headed, [part for part, _ in batches(sets[0], preprocess, 32)])
    images = [part for part, _ in batches(sets[1], preprocess, 32)]
    exact, levels = simulated_outputs(two_headed, images), {}
    for name, qat in (("before", None), ("after", result.parameters)):
        quantize(two_headed, table, RULES, tmp_path / f"{name}.onnx", settings=SETTINGS, qat=qat)
        found = simulated_outputs(tmp_path / f"{name}.onnx", images)
        levels[name] = effect_of(exact, found, classes=False).sqnr_db
    assert levels["before"] == pytest.approx(result.start_sqnr_db, abs=0.2)
    assert levels["after"] == pytest.approx(result.held_out_sqnr_db, abs=0.2)


def test_a_network_that_follows_nobody_is_refused(
    two_headed: Path, preprocess: Preprocess, sets: tuple[ArrayDataset, ...], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="follows the FP32 network, and `distill` is false"):
        train(two_headed, preprocess, sets, tmp_path, distill=False)


class _Louder(nn.Module):
    """Two outputs, the first of which is off by a tenth."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.factor * x, x.mean(dim=(2, 3))


def test_the_loss_is_noise_over_signal_of_each_output_alike(
    preprocess: Preprocess, sets: tuple[ArrayDataset, ...]
) -> None:
    following, data = Following(), load_samples(sets[1], preprocess)
    score = following.evaluate(_Louder(1.1), data, _Louder(1.0))
    assert score == Score(pytest.approx(0.01 / 2, rel=1e-4), sqnr_db=score.sqnr_db)
    assert score.sqnr_db == pytest.approx(23.01, abs=0.01)
    inputs = data.inputs(slice(16))
    loss = following.loss(
        _Louder(1.1)(inputs), data.labels[:16], QatSettings(), _Louder(1.0)(inputs)
    )
    assert float(loss) == pytest.approx(0.005, rel=1e-4)
    assert following.evaluate(_Louder(1.0), data, _Louder(1.0)).value == 200
