"""One real conversion of the reference network, and the bundle that is made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgeres
from edgeres.backends import get_backend, target_names
from edgeres.bundling.archive import MANIFEST, Archive, write_archive
from edgeres.system.assets import asset_path


def executable() -> list[str]:
    return [name for name in target_names() if get_backend(name).not_executable() is None]


TARGETS = [n for n in ("onnxruntime", "openvino") if get_backend(n).not_executable() is None]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Each target whose engines run on a CPU, where its runtime is here."""
    return request.param


def small_run(folder: Path, targets: list[str], quantize: str = "") -> Path:
    """A small conversion of the reference network; its output folder."""
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    shutil.copyfile(checkpoint, folder / "net.safetensors")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: small\nmodel: {{source: net.safetensors}}\ntargets: [{', '.join(targets)}]\n"
        "data: {validation_samples: 100, calibration_samples: 32}\n"
        f"gates: {{max_drop: 20}}\nbenchmark: {{seconds: 0.1}}\n{quantize}"
    )
    edgeres.convert(edgeres.load_recipe(recipe), folder / "out")
    return folder / "out"


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a small conversion for the targets that run here."""
    return small_run(tmp_path_factory.mktemp("bundling"), executable())


@pytest.fixture(scope="session")
def bundle_file(output: Path) -> Path:
    return edgeres.bundle(output, output.parent / "net.edgeres").path


@pytest.fixture(scope="session")
def images(output: Path) -> list[Path]:
    return sorted((output / "baseline" / "samples").iterdir())


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with edgeres and ONNX Runtime, and no torch."""
    repository = Path(__file__).parents[2]
    if not (repository / "pyproject.toml").is_file():
        pytest.skip("needs a checkout")
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{repository}[onnxruntime]"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"needs a package index: {installed.stderr.strip()[-300:]}")
    probe = [python, "-c", "import torch"]
    assert subprocess.run(probe, capture_output=True, check=False).returncode == 1
    return place / "bin"


Change = Callable[[dict, dict[str, bytes]], None]


@pytest.fixture
def changed(bundle_file: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """``changed(edit)``: a bundle whose manifest and files were edited, hashes made right again."""

    def make(edit: Change) -> Path:
        import hashlib

        with Archive(bundle_file) as archive:
            manifest = json.loads(archive.read(MANIFEST, limit=1 << 24))
            files = {n: archive.read(n, limit=1 << 30) for n in archive.sizes if n != MANIFEST}
        edit(manifest, files)
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for name, content in files.items()
        }
        path = tmp_path / "changed.edgeres"
        write_archive(path, json.dumps(manifest).encode(), files)
        return path

    return make
