"""What every backend keeps of engines: how they are built, and that no other is taken for one."""

from __future__ import annotations

import hashlib
import sys

import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import Backend, BuildConfig, Engine, QdqRules
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    EdgeResError,
    ModelError,
    UsageError,
)

from .conftest import NO_ARITHMETIC, REFERENCES, digests, on

# The package that each backend needs, as it is imported; one that needs none is not in here.
RUNTIMES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "pytorch": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings"),
}

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


def test_errors_are_edgeres_errors_with_hints(backend, engine, tmp_path):
    with pytest.raises(EdgeResError) as caught:
        backend.build(tmp_path / "none.onnx", tmp_path / engine.path.name, on(backend))
    assert caught.value.hint
