"""Plans that TensorRT for RTX really builds here, without a GPU, and what it says about them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.backends.sidecar import read_engine
from edgeres.backends.tensorrt.api import load_trt
from edgeres.backends.tensorrt.build import build_plan
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.layerlist import read_log
from edgeres.backends.tensorrt.layers import LayerRecord, assign_products, to_layer_infos
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.backends.tensorrt.subprocess import ADDRESSES_VARY
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    EdgeResError,
    StageError,
    UsageError,
)
from edgeres.evaluation.fusions import count_fusions
from edgeres.system import steady_child

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
BACKEND = get_backend("tensorrt")
RTX = {"flavor": "tensorrt_rtx"}

RESNET18 = {
    "stem": "imagenet",
    "widths": (8, 16, 32, 64),
    "blocks": (2, 2, 2, 2),
    "shape": (3, 64, 64),
    "pool": "ReduceMean",
}
RESNET20 = {"widths": (16, 32, 64), "blocks": (3, 3, 3), "shape": (1, 28, 28)}


def build(net: Any, folder: Path, **options: str) -> Engine:
    onnx.save(net.model(), folder / "net.onnx")
    config = BuildConfig(options=RTX | options)
    return BACKEND.build(folder / "net.onnx", folder / "net.plan", config)


def products(net: Any) -> set[str]:
    return {node.name for node in net.nodes if node.op_type in {"Conv", "Gemm"}}


def product_precisions(engine: Engine, net: Any) -> dict[str, str]:
    """Precision of every Conv and Gemm, each of which exactly one layer must claim."""
    claims = [
        (node, layer.precision)
        for layer in BACKEND.layers(engine)
        for node in layer.nodes
        if node in products(net)
    ]
    assert len(claims) == len(dict(claims))
    return dict(claims)


@pytest.mark.parametrize(
    ("shape", "rest"),
    [
        pytest.param(RESNET18, "float32", id="resnet18"),
        pytest.param(RESNET20, "float16", id="resnet20-float16"),
        pytest.param(RESNET18, "float16", id="resnet18-float16", marks=pytest.mark.slow),
        pytest.param(RESNET20, "float32", id="resnet20", marks=pytest.mark.slow),
    ],
)
def test_every_convolution_and_the_classifier_run_in_int8(
    qdq_net: Callable[..., Any], tmp_path: Path, shape: dict[str, Any], rest: str
) -> None:
    net = qdq_net(**shape)
    engine = build(net, tmp_path, rest=rest)
    assert engine == read_engine(engine.path)
    assert engine.versions["flavor"] == "tensorrt_rtx"
    assert engine.versions["rest"] == rest
    precisions = product_precisions(engine, net)
    assert set(precisions) == products(net)
    assert set(precisions.values()) == {"int8"}
    pools = [layer for layer in BACKEND.layers(engine) if "maxpool" in layer.nodes]
    assert {layer.precision for layer in pools} <= {"int8"}


def test_a_float_network_is_not_called_int8(float_net: Callable[..., Any], tmp_path: Path) -> None:
    net = float_net()
    precisions = product_precisions(build(net, tmp_path), net)
    assert set(precisions) == products(net)
    assert set(precisions.values()) == {"float32"}


def audited(net: Any, folder: Path) -> dict[str, LayerRecord]:
    """Builds past the lint and returns the layer of every Conv and Gemm."""
    onnx.save(net.model(), folder / "net.onnx")
    graph = read_graph(folder / "net.onnx")
    built = build_plan(load_trt("tensorrt_rtx"), folder / "net.onnx", TensorRTOptions(), {})
    records = assign_products(read_log(built.layer_log), graph.op_types)
    return {node: record for record in records for node in record.nodes if node in products(net)}


@pytest.mark.parametrize("node", ["layer2.0.conv2", "fc"])
def test_a_wrong_axis_that_slips_past_the_lint_is_seen_by_the_audit(
    qdq_net: Callable[..., Any], tmp_path: Path, node: str
) -> None:
    layers = audited(qdq_net(qdq={"axes": {node: 1}}), tmp_path)
    assert {name for name, record in layers.items() if record.precision != "int8"} == {node}


def test_residual_placement_changes_what_the_pointwise_kernels_do(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    beside_adds = {}
    for residual in ("skip", "both"):
        net = qdq_net(qdq={"residual": residual})
        audit = BACKEND.audit(build(net, tmp_path))
        ops = {node.name: node.op_type for node in net.nodes}
        fusions = count_fusions(to_layer_infos(audit.layers), ops)
        assert (fusions.adds, fusions.adds_in_products, fusions.adds_in_kernels) == (2, 0, 2)
        kernels = [set(layer.nodes) for layer in audit.layers if layer.op == "kgen"]
        beside_adds[residual] = [
            f"layer{stage}.0.conv2_out_q" in nodes
            for stage in (1, 2)
            for nodes in kernels
            if f"layer{stage}.0.add" in nodes
        ]
    # Q/DQ on the main path too is one more rounding in the kernel of each addition.
    assert beside_adds == {"skip": [False, False], "both": [True, True]}


@pytest.mark.parametrize("shapes", [{"batch": 4}, {}], ids=["fixed batch", "range"])
@pytest.mark.parametrize("rest", ["float32", "float16"])
def test_two_builds_are_equal_byte_for_byte(
    qdq_net: Callable[..., Any], tmp_path: Path, shapes: dict[str, int], rest: str
) -> None:
    """Other folders, other parents with another environment and search path, other names."""
    onnx.save(qdq_net(**shapes).model(), tmp_path / "net.onnx")
    hashes = set()
    for length in (1, 40):
        folder = tmp_path / ("x" * length)
        folder.mkdir()
        onnx.save(qdq_net(**shapes).model(), folder / f"{'n' * length}.onnx")
        paths = [f"/none/{'x' * length}"] * length + sys.path[:: 1 if length == 1 else -1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment |= {f"ANY_{index}": "y" * length for index in range(length)}
        out = folder / "out" / f"{'p' * length}.plan"
        command = ["build", f"{'n' * length}.onnx", "--target", "tensorrt", "--output", str(out)]
        options = ["--option", f"rest={rest}", "--option", "flavor=tensorrt_rtx"]
        subprocess.run(
            [sys.executable, "-m", "edgeres", *command, *options],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
        )
        (sidecar,) = out.parent.glob("*.engine.json")
        files = json.loads(sidecar.read_text())["files"]
        hashes.add(tuple(sorted(file["sha256"] for file in files.values())))
    assert len(hashes) == 1


def test_without_fixed_addresses_a_range_is_built_with_a_warning(
    qdq_net: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that forbids personality(2)."""
    refused = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    monkeypatch.setattr(steady_child, "_FIRST", refused)
    assert ADDRESSES_VARY in BACKEND.audit(build(qdq_net(), tmp_path)).warnings
    assert ADDRESSES_VARY not in BACKEND.audit(build(qdq_net(batch=4), tmp_path)).warnings


def test_external_data_beside_the_model_reaches_the_plan(
    qdq_net: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = build(qdq_net(), tmp_path).path.read_bytes()
    beside = {"save_as_external_data": True, "location": "net.bin", "size_threshold": 0}
    onnx.save(qdq_net().model(), "net.onnx", **beside)
    BACKEND.build(Path("net.onnx"), Path("out/net.plan"), BuildConfig(options=RTX))
    engine = BACKEND.build(Path("net.onnx"), Path("net.plan"), BuildConfig(options=RTX))
    assert engine.path.stat().st_size == len(whole)
    assert Path("out/net.plan").read_bytes() == engine.path.read_bytes()


def test_a_crash_of_the_compiler_is_one_line_and_leaves_nothing(
    qdq_net: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dynamic scale crashes it; the lint, which refuses that, is held shut here."""
    monkeypatch.setattr("edgeres.backends.tensorrt.lint.refuse_fatal", lambda *_: None)
    net = qdq_net()
    net.nodes.insert(
        0, onnx.helper.make_node("ReduceMax", ["input"], ["top"], name="top", keepdims=0)
    )
    for node in ("layer1.0.relu1_out_q", "layer1.0.relu1_out_dq"):
        net.node(node).input[1] = "top"
    with pytest.raises(
        StageError, match=r"net\.onnx by TensorRT for RTX .* killed by SIG"
    ) as caught:
        build(net, tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ("9.0", BackendMissingError, r"does not support compute capability 9\.0 \(H100, H200\)"),
        ("8.6,9.0", BackendMissingError, r"does not support compute capability 9\.0"),
        ("7.5", UsageError, r"no INT8 convolution on compute capability 7\.5"),
        ("7.5,8.6", UsageError, r"no INT8 convolution on compute capability 7\.5"),
        ("8.7", BackendMissingError, r"does not support compute capability 8\.7"),
        ("ninety", UsageError, r"compute_capabilities: expected compute capabilities such as"),
    ],
)
def test_targets_that_are_refused(
    qdq_net: Callable[..., Any],
    tmp_path: Path,
    targets: str,
    error: type[EdgeResError],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        build(qdq_net(), tmp_path, compute_capabilities=targets)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]


@pytest.mark.parametrize("targets", ["8.6", "12.0,12.1"])
def test_targets_keep_int8_and_are_recorded(
    qdq_net: Callable[..., Any], tmp_path: Path, targets: str
) -> None:
    net = qdq_net()
    engine = build(net, tmp_path, compute_capabilities=targets)
    assert engine.versions["compute_capabilities"] == targets
    assert set(product_precisions(engine, net).values()) == {"int8"}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"image": ShapeRange((1, 3, 16, 16), (1, 3, 16, 16), (8, 3, 16, 16))}, "names the input"),
        ({"input": ShapeRange((1, 3, 16), (1, 3, 16), (8, 3, 16))}, "has 3 dimensions"),
        ({"input": ShapeRange((4, 3, 16, 16), (1, 3, 16, 16), (8, 3, 16, 16))}, "is 4, 1, 8"),
        ({"input": ShapeRange((1, 3, 16, 16), (1, 3, 16, 16), (8, 3, 32, 16))}, "fixes it at 16"),
        ({"input": ShapeRange((0, 3, 16, 16), (1, 3, 16, 16), (8, 3, 16, 16))}, "is 0, 1, 8"),
    ],
)
def test_a_wrong_profile_is_one_line(
    qdq_net: Callable[..., Any], tmp_path: Path, shapes: dict[str, ShapeRange], message: str
) -> None:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    config = BuildConfig(shapes=shapes, options=RTX)
    with pytest.raises(UsageError, match=message):
        BACKEND.build(tmp_path / "net.onnx", tmp_path / "net.plan", config)


def test_profiles_reach_the_plan(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    trt = load_trt("tensorrt_rtx")
    built = build_plan(
        trt, tmp_path / "net.onnx", TensorRTOptions(opt_batch=(2,), max_batch=32), {}
    )
    assert "MinShape: [1,3,16,16], OptShape: [2,3,16,16], MaxShape: [32,3,16,16]" in "".join(
        built.layer_log
    )
    shapes = {"input": ShapeRange((3, 3, 16, 16), (4, 3, 16, 16), (5, 3, 16, 16))}
    built = build_plan(trt, tmp_path / "net.onnx", TensorRTOptions(), shapes)
    assert "MinShape: [3,3,16,16], OptShape: [4,3,16,16], MaxShape: [5,3,16,16]" in "".join(
        built.layer_log
    )


def test_several_profiles_reach_the_plan(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    trt = load_trt("tensorrt_rtx")
    options = TensorRTOptions(opt_batch=(1, 8), max_batch=32)
    built = build_plan(trt, tmp_path / "net.onnx", options, {})
    assert built.batches == (1, 8)
    assert built.shapes == {"input": ShapeRange((1, 3, 16, 16), (1, 3, 16, 16), (32, 3, 16, 16))}
    told = "".join(built.layer_log)
    assert "MinShape: [2,3,16,16], OptShape: [8,3,16,16], MaxShape: [32,3,16,16]" in told
    engine = build(qdq_net(), tmp_path, opt_batch="1,8", max_batch="32")
    assert engine.versions["opt_batch"] == "1,8"
    assert set(product_precisions(engine, qdq_net()).values()) == {"int8"}


@pytest.mark.parametrize("rest", ["float32", "tf32"])
def test_tf32_is_a_choice_that_the_real_builder_takes(
    float_net: Callable[..., Any], tmp_path: Path, rest: str
) -> None:
    net = float_net()
    engine = build(net, tmp_path, rest=rest)
    assert engine.versions["rest"] == rest
    assert set(product_precisions(engine, net).values()) == {"float32"}


def test_too_little_workspace_says_what_to_raise(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="workspace limit") as caught:
        build(qdq_net(**RESNET20), tmp_path, workspace_mib="1")
    assert "workspace_mib" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version_compatible": "true"}, "no version-compatible plan without a GPU"),
        ({"hardware_compatibility": "ampere_plus"}, "has no hardware_compatibility"),
        ({"timing_cache": "cache.bin"}, "takes no timing_cache"),
        ({"precision": "int8"}, "no option 'precision'"),
        ({"workspce_mib": "1"}, "no option 'workspce_mib'.*Did you mean workspace_mib"),
        ({"workspace_mib": "0"}, "workspace_mib: expected a whole number from 1"),
        ({"optimization_level": "6"}, "expected a whole number from 0 to 5"),
        ({"rest": "int4"}, "rest: expected one of float32, tf32, float16, got 'int4'"),
        ({"cuda_graph": "maybe"}, "cuda_graph: expected true or false"),
        ({"opt_batch": "8", "max_batch": "4"}, "opt_batch 8 is above max_batch 4"),
    ],
)
def test_options_that_make_no_sense(
    qdq_net: Callable[..., Any], tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(qdq_net(), tmp_path, **options)


@pytest.mark.parametrize("device", ["abacus:0", "gpu", "cuda:x"])
def test_devices_that_make_no_sense_are_refused_without_a_driver_too(
    qdq_net: Callable[..., Any], tmp_path: Path, device: str
) -> None:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=f"such as cuda:0, got '{device}'"):
        BACKEND.build(tmp_path / "net.onnx", tmp_path / "net.plan", BuildConfig(device))


def test_there_is_no_dla_here(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(BackendMissingError, match="sees 0 DLA cores"):
        build(qdq_net(), tmp_path, dla_core="0")


def test_builder_warnings_are_kept(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    audit = BACKEND.audit(build(qdq_net(), tmp_path, rest="float16"))
    assert any("scales to fp32" in warning for warning in audit.warnings)


def test_progress_is_told_and_may_stop_the_build(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    config = BuildConfig(options=RTX)
    told: list[tuple[int, int]] = []
    arguments = (tmp_path / "net.onnx", tmp_path / "net.plan", config)
    BACKEND.build(*arguments, progress=lambda done, known: told.append((done, known)))
    assert len(told) > 10
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(done <= known for done, known in told)
    before = (tmp_path / "net.plan").read_bytes()

    def stop(done: int, known: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BACKEND.build(*arguments, progress=stop)
    assert (tmp_path / "net.plan").read_bytes() == before
    assert read_engine(tmp_path / "net.plan").backend == "tensorrt"


def test_layers_need_their_list_untouched(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    engine = build(qdq_net(), tmp_path)
    listing = tmp_path / "net.plan.layers.json"
    record = json.loads(listing.read_text())
    assert (
        hashlib.sha256(listing.read_bytes()).hexdigest()
        in (tmp_path / "net.plan.engine.json").read_text()
    )
    record["layers"] = [layer | {"inputs": ["int8"]} for layer in record["layers"]]
    listing.write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"net\.plan\.layers\.json"):
        BACKEND.layers(engine)
