"""One Q/DQ file for all: the merged rule set, and the file on every real engine."""

from __future__ import annotations

from dataclasses import replace

import onnxruntime as ort
import pytest

from edgeres.backends import get_backend, target_names
from edgeres.backends.base import BuildConfig
from edgeres.backends.portable import portable_rules
from edgeres.backends.target import rules_of
from edgeres.errors import UsageError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.lint import lint
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.sqnr import sqnr_db

from .conftest import FUSING, SYMMETRIC, NetBuilder, smooth_images

FAULTS = (
    "clips_integers",
    "concat_barrier",
    "factor_barrier",
    "quantizes_floats",
    "refuses_pad_values",
    "wrong_group_epilogue",
)


def test_the_strictest_demand_wins():
    both = portable_rules([FUSING, SYMMETRIC])
    assert (both.activation_dtype, both.activation_symmetric) == ("int8", True)
    assert both.ops == FUSING.ops & SYMMETRIC.ops
    assert (both.bias, both.residual) == ("float", "both")
    assert both.quantize_outputs
    assert both.quantize_before_relu
    assert both.pair_per_reader
    assert both.saturating
    fp16 = replace(SYMMETRIC, least_scale=2.0**-24)
    quirks = replace(
        FUSING,
        least_add_offset=1e-5,
        most_mean_gain=256.0,
        wrong_groups=frozenset({2}),
        least_pool=16,
        **dict.fromkeys(FAULTS, True),
    )
    careful = portable_rules([quirks, fp16])
    assert (careful.least_scale, careful.least_add_offset) == (2.0**-24, 1e-5)
    assert careful.most_mean_gain == 256
    assert (careful.wrong_groups, careful.least_pool) == (frozenset({2}), 16)
    assert all(getattr(careful, fault) for fault in FAULTS)
    assert not any(getattr(both, fault) for fault in FAULTS)
    coarse = replace(SYMMETRIC, weight_granularity="per_tensor")
    assert portable_rules([FUSING, coarse]).weight_granularity == "per_tensor"


def test_targets_of_one_mind_keep_their_rules():
    assert portable_rules([FUSING]) == replace(FUSING, name="portable", saturating=True)


def test_rules_without_a_common_op_are_refused():
    with pytest.raises(UsageError, match="no INT8 op in common"):
        portable_rules([FUSING, replace(SYMMETRIC, ops=frozenset({"Conv3D"}))])
    with pytest.raises(UsageError, match="at least one target"):
        portable_rules([])
    with pytest.raises(UsageError, match="for no device"):
        rules_of("portable", "cpu")


@pytest.fixture(scope="module")
def portable(resnet, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("portable") / "q.onnx"
    result = quantize(resnet, table, rules_of("portable"), out)
    assert result.saturation_safe
    assert result.warnings == ()
    return out


def test_it_obeys_the_merged_rules(portable):
    assert lint(portable, rules_of("portable")) == ()


def test_it_is_as_accurate_as_symmetric_int8(portable, resnet, table, test_images, tmp_path):
    reference = ort.InferenceSession(str(resnet)).run(None, {"input": test_images})[0]
    quantize(resnet, table, replace(SYMMETRIC, saturating=True), tmp_path / "s8.onnx")
    portable_db = sqnr_db(reference, simulated_logits(portable, [test_images]))
    symmetric_db = sqnr_db(reference, simulated_logits(tmp_path / "s8.onnx", [test_images]))
    assert portable_db > symmetric_db - 2.0  # both inputs of a residual Add are rounded


@pytest.mark.parametrize("name", target_names())
def test_every_engine_builds_it_and_runs_its_convolutions_in_int8(name, portable, resnet, tmp_path):
    backend = get_backend(name)
    reason = backend.missing()
    if reason is not None:
        pytest.skip(reason)
    config = BuildConfig(device=backend.default_device)
    engine = backend.build(portable, tmp_path / f"m{backend.engine_suffix}", config)
    covered = int8_coverage(node_macs(resnet), backend.layers(engine))
    assert {layer.name for layer in covered.float_layers} <= {"fc"}
    assert covered.int8_coverage > 0.97


def test_an_engine_answers_as_the_simulation(portable, test_images):
    session = ort.InferenceSession(str(portable), providers=["CPUExecutionProvider"])
    real = session.run(None, {"input": test_images})[0]
    assert sqnr_db(simulated_logits(portable, [test_images]), real) > 35


def test_tensors_below_the_least_scale_are_told(tmp_path):
    """FP16 holds no scale below 6e-8: a network of tiny values becomes zeros, and that is said."""
    net = NetBuilder(0)
    tiny = net.weight("tiny", net.random.standard_normal((4, 3, 3, 3)) * 1e-7)
    x = net.add("Conv", "small", ["input", tiny], kernel_shape=[3, 3], pads=[1] * 4)
    net.head(net.relu("relu", x), 4, 10)
    model = net.save(tmp_path / "net.onnx", (3, 16, 16), 10)
    table = calibrate(model, [smooth_images(24)])
    for least, told in ((2.0**-24, True), (2.0**-62, False)):
        result = quantize(model, table, replace(FUSING, least_scale=least), tmp_path / "q.onnx")
        found = [text for text in result.warnings if "holds no scale below" in text]
        assert bool(found) == told, result.warnings
