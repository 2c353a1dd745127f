"""The file that a device runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import pytest

from edgeres.devices import runtime
from edgeres.devices.framing import unframed


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
