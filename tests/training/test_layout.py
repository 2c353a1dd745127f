"""A network is trained in a layout whose gradients are right, on every kind of CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from edgeres.errors import StageError
from edgeres.models.build import build_model, plan_for
from edgeres.training import gradient_check
from edgeres.training.device import TorchDevice
from edgeres.training.gradient_check import (
    LIMITS,
    ConvShape,
    conv_shapes,
    gradient_error,
    may_crash,
    wrong_shapes,
)
from edgeres.training.layout import choose_layout, has_wrong_gradients, lay_out, lay_out_images

CPU = TorchDevice(torch.device("cpu"), torch.float32)
TOLD = "Gradients are computed in channels-first layout"


def shape(inputs=16, outputs=16, kernel=3, stride=1, groups=1, dilation=1, size=14):
    padding = dilation * (kernel // 2)
    pairs = ((value, value) for value in (kernel, stride, padding, dilation))
    return ConvShape(*pairs, groups, inputs, outputs, (size, size))


def network(first_stream=16):
    """A ResNet-20 whose first residual stream has this many channels."""
    plan = plan_for("resnet20", num_classes=3, in_channels=1)
    stream = [name for name in plan.widths if name == "conv1" or name[:6] == "layer1"]
    narrow = dict.fromkeys(stream, first_stream)
    return build_model(dataclasses.replace(plan, widths={**plan.widths, **narrow}))


def test_the_shapes_of_a_network_are_seen_once_each():
    module = network().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = conv_shapes(module, torch.zeros(1, 1, 28, 28))
    assert len(found) == len(set(found)) < 19
    assert found[0] == shape(1, 16, size=28)
    assert shape(16, 32, kernel=3, stride=2, size=28) in found
    assert module.training
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize("inputs", range(1, 10))
def test_narrow_shortcuts_are_never_trained_channels_last(inputs):
    assert has_wrong_gradients(shape(inputs, 8, 1, 2)) == (2 <= inputs <= 7)
    assert not has_wrong_gradients(shape(inputs, 8, 1, 1))
    assert not has_wrong_gradients(shape(inputs, 8, 3, 2))


def test_strides_over_one_pixel_are_not_trained_in_bfloat16(recwarn):
    """There gradients come from memory that nobody wrote: a trial may pass, so none is asked."""
    bfloat16 = TorchDevice(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(StageError, match="3x3 convolution of 32 to 64 channels stride 2 at 1x1"):
        choose_layout(network(), torch.zeros(1, 1, 2, 2), bfloat16)
    choose_layout(network(), torch.zeros(1, 1, 2, 2), CPU)
    choose_layout(network(), torch.zeros(1, 1, 8, 8), bfloat16)


def test_a_narrow_network_is_laid_out_channels_first_and_it_is_told():
    module = network(4)
    with pytest.warns(UserWarning, match=f"{TOLD}: torch .* a 1x1 convolution of 4 to 32 channels"):
        layout = choose_layout(module, torch.zeros(1, 1, 28, 28), CPU)
    assert layout == "channels_first"


def test_the_reference_stays_channels_last_and_asks_no_child(monkeypatch):
    monkeypatch.setattr(gradient_check, "run_limited", pytest.fail)
    assert choose_layout(network(), torch.zeros(1, 1, 28, 28), CPU) == "channels_last"


def planted(monkeypatch, layouts):
    """Makes the weight gradients of 3x3 convolutions with a stride wrong in some layouts."""
    real = gradient_check._step

    def step(shape, image, weight, layout, random):
        output, into_image, into_weight, slope = real(shape, image, weight, layout, random)
        if layout in layouts and shape.kernel == (3, 3) and shape.stride == (2, 2):
            into_weight[0] = 0.0
        return output, into_image, into_weight, slope

    monkeypatch.setattr(gradient_check, "_step", step)
    gradient_check._error.cache_clear()


@pytest.fixture(autouse=True)
def forget():
    yield
    gradient_check._error.cache_clear()
    gradient_check._isolated.cache_clear()


def test_a_faulty_layout_is_refused_and_it_is_told(monkeypatch):
    planted(monkeypatch, ["channels_last"])
    told = f"{TOLD}: the gradients of a 3x3 convolution of 16 to 32 .*stride 2 .*relative error 0"
    with pytest.warns(UserWarning, match=told):
        layout = choose_layout(network(), torch.zeros(1, 1, 28, 28), CPU)
    assert layout == "channels_first"


def test_where_every_layout_is_faulty_nothing_is_trained(monkeypatch):
    planted(monkeypatch, ["channels_last", "channels_first"])
    with (
        pytest.warns(UserWarning, match=TOLD),
        pytest.raises(StageError, match="wrong on this CPU in every memory layout"),
    ):
        choose_layout(network(), torch.zeros(1, 1, 28, 28), CPU)


def test_what_may_crash_is_tried_in_a_child(monkeypatch):
    odd = shape(12, 8, 1, 2)
    assert may_crash(odd)
    assert wrong_shapes([odd], "channels_last", torch.float32) == []
    gradient_check._isolated.cache_clear()
    monkeypatch.setattr(gradient_check, "CHILD_LIMIT_S", 0.05)  # nothing is that fast
    ((found, trouble),) = wrong_shapes([odd], "channels_last", torch.float32)
    assert found == odd
    assert "did not end within its limit" in trouble


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "tried",
    [
        shape(),
        shape(1, 16, size=28),
        shape(3, 8, kernel=7, stride=2, size=28),
        shape(16, 32, kernel=1, stride=2),
        shape(8, 8, groups=8),
        shape(16, 16, groups=4, stride=2),
        shape(6, 6, dilation=2),
        shape(20, 4, size=2),
        shape(20, 4, kernel=1, stride=2, size=1),
    ],
    ids=str,
)
def test_usual_shapes_are_right_in_both_layouts(tried, layout, dtype):
    assert gradient_error(tried, layout, dtype) < LIMITS[dtype]


@pytest.mark.parametrize("wanted", ["channels_last", "channels_first"])
@pytest.mark.parametrize("sizes", [(4, 1, 5, 5), (8, 4, 1, 1), (2, 3, 4, 5), (1, 1, 1, 1)])
def test_strides_are_those_of_the_layout_also_where_a_size_is_one(wanted, sizes):
    other = "channels_first" if wanted == "channels_last" else "channels_last"
    numbers = torch.randn(sizes)
    laid = lay_out_images(lay_out_images(numbers, other), wanted)
    assert (
        laid.stride() == torch.empty(sizes, memory_format=gradient_check.FORMATS[wanted]).stride()
    )
    torch.testing.assert_close(laid, numbers)
    assert lay_out_images(laid, wanted) is laid


def test_parameters_stay_the_ones_that_an_optimizer_knows():
    module = nn.Conv2d(4, 8, 1, stride=2)
    parameter = module.weight
    lay_out(module, "channels_last")
    lay_out(module, "channels_first")
    assert module.weight is parameter
    assert parameter.stride() == (4, 1, 1, 1)


STEP = """
import copy, json, sys, torch
from torch import nn
from edgeres.training.layout import lay_out, lay_out_images
torch.set_num_threads(2)
torch.manual_seed(0)
module = nn.Sequential(  # smooth, so that no rounding switches a Relu
    nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 8, 1, stride=2),
    nn.BatchNorm2d(8), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3),
)
images = torch.randn(16, 1, 28, 28)
def gradients(module, images):
    loss = nn.functional.cross_entropy(module(images), torch.arange(16) % 3)
    return torch.autograd.grad(loss, [p for p in module.parameters() if p.ndim == 4])
exact = gradients(copy.deepcopy(module).double(), images.double())
lay_out(module, "channels_last")  # as an earlier training left it
images = lay_out_images(images, "channels_last")  # as they are stored
found = gradients(lay_out(module, sys.argv[1]), lay_out_images(images, sys.argv[1]))
print(json.dumps(max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact))))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86-64")
def test_one_step_of_a_narrow_network_is_right_with_avx2():
    """AVX2 is where torch 2.13 has the fault; a CPU with more is told to use no more than that."""
    limited = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", STEP, "channels_first"],
        env={**os.environ, **limited},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert json.loads(done.stdout) < 1e-3


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("part", range(3))
def test_one_wrong_channel_of_any_tensor_is_seen(monkeypatch, part, groups):
    """Sums over channels stand for all of them; one channel that is off is in every sum."""
    real = gradient_check._step

    def step(*arguments):
        found = real(*arguments)
        channel = (slice(None), 5) if part < 2 else 5
        found[part][channel] = 0.0
        return found

    monkeypatch.setattr(gradient_check, "_step", step)
    error = gradient_error(shape(16, 16, groups=groups), "channels_last", "float32")
    assert error == pytest.approx((1 / 16) ** 0.5, rel=0.35)
