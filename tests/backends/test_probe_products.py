"""Whether engines add INT8 products of two computed tensors rightly, asked of real engines."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import Runner
from edgeres.backends.onnxruntime.backend import OnnxRuntime
from edgeres.backends.probe_products import products_overflow

ASK = """
import json
from edgeres.backends import get_backend
names = ("onnxruntime", "openvino")
print(json.dumps({name: get_backend(name).qdq_rules("cpu").products for name in names}))
"""


def runtime(name):
    backend = get_backend(name)
    if backend.missing() is not None:
        pytest.skip(f"needs {name}")
    return backend


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_onnxruntime_adds_them_rightly_on_every_cpu(dtype):
    assert not products_overflow(runtime("onnxruntime"), dtype)
    assert runtime("onnxruntime").qdq_rules("cpu").products == "activations"


def test_openvino_is_given_them_where_no_int16_is_shared():
    backend = runtime("openvino")
    rules = backend.qdq_rules("cpu")
    right = not products_overflow(backend, "int8")
    assert rules.products == ("symmetric" if right and not rules.saturating else "float")


def test_without_vnni(without_vnni):
    runtime("onnxruntime"), runtime("openvino")
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=without_vnni, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"onnxruntime": "activations", "openvino": "float"}


class Wrapping:
    """A runner whose pairs of products share an int16, which leaves out what does not fit."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.runner.close()

    def infer(self, feeds):
        (image,) = feeds.values()
        pair = (2 * np.square(image.flat[0]) + 2**15) % 2**16 - 2**15
        return {"y": self.runner.infer(feeds)["y"] * 0 + pair * image.shape[2] / 2}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])  # int8 pairs of the lowest leave it by one
def test_pairs_that_share_an_int16_are_found(dtype):
    runtime("onnxruntime")

    class Faulty(OnnxRuntime):
        def load(self, engine, config):
            return Wrapping(super().load(engine, config))

    assert products_overflow(Faulty(), dtype)
