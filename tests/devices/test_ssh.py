"""Benchmarks and validation over a real SSH connection, which is also cut and lied to."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgeres
from edgeres.cli import app
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.devices.address import parse_ssh
from edgeres.devices.remote import benchmark_on, pack, predict_on
from edgeres.devices.runtime import runtime_archive
from edgeres.devices.ssh import run_on
from edgeres.errors import BackendMissingError, StorageError, UsageError
from edgeres.evaluation.validate import validate
from edgeres.tasks import open_task

from ..tones import LOG_MEL, write_tones


@pytest.fixture
def images() -> ArrayDataset:
    """Pictures whose label is the brightest channel, which is what the engine answers."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    pixels = rng.integers(0, 100, (30, 64, 64, 3), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., label] += 100
    return ArrayDataset("channels", pixels, labels.astype(np.int64))


@pytest.mark.parametrize("package", ["edgeres", "torch", "onnx", "typer", "rich", "pydantic"])
def test_the_device_of_these_tests_is_bare(sshd, package: str) -> None:
    done = subprocess.run(
        [sshd.device().python, "-c", f"import numpy, PIL, onnxruntime, {package}"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert f"No module named '{package}'" in done.stderr


def test_benchmark_runs_there(sshd, engine) -> None:
    found = benchmark_on(sshd.device(), [engine], threads=1, seconds=0.2)
    part = found["engines"][str(engine)]
    assert part["latency_ms"]["p50"] > 0
    assert part["backend"] == "onnxruntime"
    assert found["device"].startswith("ssh://")
    assert found["environment"]["versions"]["edgeres"] == edgeres.__version__
    assert part["peak_memory_bytes"] > 0  # measured in a child process there
    runtime = hashlib.sha256(runtime_archive()).hexdigest()
    assert (sshd.home / ".cache/edgeres/files" / runtime).is_file()
    runs = list((sshd.home / ".cache/edgeres").glob("run-*"))
    assert runs == []  # nothing is left behind but the store


def test_answers_are_those_given_here(sshd, engine, images) -> None:
    preprocess = Preprocess(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    here = validate(engine, images, preprocess, baseline=engine)
    there = predict_on(sshd.device(), engine, images, preprocess)
    assert np.array_equal(there.logits, here.predictions.logits)
    assert there.data_fingerprint == images.fingerprint
    judged = validate(engine, images, preprocess, baseline=here.predictions, answered=there)
    assert judged.comparison.agreement == 1.0


@pytest.mark.parametrize("name", ["outputs", "classification"])
def test_another_task_is_judged_here(sshd, engine, images, name: str) -> None:
    task, preprocess = open_task(name), Preprocess(scale=1 / 255)
    here = validate(engine, images, preprocess, task=task, baseline=engine)
    there = predict_on(sshd.device(), engine, images, preprocess, task=task)
    assert there.data_fingerprint == images.fingerprint
    judged = validate(
        engine, images, preprocess, task=task, baseline=here.predictions, answered=there
    )
    assert judged.comparison.outputs == here.comparison.outputs
    assert judged.comparison.metrics == here.comparison.metrics


@pytest.mark.parametrize("name", [None, "classification"])
def test_features_and_sounds_travel_as_the_network_takes_them(sshd, engine, tmp_path, name) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(30, 3, 64, 64)).astype(np.float32)
    labels = np.arange(30) % 3
    inputs[np.arange(30), labels] += 0.5
    np.savez(tmp_path / "features.npz", inputs=inputs, labels=labels)
    features = edgeres.open_dataset(f"tensors:{tmp_path}/features.npz", split="validation")
    task, preprocess = None if name is None else open_task(name), Preprocess(features=True)
    here = validate(engine, features, preprocess, task=task, baseline=engine)
    there = predict_on(sshd.device(), engine, features, preprocess, task=task)
    judged = validate(
        engine, features, preprocess, task=task, baseline=here.predictions, answered=there
    )
    assert there.data_fingerprint == features.fingerprint
    if name is None:
        assert judged.comparison.agreement == 1.0
        assert (there.logits.argmax(1) == labels).all()
    else:
        assert judged.comparison.metrics == here.comparison.metrics


def test_of_a_sound_its_spectrogram_travels(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="the extra audio is not installed")
    sounds = edgeres.open_dataset(str(write_tones(tmp_path, train=1, val=2)), split="validation")
    mel = Preprocess(log_mel=LOG_MEL, channels=1, mean=(-4.0,), std=(4.0,))  # type: ignore[arg-type]
    packed = np.load(io.BytesIO(pack(sounds, mel, None)), allow_pickle=False)
    assert np.array_equal(packed["samples"][3], mel.apply(sounds.image(3)))
    assert packed["labels"].tolist() == sounds.labels.tolist()
    told = Preprocess.from_json(packed["preprocess"].tobytes().decode())
    assert told.features
    assert told.log_mel is None
    places = np.load(io.BytesIO(pack(sounds, mel, None, places=True)), allow_pickle=False)
    assert places["labels"].tolist() == list(range(6))


def test_a_cut_upload_goes_on_where_it_stopped(sshd, relay, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(np.random.default_rng(1).bytes(12 << 20))
    relay.cut_after = 6 << 20
    told: list[str] = []
    done = asyncio.run(
        run_on(
            sshd.device(relay.port),
            {"big": big},
            ["sha256sum", "big"],
            seconds=30,
            say=told.append,
        )
    )
    assert done.code == 0
    assert done.out.split()[0].decode() == hashlib.sha256(big.read_bytes()).hexdigest()
    assert relay.connections == 2
    assert len(told) == 1
    # The second time nothing is sent: a cut after 1 MiB is never reached.
    relay.cut_after = 1 << 20
    asyncio.run(run_on(sshd.device(relay.port), {"big": big}, ["true"], seconds=30))
    assert relay.connections == 3


def upload(device, file: Path) -> None:
    asyncio.run(run_on(device, {"big": file}, ["true"], seconds=30))


def test_a_full_disk_there_is_said_before_anything_is_sent(sshd, mount, tmp_path: Path) -> None:
    disk = mount("size=4m")
    device = replace(sshd.device(), store=str(disk / "store"))
    big = tmp_path / "big"
    big.write_bytes(bytes(6 << 20))
    with pytest.raises(StorageError, match="no space left at the host: 6291456 more") as caught:
        upload(device, big)
    assert caught.value.exit_code == 6
    assert [file for file in disk.rglob("*") if file.is_file()] == []
    # It fits into the store, and not a second time into the folder of the run.
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    with pytest.raises(StorageError, match="No space left on device"):
        upload(device, big)
    assert list((disk / "store").glob("run-*")) == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    upload(device, big)


def test_a_disk_there_that_fills_up_meanwhile_is_named(
    sshd, mount, monkeypatch, tmp_path: Path
) -> None:
    disk = mount("size=80m")
    device = replace(sshd.device(), store=str(disk / "store"))
    big = tmp_path / "big"
    big.write_bytes(bytes(64 << 20))
    filler = disk / "filler"

    import asyncssh

    write = asyncssh.SFTPClientFile.write

    async def fill_and_write(self, data, offset):
        if offset and not filler.exists():
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 32 << 20)  # half of it is still to come
        return await write(self, data, offset)

    monkeypatch.setattr(asyncssh.SFTPClientFile, "write", fill_and_write)
    with pytest.raises(StorageError, match="no space left at the host"):
        upload(device, big)
    assert filler.stat().st_size == 32 << 20
    assert list(disk.rglob("*.part")) == []  # a full disk is not left full


def test_a_kept_file_that_was_damaged_is_sent_anew(sshd, engine, images) -> None:
    preprocess = Preprocess(scale=1 / 255)
    first = predict_on(sshd.device(), engine, images, preprocess)
    kept = sshd.home / ".cache/edgeres/files" / hashlib.sha256(runtime_archive()).hexdigest()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    again = predict_on(sshd.device(), engine, images, preprocess)
    assert kept.read_bytes() == whole
    assert again.digest == first.digest


def test_a_cut_run_is_not_run_twice(sshd, relay, tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo run >> {count}; sleep 3; echo done"

    async def both() -> object:
        run = asyncio.create_task(
            run_on(sshd.device(relay.port), {}, ["sh", "-c", script], seconds=30)
        )
        while not count.exists():
            await asyncio.sleep(0.05)
        relay.cut()
        return await run

    done = asyncio.run(both())
    assert done.out == b"done\n"
    assert count.read_text() == "run\n"
    assert relay.connections == 2


def test_a_changed_host_key_is_refused(sshd, tmp_path: Path, engine) -> None:
    key = (sshd.folder / "other_key.pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(key)}\n")
    device = parse_ssh(
        f"ssh://127.0.0.1:{sshd.port}", known_hosts=known, identity=sshd.folder / "user_key"
    )
    with pytest.raises(BackendMissingError, match="host key"):
        benchmark_on(device, [engine])
    known.write_text("")  # an unknown key is no better
    with pytest.raises(BackendMissingError, match="host key"):
        benchmark_on(device, [engine])


def test_strangers_and_absent_hosts_are_told_apart(sshd, engine, tmp_path: Path) -> None:
    with pytest.raises(BackendMissingError, match="login was refused"):
        benchmark_on(replace(sshd.device(), identity=sshd.folder / "other_key"), [engine])
    with pytest.raises(BackendMissingError, match="cannot be reached"):
        benchmark_on(sshd.device(port=1), [engine])
    with pytest.raises(BackendMissingError, match="cannot run edgeres there"):
        benchmark_on(replace(sshd.device(), python="/nowhere/python"), [engine])


def test_errors_there_are_the_same_errors_here(sshd, engine, images) -> None:
    wrong = Preprocess(scale=1.0, crop=32)
    from edgeres.errors import DataError

    with pytest.raises(DataError, match=r"ssh://.*the engine takes images"):
        predict_on(sshd.device(), engine, images, wrong)


def test_a_fleet_gives_one_table_and_a_dead_device_does_not_stop_it(
    sshd, engine, tmp_path: Path
) -> None:
    device = sshd.device()
    common = f"known_hosts: {device.known_hosts}, identity: {device.identity}"
    (tmp_path / "fleet.yaml").write_text(
        "devices:\n"
        f"  near: {{address: '{device.name}', python: {device.python}, threads: 1, {common}}}\n"
        f"  dead: {{address: 'ssh://127.0.0.1:1', {common}}}\n"
        "  here: {address: local, threads: 1}\n"
    )
    command = [
        "benchmark",
        str(engine),
        "--fleet",
        str(tmp_path / "fleet.yaml"),
        "--seconds",
        "0.2",
    ]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 4, result.output
    told = json.loads(result.stdout)["devices"]
    assert list(told) == ["near", "dead", "here"]
    for name in ("near", "here"):
        assert told[name]["engines"][str(engine)]["latency_ms"]["p50"] > 0
    assert told["dead"]["error"]["id"] == "backend-missing"


@pytest.mark.parametrize(
    "address",
    ["ssh://", "ssh://u:secret@h", "ssh://h/path", "ssh://h:99999", "http://h", "ssh://-oProxy"],
)
def test_addresses_that_make_no_sense(address: str) -> None:
    with pytest.raises(UsageError, match="ssh://"):
        parse_ssh(address)


def test_addresses() -> None:
    device = parse_ssh("ssh://me@[::1]:2222")
    assert (device.host, device.port, device.user) == ("::1", 2222, "me")
    assert device.name == "ssh://me@[::1]:2222"
    assert parse_ssh("ssh://board").name == "ssh://board"


@pytest.mark.slow
def test_times_there_are_those_of_here(sshd, tmp_path: Path) -> None:
    """On a quiet machine; the engine takes some milliseconds a run, so that noise is small."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgeres.backends import get_backend
    from edgeres.backends.base import BuildConfig
    from edgeres.benchmarking.benchmark import benchmark
    from edgeres.benchmarking.latency import MeasureSettings

    weight = np.random.default_rng(0).standard_normal((64, 3, 7, 7)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[3] * 4),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["y"], "flat"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 160, 160])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "source.onnx")
    path = tmp_path / "model.onnx"
    get_backend("onnxruntime").build(tmp_path / "source.onnx", path, BuildConfig())
    here = benchmark([path], threads=1, settings=MeasureSettings(seconds=3.0)).engines[str(path)]
    there = benchmark_on(sshd.device(), [path], threads=1, seconds=3.0)["engines"][str(path)]
    ratio = there["latency_ms"]["p50"] / here.latency.p50_ms
    print(f"p50 here {here.latency.p50_ms:.3f} ms, over SSH {there['latency_ms']['p50']:.3f} ms")
    assert 0.9 < ratio < 1.1
