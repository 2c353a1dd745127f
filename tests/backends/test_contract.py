"""What every backend keeps, each checked by the same tests on the real runtime."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.backends import backend_names, get_backend
from edgeres.backends.base import Backend, BuildConfig, Engine, QdqRules, Runner
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    DataError,
    EdgeResError,
    ModelError,
    UsageError,
)
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs

from .conftest import CLASSES, IMAGE, write_network

# The package that each backend needs, as it is imported; one that needs none is not in here.
RUNTIMES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "pytorch": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings"),
}
REFERENCES = ("pytorch",)  # built from a checkpoint, not from ONNX
NO_ARITHMETIC = ("null",)


@pytest.fixture(scope="module", params=backend_names())
def backend(request: pytest.FixtureRequest) -> Backend:
    found = get_backend(request.param)
    reason = found.missing()
    if reason is not None:
        pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture(scope="module")
def source(backend: Backend, request: pytest.FixtureRequest) -> Path:
    """What the backend builds from: the FP32 ONNX file, or the checkpoint of a reference."""
    fixture = "checkpoint" if backend.name in REFERENCES else "network"
    return request.getfixturevalue(fixture)


@pytest.fixture(scope="module")
def engine(backend: Backend, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    out = tmp_path_factory.mktemp(backend.name) / f"net{backend.engine_suffix}"
    return backend.build(source, out, on(backend))


@pytest.fixture
def copied(engine: Engine, tmp_path: Path) -> Engine:
    """The engine in a folder of its own, to be damaged."""
    shutil.copytree(engine.path.parent, tmp_path / "copy")
    return read_engine(tmp_path / "copy" / engine.path.name)


@pytest.fixture
def runner(backend: Backend, engine: Engine) -> Runner:
    executable(backend)
    with backend.load(engine, on(backend)) as loaded:
        yield loaded


def on(backend: Backend, **settings) -> BuildConfig:
    device = (*backend.devices(), backend.default_device)[0]
    return BuildConfig(device=device, threads=1, **settings)


def executable(backend: Backend) -> None:
    reason = backend.not_executable()
    if reason is not None:
        pytest.skip(f"{backend.name}: {reason}")


def has_arithmetic(backend: Backend) -> None:
    if backend.name in NO_ARITHMETIC:
        pytest.skip(f"{backend.name}: computes nothing")


def right_answer(
    backend: Backend, source: Path, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits by something other than the backend's runtime."""
    if backend.name in NO_ARITHMETIC:
        return np.zeros((len(images), CLASSES), np.float32)
    if backend.name in REFERENCES:
        import torch

        from edgeres.models.checkpoint import load_checkpoint, load_module

        with torch.no_grad():
            return load_module(load_checkpoint(source))(torch.from_numpy(images)).numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(source)).run(None, {"input": images})[0]


def digests(folder: Path) -> dict[str, str]:
    files = {p.name: p for p in folder.iterdir()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()}


# --- what it says about itself ---------------------------------------------------------------


def test_says_who_it_is(backend):
    assert get_backend(backend.name) is backend
    assert backend.engine_suffix.startswith(".")
    assert all(
        isinstance(name, str) and isinstance(version, str) and version
        for name, version in backend.versions().items()
    )
    devices = (*backend.devices(), backend.default_device)
    assert all(device.partition(":")[0] in ("cpu", "cuda") for device in devices)


def test_gives_rules_for_its_device(backend):
    rules = backend.qdq_rules(on(backend).device)
    assert isinstance(rules, QdqRules)
    assert isinstance(rules.saturating, bool)
    if rules.activation_symmetric:
        assert rules.activation_dtype == "int8"


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_without_its_runtime_it_says_what_to_install(name, network, tmp_path, monkeypatch):
    for package in RUNTIMES[name]:
        for loaded in [m for m in sys.modules if m.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, package, None)
    backend = get_backend(name)
    reason = backend.missing()
    assert reason is not None
    assert "pip install" in reason
    assert "\n" not in reason
    assert backend.not_executable() is not None
    with pytest.raises(BackendMissingError):
        backend.build(network, tmp_path / f"net{backend.engine_suffix}", BuildConfig())
    assert list(tmp_path.iterdir()) == []


# --- building ---------------------------------------------------------------------------------


def test_engine_knows_where_it_came_from(backend, source, engine):
    assert engine.path.is_file()
    assert engine.backend == backend.name
    assert engine.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert read_engine(engine.path) == engine


def test_the_same_model_gives_the_same_bytes(backend, source, engine, tmp_path):
    backend.build(source, tmp_path / "again" / engine.path.name, on(backend))
    first, second = digests(engine.path.parent), digests(tmp_path / "again")
    assert set(first) >= set(second)
    assert second == {name: first[name] for name in second}


def test_engines_of_different_weights_differ_in_the_engine_file_itself(
    backend, engine, network, checkpoint, tmp_path
):
    if backend.name in NO_ARITHMETIC:
        pytest.skip(f"{backend.name}: keeps no weights")
    other = tmp_path / f"other{(checkpoint if backend.name in REFERENCES else network).suffix}"
    if backend.name in REFERENCES:
        from edgeres.models.checkpoint import load_checkpoint, save_checkpoint

        changed = load_checkpoint(checkpoint)
        changed.state["conv1.weight"].add_(0.5)
        save_checkpoint(other, changed)
    else:
        import onnx

        model = onnx.load(network)
        stem = next(i for i in model.graph.initializer if i.name == "stem_w")
        stem.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stem) + 0.5, "stem_w")
        )
        onnx.save(model, other)
    built = backend.build(other, tmp_path / engine.path.name, on(backend))
    assert built.path.read_bytes() != engine.path.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 400])
def test_a_bad_model_is_refused_and_earlier_output_stays(backend, copied, tmp_path, content):
    before = digests(copied.path.parent)
    suffix = ".safetensors" if backend.name in REFERENCES else ".onnx"
    bad = tmp_path / f"bad{suffix}"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        backend.build(bad, copied.path, on(backend))
    assert bad.name in caught.value.message
    assert "\n" not in str(caught.value)
    assert digests(copied.path.parent) == before


def test_unknown_options_are_refused(backend, source, tmp_path):
    with pytest.raises(UsageError, match="no option 'speed'"):
        backend.build(source, tmp_path / "x", on(backend, options={"speed": "more"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [0, -1, 10**5, 10**30])
def test_threads_that_no_machine_has_are_refused(threads):
    with pytest.raises(UsageError, match="expected 1 to 4096 threads"):
        BuildConfig(threads=threads)


def test_unknown_devices_are_refused(backend, source, tmp_path):
    with pytest.raises((BackendMissingError, UsageError), match="abacus"):
        backend.build(source, tmp_path / "x", BuildConfig(device="abacus:0"))
    assert list(tmp_path.iterdir()) == []


# --- engines that are not what they seem ------------------------------------------------------


def test_a_flipped_bit_is_refused(backend, copied):
    names = [p for p in copied.path.parent.iterdir() if not p.name.endswith(".engine.json")]
    for path in names:
        good = path.read_bytes()
        path.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        refuse_everywhere(backend, copied)
        path.write_bytes(good)


def test_a_truncated_engine_is_refused(backend, copied):
    copied.path.write_bytes(copied.path.read_bytes()[:-10])
    refuse_everywhere(backend, copied)


def test_in_a_folder_the_engine_is_named(copied):
    with pytest.raises(ArtefactError) as caught:
        read_engine(copied.path.parent)
    assert caught.value.hint == f"Name an engine in it: {copied.path}."


def test_an_engine_without_its_sidecar_is_refused(backend, copied):
    sidecar_path(copied.path).unlink()
    refuse_everywhere(backend, copied)


def test_an_engine_of_another_backend_is_refused(backend, copied):
    sidecar = sidecar_path(copied.path)
    text = sidecar.read_text()
    assert f'"backend": "{backend.name}"' in text
    sidecar.write_text(text.replace(f'"backend": "{backend.name}"', '"backend": "abacus"'))
    refuse_everywhere(backend, copied)


def refuse_everywhere(backend: Backend, engine: Engine) -> None:
    asks = [backend.layers]
    if backend.not_executable() is None:
        asks.append(lambda engine: backend.load(engine, on(backend)))
    for ask in asks:
        with pytest.raises(ArtefactError) as caught:
            ask(engine)
        assert engine.path.parent.name in caught.value.message
        assert "\n" not in str(caught.value)


# --- running ----------------------------------------------------------------------------------


def test_tells_its_inputs_and_outputs(runner):
    (source,), (target,) = runner.inputs, runner.outputs
    assert (source.name, source.dtype, source.shape[:2]) == ("input", "float32", (None, 3))
    assert all(got in (None, wanted) for got, wanted in zip(source.shape[1:], IMAGE, strict=True))
    assert (target.name, target.dtype, target.shape) == ("logits", "float32", (None, CLASSES))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_fp32_answers_are_right_at_any_batch(backend, source, runner, images, batch):
    # bfloat16 or TF32 in place of FP32 would be off by 1e-2.
    answer = runner.infer({"input": images[:batch]})["logits"]
    wanted = right_answer(backend, source, images[:batch])
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-4)


def test_going_back_to_an_earlier_batch_size(runner, images):
    first = runner.infer({"input": images[:1]})["logits"]
    for batch in (2, 3, 4, 5, 6, 1):
        again = runner.infer({"input": images[:batch]})["logits"]
        assert again.shape == (batch, CLASSES)
        np.testing.assert_allclose(again[:1], first, rtol=1e-4, atol=1e-4)


def test_answers_stay_when_the_engine_runs_again(backend, runner, images):
    first = runner.infer({"input": images[:1]})["logits"]
    kept = first.copy()
    second = runner.infer({"input": images[1:2]})["logits"]
    np.testing.assert_array_equal(first, kept)
    if backend.name not in NO_ARITHMETIC:
        assert np.abs(second - first).max() > 1e-3


def test_the_same_feed_gives_the_same_bits(runner, images):
    first = runner.infer({"input": images})["logits"]
    np.testing.assert_array_equal(runner.infer({"input": images})["logits"], first)


def test_feeds_that_are_views_or_locked_are_read_right(runner, images):
    whole = runner.infer({"input": np.ascontiguousarray(images[::2])})["logits"]
    np.testing.assert_array_equal(runner.infer({"input": images[::2]})["logits"], whole)
    locked = images[::2].copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(runner.infer({"input": locked})["logits"], whole)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: {}, "input is missing"),
        (lambda x: {"input": x, "mask": x}, "no input mask"),
        (lambda x: {"input": x.astype(np.float64)}, "float64"),
        (lambda x: {"input": x.tolist()}, "list"),
        (lambda x: {"input": x[:, :1]}, r"\(7, 1, 12, 12\)"),
        (lambda x: {"input": x[0]}, r"\(3, 12, 12\)"),
        (lambda x: {"input": x[:0]}, r"\(0, 3, 12, 12\)"),
    ],
)
def test_wrong_feeds_are_refused(runner, images, spoil, named):
    with pytest.raises(DataError, match=named):
        runner.infer(spoil(images))
    assert runner.infer({"input": images})["logits"].shape == (7, CLASSES)


def test_a_closed_engine_does_not_run(backend, engine, images):
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        runner.infer({"input": images})
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.infer({"input": images})


# --- proof of precision -----------------------------------------------------------------------


def test_layers_of_an_fp32_engine_are_float(backend, network, engine):
    has_arithmetic(backend)
    layers = backend.layers(engine)
    assert layers
    assert all(layer.name and layer.op and layer.precision for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    assert not [layer for layer in layers if "8" in layer.precision]
    if backend.name not in REFERENCES:
        coverage = int8_coverage(node_macs(network), layers)
        assert coverage.int8_coverage == 0
        # Every convolution is accounted for by its ONNX name, as a float layer.
        assert {layer.precision for layer in coverage.float_layers} == {"float32"}


def test_a_model_under_the_backends_own_rules_runs_in_int8(backend, network, tmp_path, images):
    rules = backend.qdq_rules(on(backend).device)
    if not rules.ops:
        pytest.skip(f"{backend.name}: quantizes nothing")
    source = write_network(tmp_path / "qdq.onnx", rules)
    engine = backend.build(source, tmp_path / f"int8{backend.engine_suffix}", on(backend))
    layers = backend.layers(engine)
    coverage = int8_coverage(node_macs(network), layers)
    assert coverage.float_layers == ()
    assert coverage.int8_coverage == 1
    named = {node for layer in layers for node in layer.nodes}
    assert {"stem", "one", "two", "add", "pool", "fc"} <= named
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        answer = runner.infer({"input": images})["logits"]
    wanted = right_answer(backend, network, images)
    noise = float(np.square(wanted - answer).sum() / np.square(wanted).sum())
    # Weights of this file are not made safe: sums that overflow cost accuracy, not coverage.
    assert 1e-8 < noise < (1.0 if rules.saturating else 1e-2)


def test_a_fixed_batch_stays_fixed(backend, tmp_path, images):
    if backend.name in REFERENCES:
        pytest.skip(f"{backend.name}: a checkpoint has no batch")
    source = write_network(tmp_path / "fixed.onnx", batch=2)
    engine = backend.build(source, tmp_path / f"fixed{backend.engine_suffix}", on(backend))
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        assert runner.inputs[0].shape == (2, *IMAGE)
        with pytest.raises(DataError, match=r"expected float32 \(2, 3, 12, 12\)"):
            runner.infer({"input": images[:3]})
        assert runner.infer({"input": images[:2]})["logits"].shape == (2, CLASSES)


def test_errors_are_edgeres_errors_with_hints(backend, engine, tmp_path):
    with pytest.raises(EdgeResError) as caught:
        backend.build(tmp_path / "none.onnx", tmp_path / engine.path.name, on(backend))
    assert caught.value.hint
