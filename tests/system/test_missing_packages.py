"""A package that is missing is named with the extra that brings it, by whatever asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.system import extras
from edgeres.system.extras import EXTRAS, missing_package

BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from edgeres.cli import main
main()
"""


def test_only_packages_of_the_table_are_missing() -> None:
    told = missing_package(ModuleNotFoundError("no", name="torch.nn"))
    assert told is not None
    assert told.hint.endswith('"edgeres[torch]".')
    assert missing_package(ModuleNotFoundError("no", name="edgeres.nothing")) is None
    assert missing_package(ValueError("no")) is None


def test_the_table_names_extras_that_exist() -> None:
    import tomllib

    project = Path(extras.__file__).parents[2] / "pyproject.toml"
    known = set(tomllib.loads(project.read_text())["project"]["optional-dependencies"])
    assert set(EXTRAS.values()) == known - {"all", "dev", "docs"}


@pytest.fixture(scope="module")
def place(load_program, tmp_path_factory) -> Path:
    """A folder with a network, an engine of it, images, and a recipe."""
    import numpy as np

    from edgeres.backends import get_backend
    from edgeres.backends.base import BuildConfig

    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    kills = load_program(Path(__file__).parents[2] / "benchmarks" / "kills.py")
    folder = tmp_path_factory.mktemp("packages")
    kills.workplace(folder)
    backend.build(folder / "net.onnx", folder / "engine.onnx", BuildConfig())
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(100) % 10)
    (folder / "known_hosts").write_text("")
    (folder / "key.pem").write_text("no key")
    (folder / "bundle").write_text("no bundle")
    checkpoint = "model: {source: net.pt}\ntargets: [onnxruntime]\n"
    (folder / "checkpoint.yaml").write_text(checkpoint)
    (folder / "net.pt").write_bytes(b"not read")
    (folder / "net.keras").write_bytes(b"not read")
    for word in ("no", "yes"):
        (folder / "words" / word).mkdir(parents=True)
        for take in range(20):
            (folder / "words" / word / f"{take}.wav").write_bytes(b"not read")
    return folder


@pytest.mark.parametrize(
    ("packages", "command"),
    [
        (["torch"], "convert checkpoint.yaml --output out"),
        (["torch_pruning"], "convert --output out"),
        (["onnxruntime"], "convert recipe.yaml --output out"),
        (["torch"], "export net.pt --output net.onnx --size 28"),
        (["torch"], "prune net.pt --output pruned"),
        (["optuna"], "tune recipe.yaml --trials 1 --output out"),
        (["asyncssh"], "benchmark engine.onnx --device ssh://127.0.0.1:1"),
        (["mlflow"], "report out --mlflow http://127.0.0.1:1"),
        (["mlperf_loadgen"], "benchmark engine.onnx --scenario offline"),
        (["distributed"], "validate engine.onnx --baseline engine.onnx --data npz:images.npz"
                          " --mean 0.286 --std 0.353 --workers 2"),
        (["oras"], "pull 127.0.0.1:1/net:1 --output b"),
        (["cryptography"], "run bundle x.png --key key.pem"),
        (["soundfile"], "convert recipe.yaml --data audiofolder:words --output out"),
        (["keras"], "convert --model net.keras --data npz:images.npz --output out"),
        (["openvino"], "build net.onnx --target openvino --output e.xml"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.split()[0],
)  # fmt: skip
def test_every_command_says_which_extra_it_lacks(place: Path, packages, command: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(packages=packages), *command.split(), "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 4, done.stdout + done.stderr
    told = json.loads(done.stdout)["error"]
    assert told["id"] == "backend-missing"
    assert f'pip install "edgeres[{EXTRAS[packages[0]]}]"' in told["message"] + told["hint"]
    assert packages[0] in told["message"]
    assert "is not installed" in told["message"]
    assert "Traceback" not in done.stderr
    left = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert {path: before.get(path) for path in left} == left
