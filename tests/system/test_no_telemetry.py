"""Nothing is looked up, sent, or left in the home folder by what edgeres imports and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import edgeres
from edgeres.backends import get_backend, target_names
from edgeres.devices.runtime import write_runtime
from edgeres.system.no_telemetry import VARIABLES, disable_telemetry, without_telemetry

COMMAND = "from edgeres.cli import main; main()"
MLFLOW = "from edgeres.system.extras import import_extra\nimport_extra('mlflow')"


CALLS = "trace=connect,sendto,sendmsg,sendmmsg"


def runtimes() -> list[str]:
    return [name for name in target_names() if get_backend(name).not_executable() is None]


@pytest.fixture(scope="module")
def recipe(load_program, tmp_path_factory) -> Path:
    kills = load_program(Path(__file__).parents[2] / "benchmarks" / "kills.py")
    path = Path(kills.workplace(tmp_path_factory.mktemp("telemetry")))
    text = path.read_text().replace("targets: [onnxruntime]", f"targets: {runtimes()}")
    path.write_text(text)
    return path


def traced(words: list[str], folder: Path) -> tuple[list[str], list[Path]]:
    """Look-ups and connections of a program and its children; files that it left at home."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = folder / "trace"
    home, temporary = (Path(tempfile.mkdtemp(dir=folder)) for _ in range(2))
    done = subprocess.run(
        [strace, "-f", "-qq", "-o", str(trace), "-e", CALLS, sys.executable, "-c", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **{key: text for key, text in os.environ.items() if key not in VARIABLES},
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not be used here")
    assert done.returncode in (0, 1), done.stderr  # 1: a gate of a network that was not trained
    sent = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    left = [path for place in (home, temporary) for path in place.rglob("*") if path.is_file()]
    return sent, left


def test_a_whole_run_asks_nobody_and_leaves_nothing_at_home(recipe, tmp_path) -> None:
    if not runtimes():
        pytest.skip("no runtime runs here")
    Image.new("L", (28, 28), 90).save(tmp_path / "cat.png")
    assert traced([COMMAND, "convert", str(recipe), "--output", "out"], tmp_path) == ([], [])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert traced([COMMAND, "bundle", "out", "--output", "b"], tmp_path) == ([], [])
    for name, target in report["targets"].items():
        run = ["run", "b", "cat.png", "--target", name]
        benchmark = ["benchmark", f"out/{target['engine']}", "--seconds", "0.1", "--threads", "1"]
        for words in (run, benchmark):
            assert traced([COMMAND, *words], tmp_path) == ([], []), words


def test_mlflow_does_not_report_itself(tmp_path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    assert traced([MLFLOW], tmp_path) == ([], [])


def test_the_program_that_hosts_run_says_it_too(tmp_path) -> None:
    archive = write_runtime(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(archive)!r}); import edgeres, os; "
    code += (
        "print(edgeres.__file__, *(os.environ[n] for n in sorted(" + repr(set(VARIABLES)) + ")))"
    )
    bare = {key: text for key, text in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare
    )
    assert done.stdout.split()[0].startswith(str(archive))
    assert done.stdout.split()[1:] == [VARIABLES[name] for name in sorted(VARIABLES)]


def test_what_the_user_set_stays(monkeypatch) -> None:
    assert Path(edgeres.__file__).is_file()
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    disable_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_reporter_is_hidden_during_the_import_only() -> None:
    sys.modules.pop("openvino_telemetry", None)
    with without_telemetry("openvino"), pytest.raises(ImportError):
        __import__("openvino_telemetry")
    assert "openvino_telemetry" not in sys.modules
