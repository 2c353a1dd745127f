"""Networks that edgeres itself exports and quantizes, built by TensorRT for RTX: all INT8.

The checkpoints that the recipes ship, and the architectures of the others, narrow and on small
images; as they are they belong to the slow tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.opset17 import to_opset17
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs

from .onnx_parsers import complaints

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

BACKEND = get_backend("tensorrt")
PROGRAM = Path(__file__).parents[3] / "benchmarks" / "tensorrt_numerics.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder with ``net.safetensors``, ``net.onnx`` and ``net.qdq.onnx``, made once for each."""
    return functools.cache(lambda *network: _export(*network, tmp_path_factory.mktemp("network")))


def _export(name: str, shape: tuple[int, int, int], width: float, folder: Path) -> Path:
    from edgeres.data.preprocess import Preprocess
    from edgeres.models.build import build_model
    from edgeres.models.checkpoint import Checkpoint, save_checkpoint
    from edgeres.models.plan import plan_for

    # Here, so that collecting the tests does not import torch.
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    plan = plan_for(name, num_classes=10, in_channels=shape[0], width_multiplier=width)
    module = build_model(plan).eval()
    preprocess = Preprocess(mean=(0.286,), std=(0.353,), channels=shape[0])
    checkpoint = Checkpoint(plan, module.state_dict(), preprocess)
    save_checkpoint(folder / "net.safetensors", checkpoint)
    return _quantized(module, shape, folder)


def _quantized(module: Any, shape: tuple[int, int, int], folder: Path) -> Path:
    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.quantize import quantize

    export_onnx(module, shape, folder / "net.onnx")
    random = np.random.default_rng(0)
    feeds = [random.standard_normal((16, *shape)).astype(np.float32) for _ in range(2)]
    table = calibrate(folder / "net.onnx", iter(feeds))
    rules = BACKEND.qdq_rules("cuda:0")
    quantize(folder / "net.onnx", table, rules, folder / "net.qdq.onnx")
    return folder


@pytest.mark.parametrize(
    ("name", "shape", "width", "rest"),
    [
        ("resnet20", (1, 28, 28), 0.5, "float32"),
        ("resnet18", (3, 64, 64), 0.25, "float32"),
        pytest.param("resnet50", (3, 64, 64), 0.25, "float32", marks=pytest.mark.slow),
        ("pooled_resnet", (1, 28, 28), 0.5, "float32"),
        ("resnet50", (3, 64, 64), 0.25, "float16"),
        pytest.param("resnet20", (1, 28, 28), 0.5, "float16", marks=pytest.mark.slow),
        pytest.param("resnet18", (3, 64, 64), 0.25, "float16", marks=pytest.mark.slow),
        pytest.param("pooled_resnet", (1, 28, 28), 0.5, "float16", marks=pytest.mark.slow),
        pytest.param("resnet18", (3, 224, 224), 1.0, "float32", marks=pytest.mark.slow),
        pytest.param("resnet18", (3, 224, 224), 1.0, "float16", marks=pytest.mark.slow),
        pytest.param("resnet50", (3, 224, 224), 1.0, "float32", marks=pytest.mark.slow),
        pytest.param("resnet50", (3, 224, 224), 1.0, "float16", marks=pytest.mark.slow),
    ],
)
def test_all_multiply_adds_are_int8(
    exported: Callable[..., Path],
    tmp_path: Path,
    name: str,
    shape: tuple[int, int, int],
    width: float,
    rest: str,
) -> None:
    check_all_int8(exported(name, shape, width), tmp_path, rest)
    if rest == "float32":
        check_8_6(exported(name, shape, width), tmp_path)


SHIPPED = {
    "fmnist_resnet20": (1, 28, 28),
    "fmnist_wide_resnet20": (1, 28, 28),
    "fmnist_pooled_resnet": (1, 28, 28),
    "spoken_words_resnet8": (1, 40, 51),
    "pruned": (1, 28, 28),
}


def test_every_checkpoint_that_ships_is_among_them() -> None:
    from edgeres.system.assets import asset_folder

    files = (asset_folder("recipes") / "checkpoints").glob("*.safetensors")
    assert {file.stem for file in files} | {"pruned"} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_networks_are_int8(tmp_path: Path, name: str) -> None:
    from edgeres.models.checkpoint import load_checkpoint, load_module
    from edgeres.system.assets import asset_folder

    pytest.importorskip("torch", reason="torch is not installed")
    recipes = asset_folder("recipes")
    (pruned,) = recipes.glob("stages/prune-*/checkpoint.safetensors")
    path = pruned if name == "pruned" else recipes / "checkpoints" / f"{name}.safetensors"
    module = load_module(load_checkpoint(path))
    check_all_int8(_quantized(module, SHIPPED[name], tmp_path), tmp_path, "float32")
    check_8_6(tmp_path, tmp_path)


def check_all_int8(network: Path, tmp_path: Path, rest: str) -> None:
    config = BuildConfig(options={"flavor": "tensorrt_rtx", "rest": rest})
    engine = BACKEND.build(network / "net.qdq.onnx", tmp_path / "net.plan", config)
    coverage = int8_coverage(node_macs(network / "net.onnx"), BACKEND.layers(engine))
    assert coverage.float_layers == ()
    assert coverage.int8_coverage == 1
    assert BACKEND.remarks(engine).notes == ()
    plans = [engine.path.read_bytes()]
    while len(plans) < 4:  # NVIDIA's builder gave other bytes once, float16 on a busy machine
        again = BACKEND.build(network / "net.qdq.onnx", tmp_path / "again.plan", config)
        plans.append(again.path.read_bytes())
        if plans[-1] in plans[:-1]:
            break
    assert len(set(plans)) < len(plans)
    assert len({len(plan) for plan in plans}) == 1


def check_8_6(network: Path, tmp_path: Path) -> None:
    """The file for TensorRT 8.6 keeps its parser's limits; a later builder makes INT8 of it."""
    lowered = tmp_path / "opset17.onnx"
    to_opset17(read_graph(network / "net.qdq.onnx"), lowered)
    assert complaints(onnx.load(lowered)) == []
    engine = BACKEND.build(lowered, tmp_path / "old.plan", BuildConfig(options={"rest": "float32"}))
    coverage = int8_coverage(node_macs(network / "net.onnx"), BACKEND.layers(engine))
    assert coverage.int8_coverage == 1


def test_the_numerics_program(
    load_program: Callable[[Path], Any],
    exported: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    network = exported("resnet20", (1, 28, 28), 0.5)
    program = load_program(PROGRAM)
    files = [str(network / "net.onnx"), str(network / "net.qdq.onnx")]
    checkpoint = ["--checkpoint", str(network / "net.safetensors"), "--samples", "200"]
    assert program.main([*files, *checkpoint]) == 0
    printed = capsys.readouterr().out
    assert "on 200 images" in printed
    assert printed.count("SQNR") == 3
    assert program.main([files[0], str(tmp_path / "absent.onnx"), *checkpoint]) == 3
