"""A whole Keras model answers as Keras does, without TensorFlow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeres.errors import BackendMissingError, ModelError
from edgeres.graph.session import open_session, run_session
from edgeres.modules.bring import bring_module
from edgeres.modules.spec import ModuleSpec
from edgeres.pipeline.source import import_file

MISSING = importlib.util.find_spec("keras") is None
needs_keras = pytest.mark.skipif(MISSING, reason="keras is not installed: pip install keras")

# The network of the founding text, made well-formed: convolution, batch normalization and
# max-pooling twice, added to a pooled projection of the input.
MAKE = """\
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy
from keras import layers
keras.utils.set_random_seed(0)
image = layers.Input((20, 18, 3))
x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(image)))
y = x
for _ in range(2):
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(y))
    y = layers.MaxPooling2D(3, 2, padding="same")(y)
z = layers.MaxPooling2D(5, 4, padding="same")(layers.Conv2D(8, 1)(x))
x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([y, z])))
model = keras.Model(image, layers.Dense(4)(x))
for layer in model.layers:
    if isinstance(layer, layers.BatchNormalization):
        layer.moving_mean.assign(numpy.linspace(-0.2, 0.3, 8))
        layer.moving_variance.assign(numpy.linspace(0.5, 2, 8))
images = numpy.random.default_rng(0).standard_normal((5, 20, 18, 3)).astype("float32")
for name in sys.argv[1:]:
    model.save(name)
numpy.savez("answers.npz", images=images, logits=model.predict(images, verbose=0))
if "tensorflow" in sys.modules:
    raise SystemExit("TensorFlow was imported")
"""


@needs_keras
@pytest.mark.parametrize("name", ["net.keras", pytest.param("net.h5", marks=pytest.mark.slow)])
def test_answers_are_those_of_keras(name: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE, name], cwd=tmp_path, check=True)
    spec = ModuleSpec("keras", tmp_path / name)
    brought = bring_module(spec, tmp_path / "traced.onnx", said={}, image=(50, 50))
    assert (brought.layout, brought.sample_shape) == ("nhwc", (20, 18, 3))
    made = import_file(tmp_path / "traced.onnx", tmp_path / "x.onnx", layout="nhwc")
    assert (made.layout, made.num_classes, made.dynamic_batch) == ("nhwc", 4, True)
    with np.load(tmp_path / "answers.npz") as kept:
        images, expected = kept["images"], kept["logits"]
    session = open_session((tmp_path / "x.onnx").read_bytes())
    (found,) = run_session(session, images).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@needs_keras
def test_what_is_no_keras_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"Keras cannot load net\.keras") as caught:
        bring_module(
            ModuleSpec("keras", tmp_path / "net.keras"), tmp_path / "x", said={}, image=(8, 8)
        )
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not MISSING, reason="keras is installed")
def test_without_keras_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"")
    with pytest.raises(BackendMissingError, match=r'pip install "edgeres\[keras\]"'):
        bring_module(
            ModuleSpec("keras", tmp_path / "net.keras"), tmp_path / "x", said={}, image=(8, 8)
        )
