"""Quantization-aware training: one network in torch and in the Q/DQ file, and it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres.backends.base import QdqRules
from edgeres.data.arrays import ArrayDataset
from edgeres.data.batches import batches
from edgeres.data.kinds import of_pixels
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, DataError
from edgeres.exporting.byte_input import write_byte_network
from edgeres.graph.session import open_session
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.qat_parameters import QatParameters
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.recipe.training import QatSettings
from edgeres.sqnr import sqnr_db
from edgeres.system.files import file_sha256
from edgeres.training.onnx_network import QdqNetwork
from edgeres.training.qat import QatResult, learned, qdq_network, train_quantized

SETTINGS = QuantizeSettings()
SATURATING = QdqRules(
    name="u8-saturating",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset({"Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"}),
    bias="int32",
    quantize_outputs=True,
    saturating=True,
)
SYMMETRIC = QdqRules(
    name="s8-symmetric",
    activation_dtype="int8",
    activation_symmetric=True,
    ops=frozenset({"Conv", "Gemm", "Add", "GlobalAveragePool"}),
    residual="skip",
)
#: The Adds stay float here, so one tensor is read in both forms.
PER_TENSOR = dataclasses.replace(
    SYMMETRIC,
    name="s8-tensor",
    weight_granularity="per_tensor",
    ops=frozenset({"Conv", "Gemm"}),
)
#: Q/DQ before the Relus too, and a pair for each reader, all with one scale.
PORTABLE = dataclasses.replace(
    SYMMETRIC,
    name="s8-portable",
    residual="both",
    quantize_before_relu=True,
    quantize_outputs=True,
    pair_per_reader=True,
    saturating=True,
)
ALL_RULES = [SATURATING, SYMMETRIC, PER_TENSOR, PORTABLE]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to train and what to train it with."""

    onnx: Path
    table: CalibrationTable
    preprocess: Preprocess
    train_set: ArrayDataset
    held_out: ArrayDataset
    images: NDArray[np.float32]

    def train(self, rules: QdqRules, output: Path, **changes: object) -> QatResult:
        progress = changes.pop("progress", None)
        return train_quantized(
            self.onnx,
            self.table,
            rules,
            SETTINGS,
            quick(**changes),
            self.train_set,
            self.held_out,
            output,
            preprocess=self.preprocess,
            progress=progress,  # type: ignore[arg-type]
        )

    def network(self, rules: QdqRules, qat: QatParameters | None = None) -> QdqNetwork:
        return qdq_network(
            self.onnx, self.table, rules, SETTINGS, preprocess=self.preprocess, qat=qat
        ).eval()


def quick(**changes: object) -> QatSettings:
    values = {"epochs": 2, "batch_size": 32, "flip": False, "crop_padding": 1, "threads": 1}
    return QatSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def case(trained_net: Path, preprocess: Preprocess, make_set) -> Case:
    images = np.concatenate([batch for batch, _ in batches(make_set(24, 5), preprocess, 24)])
    return Case(
        trained_net / "fp32.onnx",
        CalibrationTable.load(trained_net / "table.json"),
        preprocess,
        make_set(128, 3),
        make_set(48, 1),
        images,
    )


@pytest.fixture(scope="module", params=ALL_RULES, ids=lambda rules: rules.name)
def trained(request, case: Case, tmp_path_factory) -> tuple[QdqRules, QatResult, Path]:
    """One training a rule set, and its Q/DQ file."""
    folder = tmp_path_factory.mktemp(request.param.name)
    result = case.train(request.param, folder, learning_rate=0.01)
    assert result.kept == "trained"
    qdq = folder / "q.onnx"
    quantize(case.onnx, case.table, request.param, qdq, qat=result.parameters)
    return request.param, result, qdq


def constants(qdq: Path) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(qdq).graph.initializer}


def test_integers_and_scales_in_the_file_are_those_of_the_module(case: Case, trained) -> None:
    rules, result, qdq = trained
    network, stored = case.network(rules, result.parameters), constants(qdq)
    changed = 0
    before = case.network(rules)
    for name, part, old in zip(network.layer_names, network.layers, before.layers, strict=True):
        whole = part.whole().numpy()
        assert np.array_equal(stored[f"{name}.weight_quantized"].reshape(whole.shape), whole)
        scales = part.scale.detach().numpy()
        assert np.array_equal(stored[f"{name}.weight_scale"].reshape(scales.shape), scales)
        assert np.array_equal(scales, result.parameters.layers[name].scales)
        assert np.array_equal(part.weight.detach().numpy(), result.parameters.layers[name].weight)
        changed += int((whole != old.whole().numpy()).sum())
        _, bias = part(torch.tensor(0.0) if rules.bias == "float" else _input_scale(network, name))
        if rules.bias == "int32":
            assert np.array_equal(
                stored[f"{name}.bias_quantized"].astype(np.float32) * stored[f"{name}.bias_scale"],
                bias.detach().numpy(),
            )
        else:
            assert np.array_equal(stored[f"{name}.bias_float"], bias.detach().numpy())
    for name in network._readers:
        quantizer = network.quantizers[network._quantizer_of[name]]
        assert stored[f"{name}_scale"] == quantizer.scale.detach().numpy()
        assert stored[f"{name}_zero_point"] == quantizer.params.zero_point
    learnt = {name: params.scale for name, params in result.parameters.activations.items()}
    start = {
        name: q.params.scale for name, q in zip(before.sources, before.quantizers, strict=True)
    }
    assert learnt.keys() == start.keys()
    assert learnt != start
    assert changed > 0  # it did train


def _input_scale(network: QdqNetwork, layer: str) -> torch.Tensor:
    step = next(step for step in network.steps if step.name == layer)
    quantizer = network._quantizer(step, 0)
    assert quantizer is not None
    return quantizer.scale.detach()


def test_every_quantized_tensor_is_that_of_onnx_runtime(case: Case, trained) -> None:
    """From equal inputs each op gives equal integers, but where a value lies on a tie.

    The two sum a convolution in another order and so differ by about 1e-6 of the largest value:
    an integer may differ by one where the float before rounding lies that near to a half.
    """
    rules, result, qdq = trained
    network = case.network(rules, result.parameters)
    model = onnx.load(qdq)
    quantizers = {n.input[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert set(quantizers) == set(network._readers)
    del model.graph.output[:]
    for node in quantizers.values():
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("logits"))
    session = open_session(model.SerializeToString(), threads=1, optimize=False)
    outputs = session.run(None, {"input": case.images})
    zeros = constants(qdq)
    given = {
        name: found.astype(np.float32) - float(zeros[f"{name}_zero_point"])
        for name, found in zip(quantizers, outputs, strict=False)
    }
    numbers = ties = 0

    def observe(name: str, whole: torch.Tensor) -> torch.Tensor:
        nonlocal numbers, ties
        difference = np.abs(whole.numpy() - given[name])
        assert difference.max() <= 1, name
        numbers += difference.size
        ties += int(np.count_nonzero(difference))
        return torch.from_numpy(given[name])

    network.observe = observe
    with torch.no_grad():
        logits = network(torch.from_numpy(case.images)).numpy()
    assert numbers > 100_000
    assert ties <= 1e-4 * numbers
    np.testing.assert_allclose(logits, outputs[-1], rtol=1e-5, atol=1e-5)


def test_module_and_file_give_the_same_logits(case: Case, trained) -> None:
    rules, result, qdq = trained
    expected = simulated_logits(qdq, [case.images], threads=1)
    with torch.no_grad():
        found = case.network(rules, result.parameters)(torch.from_numpy(case.images)).numpy()
    assert sqnr_db(expected, found) > 50
    assert np.median(np.abs(found - expected)) < 1e-5  # most images meet no tie


def test_a_network_that_takes_pixels_learns_and_keeps_their_scale(
    case: Case, tmp_path: Path
) -> None:
    pixels, qdq, fed = (
        tmp_path / "pixels.onnx",
        tmp_path / "q.onnx",
        of_pixels(case.preprocess, "nhwc"),
    )
    write_byte_network(case.onnx, pixels, case.preprocess, "nhwc")
    shown = [batch for batch, _ in batches(case.train_set, fed, 32)]
    inside = dataclasses.replace(
        case,
        onnx=pixels,
        table=calibrate(pixels, shown),
        preprocess=fed,
        images=np.concatenate([batch for batch, _ in batches(case.held_out, fed, 48)]),
    )
    result = inside.train(SATURATING, tmp_path / "work", learning_rate=0.01)
    assert result.kept == "trained"
    quantize(pixels, inside.table, SATURATING, qdq, qat=result.parameters)
    nodes = [node.op_type for node in onnx.load(qdq).graph.node]
    assert "QuantizeLinear" not in nodes[: nodes.index("Conv")]
    with torch.no_grad():
        module = inside.network(SATURATING, result.parameters)(
            torch.from_numpy(inside.images.transpose(0, 3, 1, 2).copy())
        )
    assert sqnr_db(simulated_logits(qdq, [inside.images]), module.numpy()) > 60


def test_saturating_rules_give_safe_weights(case: Case, tmp_path: Path, trained) -> None:
    rules, result, _ = trained
    written = quantize(case.onnx, case.table, rules, tmp_path / "q.onnx", qat=result.parameters)
    assert written.findings == ()
    assert written.saturation_safe or not rules.saturating


def test_the_start_is_post_training_quantization(case: Case, tmp_path: Path) -> None:
    for rules in ALL_RULES:
        start = learned(case.network(rules), file_sha256(case.onnx))
        quantize(case.onnx, case.table, rules, tmp_path / "start.onnx", qat=start)
        quantize(case.onnx, case.table, rules, tmp_path / "ptq.onnx")
        assert (tmp_path / "start.onnx").read_bytes() == (tmp_path / "ptq.onnx").read_bytes()


def test_training_repairs_a_bad_calibration(case: Case, tmp_path: Path) -> None:
    tensors = {
        name: dataclasses.replace(
            stats,
            ranges={k: dataclasses.replace(r, magnitude=r.magnitude * 0.3)
                    for k, r in stats.ranges.items()},
        )
        for name, stats in case.table.tensors.items()
    }  # fmt: skip
    bad = dataclasses.replace(case, table=dataclasses.replace(case.table, tensors=tensors))
    result = bad.train(SYMMETRIC, tmp_path / "run", epochs=6, learning_rate=0.01)
    reference = simulated_logits(case.onnx, [case.images], threads=1)
    quality = []
    for parameters in (None, result.parameters):
        quantize(bad.onnx, bad.table, SYMMETRIC, tmp_path / "q.onnx", qat=parameters)
        simulated = simulated_logits(tmp_path / "q.onnx", [case.images], threads=1)
        quality.append(sqnr_db(reference, simulated))
    assert quality[1] > quality[0] + 3


def test_a_killed_training_resumes_to_the_same_parameters(case: Case, tmp_path: Path) -> None:
    whole = case.train(SATURATING, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        assert total == 8
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.train(SATURATING, tmp_path / "cut", progress=interrupt)
    resumed = case.train(SATURATING, tmp_path / "cut")
    for result, name in ((whole, "a"), (resumed, "b")):
        result.parameters.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(resumed.history) == 2
    with pytest.raises(ArtefactError, match="other settings"):
        case.train(dataclasses.replace(SATURATING, saturating=False), tmp_path / "cut")


def test_what_makes_it_worse_is_not_kept(case: Case, tmp_path: Path) -> None:
    wrong = dataclasses.replace(
        case.train_set, name="wrong", labels=(case.train_set.labels + 1) % 3
    )
    misled = dataclasses.replace(case, train_set=wrong)
    result = misled.train(SYMMETRIC, tmp_path, distill=False, learning_rate=0.1, ema_decay=0.0)
    assert result.kept == "start"
    assert result.held_out_top1 == result.start_top1 > result.history[-1].held_out_top1
    start = learned(case.network(SYMMETRIC), file_sha256(case.onnx))
    for parameters, name in ((result.parameters, "a"), (start, "b")):
        parameters.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_images_and_labels_that_do_not_fit_are_refused(case: Case, tmp_path: Path) -> None:
    large = ArrayDataset("large", np.zeros((4, 9, 9), np.uint8), np.zeros(4, np.int64), ("a",))
    with pytest.raises(DataError, match=r"\[1, 8, 8\].*large"):
        dataclasses.replace(case, train_set=large).train(SYMMETRIC, tmp_path)
    strange = dataclasses.replace(case.train_set, labels=case.train_set.labels + 1)
    with pytest.raises(DataError, match="3 classes"):
        dataclasses.replace(case, train_set=strange).train(SYMMETRIC, tmp_path)
