"""The runtime: right answers from any thread, no torch, and refusal of what does not fit here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeres
from edgeres.assets import asset_path
from edgeres.backends import get_backend
from edgeres.backends.base import BatchLimits, BuildConfig
from edgeres.backends.sidecar import read_engine
from edgeres.data.decode import decode_file
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    DataError,
    GateError,
    StageError,
    UsageError,
)

TARGETS = [n for n in ("onnxruntime", "openvino") if get_backend(n).not_executable() is None]


@pytest.fixture(params=TARGETS)
def target(request) -> str:
    return request.param


def test_scores_are_those_of_the_bare_engine(output, bundle_file, images, target):
    report = json.loads((output / "report.json").read_text())
    engine = read_engine(output / report["targets"][target]["engine"])
    with edgeres.Session(bundle_file, target=target) as session:
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        got = session.infer(batch)
        assert session.target == target
        assert session.input.shape == (None, 1, 28, 28)
        assert session.self_test is not None
        assert session.self_test.samples == 4
    with get_backend(target).load(engine, BuildConfig()) as runner:
        (expected,) = runner.infer({runner.inputs[0].name: batch}).values()
    np.testing.assert_array_equal(got, expected)


def test_classes_and_confidences(bundle_file, images):
    with edgeres.Session(bundle_file) as session:
        found = session.classify(images, top=3)
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        logits = session.infer(batch).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [answers[0].label for answers in found] == [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
    ]
    for row, answers in zip(shares, found, strict=True):
        assert [a.index for a in answers] == np.argsort(-row)[:3].tolist()
        assert [a.confidence for a in answers] == pytest.approx(np.sort(row)[::-1][:3])


def test_paths_images_and_arrays_are_one(bundle_file, images):
    pixels = np.asarray(Image.open(images[1]))
    colour = Image.open(images[1]).convert("RGB")
    with edgeres.Session(bundle_file, batch_size=2) as session:
        found = session.classify([images[1], str(images[1]), colour, pixels], top=1)
        assert len(set(found)) == 1
        assert session.classify([], top=1) == []


def test_more_images_than_a_batch_come_in_order(bundle_file, images):
    many = [images[index % 4] for index in range(37)]
    with edgeres.Session(bundle_file, batch_size=5, pool=2) as session:
        found = session.classify(many, top=1)
        single = [session.classify([path], top=1)[0] for path in images]
        firsts = list(zip(session.stream(many, top=1), range(3), strict=False))
    assert [f[0].index for f in found] == [single[index % 4][0].index for index in range(37)]
    assert len(firsts) == 3


def test_infer_keeps_within_what_the_engine_takes(bundle_file, images, monkeypatch):
    with edgeres.Session(bundle_file, target=TARGETS[0]) as session:
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in (images * 2)[:7]])
        expected, sizes = session.infer(batch), []
        runner = session._runners[0]
        infer = runner.infer
        monkeypatch.setattr(type(runner), "batch_limits", BatchLimits(2, 3))
        monkeypatch.setattr(
            runner,
            "infer",
            lambda feeds: (sizes.append(*map(len, feeds.values())), infer(feeds))[1],
        )
        np.testing.assert_allclose(session.infer(batch), expected, rtol=1e-5)
        assert sizes == [3, 3, 2]


def test_any_thread_may_call(bundle_file, images, target):
    with edgeres.Session(bundle_file, target=target, pool=2, threads=1) as session:
        batches = [session.preprocess.apply(decode_file(path))[None] for path in images]
        expected = [session.infer(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(session.infer, batches * 25))
    for index, scores in enumerate(got):
        np.testing.assert_array_equal(scores, expected[index % 4])


def test_async_calls(bundle_file, images):
    async def main(session):
        batch = session.preprocess.apply(decode_file(images[2]))[None]
        scores, answers = await asyncio.gather(
            session.infer_async(batch), session.classify_async(images, top=1)
        )
        return scores, answers, session.infer(batch)

    with edgeres.Session(bundle_file) as session:
        scores, answers, expected = asyncio.run(main(session))
    np.testing.assert_array_equal(scores, expected)
    assert answers[3][0].label == "Dress"


def test_decoding_goes_on_while_the_engine_runs(bundle_file, images, monkeypatch):
    running = threading.Event()
    overlapped = []
    with edgeres.Session(bundle_file, batch_size=1) as session:
        infer, fit = session.infer, type(session.preprocess).fit

        def slow(batch):
            running.set()
            time.sleep(0.05)
            scores = infer(batch)
            running.clear()
            return scores

        def watched(self, image):
            overlapped.append(running.is_set())
            return fit(self, image)

        monkeypatch.setattr(session, "infer", slow)
        monkeypatch.setattr(type(session.preprocess), "fit", watched)
        session.classify([images[0]] * 60, top=1)
    assert any(overlapped)


def test_wrong_inputs_are_named(bundle_file, images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no jpeg")
    with edgeres.Session(bundle_file) as session:
        with pytest.raises(DataError, match="shape"):
            session.infer(np.zeros((1, 3, 28, 28), np.float32))
        with pytest.raises(DataError, match=r"broken\.jpg"):
            session.classify([images[0], tmp_path / "broken.jpg"])
        with pytest.raises(DataError, match="uint8"):
            session.classify([np.zeros((28, 28), np.float32)])
        with pytest.raises(UsageError, match="at least one class"):
            session.classify(images, top=0)
        assert len(session.classify(images, top=99)[0]) == 10
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.infer(np.zeros((1, 1, 28, 28), np.float32))
    for wrong in ({"pool": 0}, {"batch_size": 0}, {"target": "tpu"}):
        with pytest.raises(UsageError):
            edgeres.Session(bundle_file, **wrong)


def test_engine_files_are_gone_after_loading(bundle_file, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with edgeres.Session(bundle_file):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        edgeres.Session(bundle_file, target="none")
    assert list(tmp_path.iterdir()) == []


def test_another_preprocessing_fails_the_self_test(changed, images):
    def swap(manifest, files):
        manifest["preprocess"]["mean"] = [0.9]

    with pytest.raises(GateError, match="self-test gives other answers"):
        edgeres.Session(changed(swap))


def test_clipped_sums_fail_the_self_test(changed, bundle_file):
    """Pairs of INT8 products clipped to int16 leave 15 dB, as on a CPU without VNNI."""

    def clip(manifest, files):
        for entry in manifest["engines"].values():
            scores = np.array(json.loads(files[entry["expected"]])["scores"])
            noise = np.random.default_rng(0).standard_normal(scores.shape)
            noise *= np.sqrt(np.square(scores).sum() / np.square(noise).sum() / 10**1.58)
            files[entry["expected"]] = json.dumps({"scores": (scores + noise).tolist()}).encode()

    path = changed(clip)
    with pytest.raises(GateError, match=r"SQNR 1[56]\."):
        edgeres.Session(path)
    with pytest.raises(GateError, match=r"SQNR 1[56]\."):
        edgeres.Session(path, trial=True)
    with edgeres.Session(path, self_test=False) as session:
        assert session.self_test is None


def test_engines_of_one_network_agree_better_than_the_limit(output, bundle_file, images):
    if len(TARGETS) < 2:
        pytest.skip("needs two runtimes")
    found = []
    for name in TARGETS:
        with edgeres.Session(bundle_file, target=name) as session:
            batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
            found.append(session.infer(batch).astype(float))
    sqnr = 10 * np.log10(np.square(found[0]).sum() / np.square(found[0] - found[1]).sum())
    assert sqnr > 30


def _newer(manifest, files):
    """As if a later version of every runtime had built the engines."""
    for entry in manifest["engines"].values():
        for name in entry["files"]:
            if name.endswith(".engine.json"):
                sidecar = json.loads(files[name])
                sidecar["versions"] = dict.fromkeys(sidecar["versions"], "9999.1")
                files[name] = json.dumps(sidecar).encode()


def test_an_engine_of_a_later_runtime_is_refused_and_can_be_rebuilt(changed, images, target):
    path = changed(_newer)
    with pytest.raises(ArtefactError, match=r"built with .* 9999.1, here is .*--rebuild"):
        edgeres.Session(path, target=target)
    with edgeres.Session(path, target=target, rebuild=True) as session:
        assert session.rebuilt
        assert session.classify(images, top=1)[1][0].label == "Trouser"


def test_an_engine_that_does_not_load_can_be_rebuilt(changed, target, images):
    def damage(manifest, files):
        """Another file than was built, with all hashes right: the runtime itself refuses it."""
        import hashlib

        entry = manifest["engines"][target]
        if entry["qdq"] == entry["engine"]:
            entry["qdq"] = "qdq.onnx"
            files["qdq.onnx"] = files[entry["engine"]]
        name = entry["engine"]
        files[name] = b"<net/>"
        side = json.loads(files[f"{name}.engine.json"])
        place = side["files"][name.rpartition("/")[2]]
        place["sha256"] = hashlib.sha256(files[name]).hexdigest()
        place["size_bytes"] = len(files[name])
        files[f"{name}.engine.json"] = json.dumps(side).encode()

    path = changed(damage)
    with pytest.raises(ArtefactError, match="cannot load it"):
        edgeres.Session(path, target=target)
    with edgeres.Session(path, target=target, rebuild=True) as session:
        assert session.rebuilt


def test_a_cpu_whose_sums_overflow_is_refused_unless_weights_are_safe(changed, monkeypatch):
    from dataclasses import replace

    from edgeres.environment import Environment

    name = TARGETS[0]
    backend = get_backend(name)
    rules = replace(backend.qdq_rules("cpu"), saturating=True)
    monkeypatch.setattr(Environment, "int8_dot_products", False)
    monkeypatch.setattr(type(backend), "qdq_rules", lambda self, device: rules)

    def built_elsewhere(manifest, files):
        manifest["engines"][name] |= {"saturating": False, "saturation_safe": False}

    path = changed(built_elsewhere)
    with pytest.raises(BackendMissingError, match="overflow"):
        edgeres.Session(path, target=name)
    with pytest.raises(BackendMissingError, match="rebuild does not help"):
        edgeres.Session(path, target=name, rebuild=True)
    safe = changed(lambda manifest, files: manifest["engines"][name].update(saturation_safe=True))
    edgeres.Session(safe, target=name).close()


def test_a_missing_runtime_is_named_with_its_cure(bundle_file, monkeypatch):
    for name in TARGETS:
        monkeypatch.setattr(type(get_backend(name)), "missing", lambda self: "not installed here.")
    with pytest.raises(BackendMissingError, match="no engine can run here"):
        edgeres.Session(bundle_file)


def _endless(path: Path) -> bytes:
    """A valid network whose loop takes longer than anyone waits."""
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    constants = {
        "turns": np.array(2**60, np.int64),
        "true": np.array(True),
        "axes": np.array([1, 2, 3], np.int64),
        "ones": np.ones((1, 10), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["turns", "true", "input"], ["looped"], body=body),
            helper.make_node("ReduceMean", ["looped", "axes"], ["mean"], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Mul", ["column", "ones"], ["scores"]),
        ],
        "endless",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (constants | {"last": np.array([1], np.int64)}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def test_an_engine_that_hangs_is_stopped(changed, tmp_path, monkeypatch):
    if "onnxruntime" not in TARGETS:
        pytest.skip("needs onnxruntime")
    import hashlib

    def hang(manifest, files):
        entry = manifest["engines"]["onnxruntime"]
        name = entry["engine"]
        files[name] = _endless(tmp_path)
        side = json.loads(files[f"{name}.engine.json"])
        side["files"]["model.onnx"] = {
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "size_bytes": len(files[name]),
        }
        files[f"{name}.engine.json"] = json.dumps(side).encode()

    monkeypatch.setattr("edgeres.bundling.selftest.TRIAL_SECONDS", 4.0)
    started = time.monotonic()
    with pytest.raises(StageError, match="did not end within its limit of 4 s"):
        edgeres.Session(changed(hang), target="onnxruntime", trial=True)
    assert time.monotonic() - started < 30


BLOCKED = ("torch", "onnx", "onnx_ir", "onnxscript", "scipy", "rich", "safetensors", "filelock")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
"""


def test_runs_where_torch_and_all_tools_are_missing(bundle_file, images, target):
    code = BLOCKER + (
        "from edgeres.cli import main\n"
        f"sys.argv = ['edgeres', 'run', '--trust', '--json', '--target', {target!r}, "
        f"{str(bundle_file)!r}, {str(images[1])!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == target
    assert found["images"][0]["answers"][0]["label"] == "Trouser"


def test_a_real_photograph_gets_labels_and_confidence(bundle_file, tmp_path):
    from typer.testing import CliRunner

    from edgeres.cli import app

    photograph = tmp_path / "photo.jpg"
    rng = np.random.default_rng(1)
    low = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(low).resize((28, 28), Image.Resampling.BICUBIC).save(photograph)
    result = CliRunner().invoke(app, ["run", str(bundle_file), str(photograph), "--top", "2"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == str(photograph)
    assert len(lines) == 3
    assert all("%" in line for line in lines[1:])


def test_errors_of_the_command_are_one_line_with_their_code(bundle_file, tmp_path):
    from typer.testing import CliRunner

    from edgeres.cli import app

    (tmp_path / "no.edgeres").write_bytes(b"no bundle")
    image = asset_path("calibration", "README.md")
    for arguments, code in (
        (["run", tmp_path / "none", image], 3),
        (["run", tmp_path / "no.edgeres", image], 3),
        (["run", bundle_file, image], 3),
        (["run", bundle_file, image, "--target", "tpu"], 2),
        (["run", bundle_file, image, "--key", image], 2),
        (["bundle", tmp_path], 3),
    ):
        result = CliRunner().invoke(app, [str(part) for part in arguments])
        assert result.exit_code == code, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.output
