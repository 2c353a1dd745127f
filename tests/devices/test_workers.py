"""Validation by several workers: the same digits, also when one of them is killed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeres
from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.data.bad_images import BadImages
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.devices import dask_wait
from edgeres.devices import workers as cluster
from edgeres.devices.worker_code import CODE_SHA256
from edgeres.devices.workers import Shard, assemble, predict_sharded
from edgeres.errors import BackendMissingError, DataError, StageError, UsageError
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.predict import BATCH, predict
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import task_of
from edgeres.system.files import file_sha256
from edgeres.tasks.answers import Answers

PLAIN = Preprocess(scale=1 / 255, channels=1)
SAMPLES = 1950


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An engine and a labelled set that every worker can read."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(1)
    _engine(folder)
    np.savez(
        folder / "images.npz",
        images=rng.integers(0, 256, (SAMPLES, 16, 16), np.uint8),
        labels=rng.integers(0, 8, SAMPLES),
    )
    return folder


def _engine(folder: Path) -> Path:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["y"], "flat"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "source.onnx")
    backend.build(folder / "source.onnx", folder / "model.onnx", BuildConfig())
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def alone(place: Path):
    """The answers of one process."""
    engine = read_engine(place / "model.onnx")
    dataset = open_dataset(f"npz:{place / 'images.npz'}", split="validation")
    with executable_backend(engine).load(engine, BuildConfig(threads=1)) as runner:
        return predict(runner, dataset, PLAIN, batch_size=BATCH, name=str(engine.path),
                       model_sha256=engine.source_sha256)  # fmt: skip


def _run(place: Path, **options):
    return predict_sharded(
        place / "model.onnx", f"npz:{place / 'images.npz'}", PLAIN, shard=BATCH, **options
    )


def test_two_workers_give_the_same_digits(place, alone) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    steps: list[int] = []
    found = _run(place, workers=2, progress=lambda done, total: steps.append(done))
    assert found.digest == alone.digest
    assert steps[-1] == SAMPLES
    assert len(steps) == -(-SAMPLES // BATCH)


def test_a_killed_worker_changes_nothing(place, alone, monkeypatch) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    killed: list[int] = []
    kept = cluster.assemble
    seen: list[Shard] = []

    def watch(parts, *rest):
        seen.extend(parts)
        return kept(parts, *rest)

    monkeypatch.setattr(cluster, "assemble", watch)

    found = _run(place, workers=2, progress=lambda done, total: _kill_one(killed, done))
    assert killed
    assert found.digest == alone.digest
    assert sorted(part.start for part in seen) == list(range(0, SAMPLES, BATCH))


def _kill_one(killed: list[int], done: int) -> None:
    """Kills a worker process after the first shards."""
    if killed or done < 2 * BATCH:
        return
    from distributed import get_client

    pids = list(get_client().run(os.getpid).values())
    killed.append(pids[0])
    os.kill(pids[0], signal.SIGKILL)


def _shard(start: int, stop: int, *, left_out: tuple[str, ...] = (), missing: int = 0) -> Shard:
    count = stop - start - len(left_out) - missing
    found = Predictions(np.zeros((count, 8), np.float32), np.zeros(count, np.int64))
    return Shard(start, stop, found, dict.fromkeys(left_out, "cut."), 1, CODE_SHA256)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([(0, 100), (200, SAMPLES)], "from 100 on are missing"),
        ([(0, 100), (0, 100), (100, SAMPLES)], "there twice"),
        ([(0, 100)], "from 100 on are missing"),
        ([(100, SAMPLES)], "from 0 on are missing"),
    ],
)
def test_gaps_and_doubles_are_errors(place, parts, told: str) -> None:
    dataset = open_dataset(f"npz:{place / 'images.npz'}", split="validation")
    engine = read_engine(place / "model.onnx")
    with pytest.raises(StageError, match=told):
        assemble([_shard(*part) for part in parts], dataset, engine, None)
    with pytest.raises(StageError, match="answered 3 of"):
        assemble([_shard(0, SAMPLES, missing=SAMPLES - 3)], dataset, engine, None)


def test_images_left_out_are_counted_over_all_shards(place) -> None:
    dataset = open_dataset(f"npz:{place / 'images.npz'}", split="validation")
    engine = read_engine(place / "model.onnx")
    skipped = BadImages()
    found = assemble([_shard(0, SAMPLES, left_out=("a",))], dataset, engine, skipped)
    assert found.samples == SAMPLES - 1
    assert skipped.reasons == {"a": "cut."}
    many = _shard(0, SAMPLES, left_out=tuple(map(str, range(30))))
    with pytest.raises(DataError, match=r"at most 1\.00%"):
        assemble([many], dataset, engine, BadImages())


def test_a_shard_of_bad_images_alone_is_told_as_such(tmp_path) -> None:
    """A worker that decodes nothing names what it left out, and does not fail."""
    for label in "01":
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.png").write_bytes(b"no image")
    data = f"imagefolder:{tmp_path}"
    path = _engine(tmp_path)
    job = cluster.Job(
        str(path), file_sha256(path), data, open_dataset(data, split="validation").fingerprint,
        PLAIN, 1,
    )  # fmt: skip
    part = cluster.answer_shard(job, 0, 2, True)
    assert (part.answered, len(part.left_out)) == (0, 2)
    with pytest.raises(DataError, match=r"0\.png"):
        cluster.answer_shard(job, 0, 2, False)


def test_another_task_is_shared_out_as_classes_are(place, tmp_path) -> None:
    """Its rows, the user's own score among them, are those of one process."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    own = tmp_path / "own.py"
    own.write_text("def score(outputs, targets):\n    return outputs['y'].max(axis=1)\n")
    said = [{"name": "custom", "function": f"{own}:score"}]
    engine = read_engine(place / "model.onnx")
    task = task_of(said)
    assert task is not None
    with executable_backend(engine).load(engine, BuildConfig(threads=1)) as runner:
        whole = answer_set(
            runner, open_dataset(f"npz:{place / 'images.npz'}", split="validation"), PLAIN, task,
            batch_size=BATCH, name=str(engine.path), model_sha256=engine.source_sha256,
        )  # fmt: skip
    found = _run(place, workers=2, task=said)
    assert isinstance(found, Answers)
    assert found.digest == whole.digest


def test_other_data_or_engine_at_a_worker_is_refused(place, tmp_path) -> None:
    job = cluster.Job(
        str(place / "model.onnx"), "00", f"npz:{place / 'images.npz'}", "11", PLAIN, 1
    )
    with pytest.raises(DataError, match="other images"):
        cluster._dataset(job)
    with pytest.raises(Exception, match="another engine"):
        cluster._runner(job)


def test_a_worker_with_other_code_is_refused(place, tmp_path) -> None:
    """A real worker that imports a copy of edgeres in which one line differs."""
    dask = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    other = tmp_path / "other" / "edgeres"
    shutil.copytree(Path(edgeres.__file__).parent, other, ignore=shutil.ignore_patterns("*.pyc"))
    changed = other / "evaluation" / "predict.py"
    changed.write_text(changed.read_text() + "\n# another revision\n")
    quiet = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with dask.LocalCluster(n_workers=0, **quiet) as hub, dask.Client(hub) as client:
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", hub.scheduler_address,
             "--nthreads", "1", "--no-nanny", "--no-dashboard"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(other.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            client.wait_for_workers(1, timeout=60)
            with pytest.raises(StageError, match=r"worker .* runs another edgeres") as caught:
                _run(place, scheduler=hub.scheduler_address)
        finally:
            worker.terminate()
            worker.wait()
    assert caught.value.exit_code == 5


def test_a_shard_of_other_code_is_refused(place) -> None:
    dataset = open_dataset(f"npz:{place / 'images.npz'}", split="validation")
    engine = read_engine(place / "model.onnx")
    old = _shard(0, SAMPLES)
    object.__setattr__(old, "code_sha256", "0ld")
    with pytest.raises(StageError, match="runs another edgeres"):
        assemble([old], dataset, engine, None)
    job = cluster.Job("engine", "00", "data", "11", PLAIN, 1, code_sha256="f00")
    with pytest.raises(StageError, match=r"client of this worker runs another edgeres \(f00"):
        cluster.answer_shard(job, 0, 1, False)


def test_numbers_and_schedulers_that_make_no_sense(place, monkeypatch) -> None:
    with pytest.raises(UsageError, match="shards"):
        predict_sharded(place / "model.onnx", f"npz:{place / 'images.npz'}", PLAIN, shard=150)
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with pytest.raises(BackendMissingError, match="no dask scheduler"):
        _run(place, scheduler="tcp://127.0.0.1:1")


@pytest.fixture
def hub(place, monkeypatch):
    """A scheduler in a process of its own, and a function that starts a worker of it."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr(dask_wait, "LOST_S", 3.0)
    started: list[subprocess.Popen[bytes]] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def start(*words: str) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *words, "--no-dashboard"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return started[-1]

    port = address.rpartition(":")[2]
    scheduler = start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port)
    worker = start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny")
    try:
        with socket.socket() as probe:
            limit = time.monotonic() + 60
            while probe.connect_ex(("127.0.0.1", int(port))):
                assert time.monotonic() < limit
                time.sleep(0.1)
        from distributed import Client

        with Client(address, timeout=30) as client:
            client.wait_for_workers(1, timeout=60)
        yield address, scheduler, worker
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("who", ["every worker", "the scheduler"])
def test_the_end_of_the_only_worker_or_the_scheduler_is_told(place, hub, who: str) -> None:
    address, scheduler, worker = hub
    killed: list[float] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(time.monotonic())
            (worker if who == "every worker" else scheduler).kill()

    with pytest.raises(StageError, match=f"{who} ended while images"):
        _run(place, scheduler=address, progress=kill)
    assert time.monotonic() - killed[0] < 100


def test_a_worker_that_does_not_answer_has_a_limit(place, hub, monkeypatch) -> None:
    address, _, worker = hub
    monkeypatch.setattr(dask_wait, "ASK_S", 2.0)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StageError, match="dask does not answer within 2 s: what its workers"):
            _run(place, scheduler=address)
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_a_port_that_takes_connections_and_says_nothing_has_a_limit(place, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(BackendMissingError, match="no dask scheduler answers there"):
            predict_sharded(
                place / "model.onnx", f"npz:{place / 'images.npz'}", PLAIN, scheduler=address
            )
        assert time.monotonic() - begin < 60
