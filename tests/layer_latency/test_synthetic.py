"""Models that are made to be timed hold what they should and run in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeres.backends.target import Target
from edgeres.errors import ModelError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs, summarize
from edgeres.layer_latency.predict import even_widths
from edgeres.layer_latency.shapes import LayerShape, layer_widths, network_layers
from edgeres.layer_latency.synthetic import assumed_ranges, write_copies, write_narrowed
from edgeres.quantization.quantize import quantize
from edgeres.recipe.quantize import QuantizeSettings

from .conftest import small_network

SHAPES = [
    LayerShape("Conv", (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), 0, ("relu",)),
    LayerShape("Conv", (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), 0, ("add", "relu")),
    LayerShape("Conv", (8, 8), (1, 1), (2, 2), (0, 0, 0, 0), 0, ()),
    LayerShape("Conv", (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), 4, ("relu",)),
    LayerShape("Conv", (16, 16), (7, 7), (2, 2), (3, 3, 3, 3), 0, ("relu", "maxpool 3/2/1")),
    LayerShape("Gemm", (1, 1)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.key)
def test_copies_run_in_int8_and_more_copies_do_more(
    shape: LayerShape, target: Target, tmp_path: Path
) -> None:
    from edgeres.backends.base import BuildConfig

    work = {}
    for copies in (1, 3):
        model = tmp_path / f"{copies}.onnx"
        write_copies(shape, 16, 16, copies, model)
        onnx.checker.check_model(str(model), full_check=True)
        macs = node_macs(model)
        work[copies] = sum(macs.values())
        qdq = tmp_path / f"{copies}.qdq.onnx"
        plain = QuantizeSettings(bias_correction="off")
        ranges = assumed_ranges(model, signed_input=shape.image)
        quantize(model, ranges, target.rules, qdq, plain)
        out = tmp_path / f"{copies}{target.backend.engine_suffix}"
        engine = target.backend.build(qdq, out, BuildConfig(device=target.device))
        covered = int8_coverage(macs, target.backend.layers(engine))
        assert covered.int8_coverage == 1.0, covered.float_layers
        with target.backend.load(engine, BuildConfig()) as runner:
            image = np.ones((1, 16, *shape.size), np.float32)
            answers = runner.infer({"input": image})
        strided = shape.strides != (1, 1)
        assert len(answers) == (1 if "add" in shape.tail else copies) + strided
    layer = work[3] - work[1]
    assert layer * (1 + ("add" in shape.tail)) == 2 * work[1]


@pytest.mark.parametrize("unit", [0, 4])
def test_a_narrowed_network_has_the_widths(unit: int, tmp_path: Path) -> None:
    network = small_network(tmp_path / "net.onnx", unit=unit)
    layers = network_layers(network)
    widths = even_widths(layers, 0.5)
    write_narrowed(network, widths, tmp_path / "half.onnx")
    assert layer_widths(tmp_path / "half.onnx") == widths
    assert widths["conv1"] == (3, 8)
    assert widths["a.conv2"] == (16, 16)
    assert widths["fc"] == (16, 10)
    assert summarize(tmp_path / "half.onnx").macs < summarize(network).macs / 2
    assert even_widths(layers, 1.0) == layer_widths(network)


def test_widths_that_do_not_fit_are_refused(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be made narrower"):
        write_narrowed(network, {"a.conv2": (24, 16)}, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
