"""Backends by name, and what loading them by name costs."""

import subprocess
import sys

import pytest

from edgeres.backends import backend_names, get_backend, target_names
from edgeres.errors import UsageError

RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch")


def test_every_backend_is_found():
    assert backend_names() == ("null", "onnxruntime", "openvino", "pytorch", "tensorrt")
    assert target_names() == ("onnxruntime", "openvino", "tensorrt")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="no backend 'tflite'") as caught:
        get_backend("tflite")
    assert "onnxruntime, openvino" in caught.value.hint


@pytest.mark.parametrize("name", ["probe", "sidecar", "base", "_runner"])
def test_parts_of_the_folder_are_no_backends(name):
    with pytest.raises(UsageError):
        get_backend(name)


def test_getting_a_backend_imports_no_runtime():
    code = (
        "import sys\n"
        "from edgeres.backends import backend_names, get_backend\n"
        "names = [get_backend(name).name for name in backend_names()]\n"
        f"print(*names, '|', *(m for m in {RUNTIMES!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    names, loaded = done.stdout.split("|")
    assert tuple(names.split()) == backend_names()
    assert loaded.split() == []
