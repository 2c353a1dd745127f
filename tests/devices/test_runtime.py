"""The file that a device runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.sidecar import read_engine
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.devices import runtime
from edgeres.devices.framing import unframed
from edgeres.devices.raw_answers import judged_at_home
from edgeres.devices.remote import pack
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.predictions import load_predictions
from edgeres.tasks import open_task
from edgeres.tasks.answers import load_answers

from .conftest import bare_packages


def test_equal_code_gives_equal_bytes(tmp_path) -> None:
    first = runtime.runtime_archive()
    assert runtime.write_runtime(tmp_path).read_bytes() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        packages = {name.split("/")[1] for name in archive.namelist() if name.count("/") > 1}
    assert packages == set(runtime.PACKAGES)
    assert len(first) < 2 << 20


def test_a_bad_engine_there_is_an_error_in_json(tmp_path) -> None:
    program = runtime.write_runtime(tmp_path)
    request = {"engines": ["no.onnx"], "batch_size": 1, "threads": 1, "seconds": 1.0}
    done = subprocess.run(
        [sys.executable, "-I", program, "benchmark", json.dumps({**request, "sustained_s": None})],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stderr
    assert "no.onnx" in unframed(done.stdout.encode())["error"]["message"]


def test_a_python_that_is_too_old_is_told(tmp_path, monkeypatch, capsys) -> None:
    with zipfile.ZipFile(runtime.write_runtime(tmp_path)) as archive:
        code = archive.read("__main__.py")
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit) as ended:
        exec(compile(code, "__main__.py", "exec"), {})
    assert ended.value.code == 4
    told = unframed(capsys.readouterr().out.encode())["error"]
    assert told["message"] == "Python is 3.9 there."


@pytest.mark.parametrize("name", ["answer", "raw", "benchmark"])
def test_it_runs_where_little_is_installed(engine, tmp_path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    images[np.arange(30), ..., np.arange(30) % 3] //= 4  # else all are of one class
    dataset = ArrayDataset("noise", images, np.arange(30) % 3)
    (tmp_path / "images.npz").write_bytes(pack(dataset, Preprocess(), None, places=name == "raw"))
    request = {
        "answer": {"engine": str(engine), "images": "images.npz", "answers": "answers.npz",
                   "threads": 1, "raw": name == "raw"},
        "benchmark": {"engines": [str(engine)], "batch_size": 1, "threads": 1, "seconds": 0.1,
                      "sustained_s": None},
    }["answer" if name == "raw" else name]  # fmt: skip
    command = [sys.executable, "-S", runtime.write_runtime(tmp_path)]
    command += ["answer" if name == "raw" else name, json.dumps(request)]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(bare_packages(tmp_path / "packages"))},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: this machine is busy
    if name == "answer":
        assert load_predictions(tmp_path / "answers.npz").logits.shape == (30, 3)
    elif name == "raw":  # the verdict is made where the targets are
        task = open_task("classification")
        whole = load_answers(tmp_path / "answers.npz")
        assert whole.rows["place"].tolist() == list(range(30))
        judged = judged_at_home(whole, task, dataset, Preprocess())
        with get_backend("onnxruntime").load(read_engine(engine), BuildConfig()) as runner:
            here = answer_set(runner, dataset, Preprocess(), task)
        assert judged.rows.keys() == here.rows.keys()
        assert all((judged.rows[key] == here.rows[key]).all() for key in here.rows)
    else:
        assert str(engine) in unframed(done.stdout.encode())["engines"]
