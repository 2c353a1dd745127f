"""Means of values that cancel: their scale is never finer than an engine takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize

from .conftest import NetBuilder, smooth_images

WIDTH, SIDE = 16, 12


def centred_network(path: Path) -> Path:
    """A convolution whose maps lose their mean before the mean of each is taken: nearly zero."""
    net = NetBuilder()
    features = net.conv("conv", "input", (WIDTH, 3, 3, 3))
    centred = net.add("Sub", "centre", [features, net.add("GlobalAveragePool", "own", [features])])
    net.head(centred, WIDTH, 4)
    return net.save(path, (3, SIDE, SIDE), 4)


@pytest.mark.parametrize("signed", [False, True])
def test_a_mean_that_is_nearly_zero_runs(tmp_path: Path, signed: bool) -> None:
    from edgeres.backends.portable import portable_rules

    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    source = centred_network(tmp_path / "net.onnx")
    images = smooth_images(8, size=SIDE)
    own = backend.qdq_rules("cpu")
    rules = portable_rules([own, get_backend("tensorrt").qdq_rules("cuda:0")]) if signed else own
    qdq = tmp_path / "qdq.onnx"
    quantize(source, calibrate(source, [images]), rules, qdq)
    model = onnx.load(qdq)
    scales = {
        t.name.removesuffix("_scale"): float(numpy_helper.to_array(t))
        for t in model.graph.initializer
        if t.name.endswith("_scale") and not t.dims
    }
    assert 250 < scales["centre_out"] / scales["pool_out"] / SIDE**2 < 256
    engine = backend.build(qdq, tmp_path / "engine.onnx", BuildConfig(device="cpu"))
    with backend.load(engine, BuildConfig(device="cpu", threads=1)) as runner:
        (answer,) = runner.infer({"input": images}).values()
    assert np.isfinite(answer).all()
