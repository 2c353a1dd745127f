"""The examples in docs/deployment.md, run as they stand in the output folder of a conversion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.backends import get_backend

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def _blocks(language: str, word: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [block for block in found if word in block]


def _run(command: list[object], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(output, images, tmp_path) -> Path:
    shutil.copytree(output, tmp_path / "out", ignore=shutil.ignore_patterns(".stages"))
    shutil.copyfile(images[1], tmp_path / "out" / "image.png")
    return tmp_path / "out"


def test_python_on_the_bare_engines(folder):
    (first,) = _blocks("python", "onnxruntime")
    (second,) = _blocks("python", "openvino")
    for name in ("onnxruntime", "openvino"):
        if get_backend(name).missing() is not None:
            pytest.skip(f"needs {name}")
    assert _run([sys.executable, "-c", first + second], folder).splitlines() == ["1", "1"]


def test_python_on_a_bundle(folder, bundle_file):
    (block,) = _blocks("python", "edgeres.Session")
    shutil.copyfile(bundle_file, folder / "net.edgeres")
    for name in ("cat.jpg", "dog.png"):
        shutil.copyfile(folder / "image.png", folder / name)
    code = block.replace("(batch)", "(session.preprocess.apply(__import__('PIL.Image').Image.open("
                         "'dog.png'))[None])")  # fmt: skip
    path = os.pathsep.join(sys.path)
    printed = _run([sys.executable, "-c", code], folder, PYTHONPATH=path).splitlines()
    assert [line.split()[0] for line in printed] == ["Trouser", "Trouser"]


@pytest.mark.slow
def test_cpp_on_the_bare_engine(folder):
    openvino = pytest.importorskip("openvino")
    place = Path(openvino.__file__).parent
    libraries = sorted((place / "libs").glob("libopenvino.so*"))
    if shutil.which("g++") is None or not (place / "include").is_dir() or not libraries:
        pytest.skip("needs g++ and OpenVINO's headers")
    (source,) = _blocks("cpp", "openvino/openvino.hpp")
    (folder / "run.cpp").write_text(source)
    _run(
        ["g++", "-std=c++17", "run.cpp", "-o", "run", f"-I{place / 'include'}", libraries[0]],
        folder,
    )
    answer = _run([folder / "run"], folder, LD_LIBRARY_PATH=str(place / "libs"))
    assert answer in map(str, range(10))
