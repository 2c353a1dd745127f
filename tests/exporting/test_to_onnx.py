"""Export of torch networks: values, names, bytes, and what happens when something goes wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeres.errors import BackendMissingError, GateError, ModelError, StageError, UsageError
from edgeres.exporting import to_onnx
from edgeres.exporting.to_onnx import ExportResult, export_onnx
from edgeres.exporting.trace import trace
from edgeres.graph.summary import summarize

SAMPLE = (3, 16, 16)

# Run here and in another process: the bytes must be the same.
BUILD_AND_EXPORT = """
from pathlib import Path
import torch
from torch import nn
from edgeres.exporting.to_onnx import export_onnx
torch.manual_seed(11)
module = nn.Sequential(
    nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False),
    nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
)
module(torch.randn(4, 3, 8, 8))  # in training mode: gives the normalizations their statistics
export_onnx(module, (3, 8, 8), Path(out))
"""


@pytest.fixture(scope="module")
def exported(odd_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export_onnx(odd_net, SAMPLE, tmp_path_factory.mktemp("export") / "odd.onnx")


def test_result_tells_what_was_written(exported: ExportResult) -> None:
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()
    assert exported.parity.batch_sizes == (1, 2, 7)
    assert exported.parity.samples == 10
    assert exported.parity.max_rel_error < 1e-5
    summary = summarize(exported.path)
    assert summary.opset == exported.opset == 20
    assert [(i.name, i.shape) for i in summary.inputs] == [("input", (None, *SAMPLE))]
    assert [(o.name, o.shape) for o in summary.outputs] == [("logits", (None, 5))]


def test_nodes_are_called_after_modules(exported: ExportResult) -> None:
    model = onnx.load(exported.path)
    assert [node.name for node in model.graph.node] == [
        "conv1",
        "relu",
        "maxpool",
        "layer1.0.conv1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.globalaveragepool",
        "layer1.0.squeeze",
        "layer1.0.relu_1",
        "layer1.0.excite",
        "layer1.0.sigmoid",
        "layer1.0.mul",
        "layer1.0.add",
        "layer1.0.relu_2",
        "layer1.1.conv1",
        "layer1.1.relu",
        "layer1.1.conv2",
        "layer1.1.globalaveragepool",
        "layer1.1.squeeze",
        "layer1.1.relu_1",
        "layer1.1.excite",
        "layer1.1.sigmoid",
        "layer1.1.mul",
        "layer1.1.downsample.0",
        "layer1.1.downsample.1",
        "layer1.1.add",
        "layer1.1.relu_2",
        "avgpool",
        "flatten",
        "fc",
    ]
    assert {i.name for i in model.graph.initializer} >= {"fc.weight", "layer1.1.downsample.1.bias"}
    assert {n.op_type for n in model.graph.node} == {
        "Conv",
        "Relu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Sigmoid",
        "Mul",
        "Add",
        "Flatten",
        "Gemm",
    }


def test_file_says_nothing_about_this_machine(exported: ExportResult) -> None:
    content = exported.path.read_bytes()
    for trace_of_home in (b"/", b"torch", b".py", b"site-packages", Path.home().name.encode()):
        text = b"".join(n.SerializeToString() for n in onnx.load(exported.path).graph.node)
        assert trace_of_home not in text
    assert b"pkg.torch" not in content


def test_same_weights_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    here, there = tmp_path / "here.onnx", tmp_path / "there.onnx"
    exec(BUILD_AND_EXPORT, {"out": str(here)})
    subprocess.run(
        [sys.executable, "-c", f"out = {str(there)!r}\n{BUILD_AND_EXPORT}"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path.cwd())},
    )
    assert here.read_bytes() == there.read_bytes()


def test_batch_of_one_and_own_names(small_net: nn.Module, tmp_path: Path) -> None:
    result = export_onnx(
        small_net,
        SAMPLE,
        tmp_path / "one.onnx",
        dynamic_batch=False,
        input_name="image",
        output_name="scores",
        images=np.ones((1, *SAMPLE), np.float32),
    )
    summary = summarize(result.path)
    assert [(i.name, i.shape) for i in summary.inputs] == [("image", (1, *SAMPLE))]
    assert [(o.name, o.shape) for o in summary.outputs] == [("scores", (1, 5))]
    assert result.parity.batch_sizes == (1,)
    assert result.parity.samples == 2


def test_module_is_left_alone_and_nothing_is_printed(
    small_net: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small_net.train()
    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    try:
        export_onnx(small_net, SAMPLE, tmp_path / "quiet.onnx")
        assert small_net.training
    finally:
        small_net.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_net.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_module_in_channels_last_keeps_its_free_batch(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()  # fmt: skip
    plain = export_onnx(module, SAMPLE, tmp_path / "plain.onnx")
    last = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    result = export_onnx(last, SAMPLE, tmp_path / "last.onnx")
    assert result.sha256 == plain.sha256
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


class AsksForChannelsLast(nn.Module):
    def __init__(self, body: nn.Module, how: str) -> None:
        super().__init__()
        self.body, self.how = body, how

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.how == "to":
            return self.body(images.to(memory_format=torch.channels_last))
        if self.how == "clone":
            return self.body(images.clone(memory_format=torch.channels_last))
        return self.body(images.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("how", ["contiguous", "to", "clone"])
def test_code_that_asks_for_channels_last_keeps_its_free_batch(
    how: str, small_net: nn.Module, tmp_path: Path
) -> None:
    result = export_onnx(AsksForChannelsLast(small_net, how), SAMPLE, tmp_path / "last.onnx")
    assert summarize(result.path).outputs[0].shape == (None, 5)


def test_swapped_biases_do_not_pass(
    small_net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapping(model: ir.Model, *, dynamic_batch: bool) -> None:
        to_onnx_normal_form(model, dynamic_batch=dynamic_batch)
        bias = model.graph.initializers["conv.bias"]
        values = bias.const_value.numpy().copy()
        values[[0, 1]] = values[[1, 0]]
        bias.const_value = ir.tensor(values, name=bias.name)

    to_onnx_normal_form = to_onnx.normal_form
    monkeypatch.setattr(to_onnx, "normal_form", swapping)
    out = tmp_path / "wrong.onnx"
    out.write_bytes(b"earlier")
    with pytest.raises(GateError, match=r"output 'logits' at \[\d, \d\] is .* expected .* batch"):
        export_onnx(small_net, SAMPLE, out)
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_another_opset_than_asked_for_is_detected(small_net: nn.Module) -> None:
    # torch's exporter writes opset 18 at the oldest, whatever older one it is asked for.
    names = {"input_name": "input", "output_names": ["logits"]}
    with pytest.raises(StageError, match=r"Expected a graph of opset 16 from torch .*, got 18"):
        trace(small_net, SAMPLE, opset=16, dynamic_batch=False, **names)


def test_old_opset_and_bad_shape_are_usage_errors(small_net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected opset 20 or later, got 17"):
        export_onnx(small_net, SAMPLE, tmp_path / "m.onnx", opset=17)
    with pytest.raises(UsageError, match="sample shape"):
        export_onnx(small_net, (3, 0, 16), tmp_path / "m.onnx")


def test_weights_that_are_not_finite_float32_are_named(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match=r"got torch.float16 at '0.weight'"):
        export_onnx(layer.half(), SAMPLE, tmp_path / "m.onnx")
    layer.float()
    with torch.no_grad():
        layer[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"Weights '0.weight' hold 1 values that are NaN"):
        export_onnx(layer, SAMPLE, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    """Decides by its data, which no ONNX export can follow."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        return flat[:, :2] if bool(flat.sum() > 0) else flat[:, 2:4]


def test_control_flow_on_data_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch cannot export the module for input \(3, 16, 16\)"):
        export_onnx(Branching(), SAMPLE, tmp_path / "m.onnx")


def test_missing_runtime_says_how_to_get_it(
    small_net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError) as caught:
        export_onnx(small_net, SAMPLE, tmp_path / "m.onnx")
    assert "pip install" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
