from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgeres.graph.layers import layer_of, load_model
from edgeres.quantization.moments import few_patches, patch_moments
from edgeres.quantization.quantize import quantize
from edgeres.quantization.weights import quantize_weight
from edgeres.recipe.quantize import QuantizeSettings

from .conftest import FUSING, SYMMETRIC, smooth_images


def quantized_input(path, tensor, images):
    """A tensor behind its DequantizeLinear in a Q/DQ model, as whole numbers; and its scale."""
    model = onnx.load(path)
    name = f"{tensor}_dequantized"
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    scale = initializer(model, f"{tensor}_scale")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return np.rint(session.run(None, {"input": images})[0] / scale), scale


def initializer(model, name):
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def written_weight(path, name):
    """What a layer of a Q/DQ file multiplies with: ``(M, K)``."""
    model = onnx.load(path)
    whole = initializer(model, f"{name}.weight_quantized")
    scales = initializer(model, f"{name}.weight_scale")
    return whole.reshape(len(whole), -1) * scales[:, None]


@pytest.mark.parametrize("rules", [FUSING, SYMMETRIC])
@pytest.mark.parametrize(
    ("name", "tensor", "most"),
    [("block1.conv1", "stem.pool_out", 0.7), ("block1.conv2", "block1.relu1_out", 0.7),
     # Eight weights a channel leave few errors that could cancel.
     ("block2.down", "block1.relu2_out", 0.95), ("block3.conv2", "block3.relu1_out", 0.7)],
)  # fmt: skip
def test_outputs_are_nearer_on_images_that_were_not_seen(
    resnet, table, tmp_path, rules, name, tensor, most
):
    """Learned on 96 images, judged on 96 others by the spread of the output error."""
    seen, others = np.split(smooth_images(192, seed=2), 2)
    layer = next(found for n in load_model(resnet).graph if (found := layer_of(n))
                 and found.name == name)  # fmt: skip
    errors = []
    for rounding in ("nearest", "learned"):
        path = tmp_path / f"{rounding}.onnx"
        quantize(resnet, table, rules, path, QuantizeSettings(rounding=rounding), images=seen)
        whole, scale = quantized_input(path, tensor, others)
        spread = patch_moments(layer, whole).covariance()[0] * float(scale) ** 2
        off = written_weight(path, name).astype(np.float64) - layer.weight
        errors.append(np.einsum("mk,kl,ml->", off, spread, off))
    assert errors[1] < most * errors[0]


def test_a_layer_learns_on_what_the_quantized_layers_before_it_give(
    resnet, table, images, tmp_path, monkeypatch
):
    """The moments of a late layer are those of the file that is written, bias and all."""
    from edgeres.quantization import sequential

    seen = {}

    def spy(layer, whole, zero):
        seen[layer.name] = whole.astype(np.int16) - zero
        return few_patches(layer, whole, zero=zero)

    monkeypatch.setattr(sequential, "few_patches", spy)
    settings = QuantizeSettings(rounding="learned")
    quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
    for name, tensor in (("block1.conv2", "block1.relu1_out"), ("fc", "flatten_out")):
        whole, _ = quantized_input(tmp_path / "q.onnx", tensor, images)
        np.testing.assert_array_equal(seen[name], whole)


def test_scales_are_kept_and_biases_follow_the_new_integers(resnet, table, images, tmp_path):
    models = []
    for rounding in ("nearest", "learned"):
        settings = QuantizeSettings(rounding=rounding)
        quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
        models.append(onnx.load(tmp_path / "q.onnx"))
    nearest, learned = models
    changed = []
    for tensor in nearest.graph.initializer:
        a, b = numpy_helper.to_array(tensor), initializer(learned, tensor.name)
        if tensor.name.endswith(("_scale", "_zero_point")):
            np.testing.assert_array_equal(a, b)
        elif not np.array_equal(a, b):
            changed.append(tensor.name)
    for name in ("block1.conv1", "block2.down", "fc"):
        assert {f"{name}.weight_quantized", f"{name}.bias_quantized"} <= set(changed)


def test_each_layer_costs_one_run_over_the_images_in_one_thread_each(
    resnet, table, images, tmp_path, monkeypatch
):
    """Engines open once a piece, and each image goes through each piece once."""
    from edgeres.quantization import segments

    opened, ran = [], []
    real = segments.open_session

    class Counted:
        def __init__(self, session):
            self.session = session

        def run(self, names, feeds):
            ran.append((id(self), max(len(feed) for feed in feeds.values())))
            return self.session.run(names, feeds)

    def spy(*arguments, **options):
        opened.append(Counted(real(*arguments, **options)))
        assert options["threads"] == 1
        return opened[-1]

    monkeypatch.setattr(segments, "open_session", spy)
    settings = QuantizeSettings(rounding="learned")
    found = quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
    assert len(opened) <= len(found.rounding_gain_db)
    for session in opened:
        assert sum(count for which, count in ran if which == id(session)) == len(images)


def test_few_images_and_their_moments_learn_alike(resnet, table, images, tmp_path, monkeypatch):
    """Two images: late layers have fewer patches than weights, and take the patches themselves."""
    from edgeres.quantization import sequential

    settings = QuantizeSettings(rounding="learned")
    kinds = []
    real = sequential.few_patches

    def spy(layer, whole, zero):
        kinds.append(real(layer, whole, zero=zero))
        return kinds[-1]

    gains = []
    for patched in (spy, lambda layer, whole, zero: None):
        monkeypatch.setattr(sequential, "few_patches", patched)
        found = quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images[:2])
        gains.append(np.mean(list(found.rounding_gain_db.values())))
    assert {kind is None for kind in kinds} == {False, True}
    assert gains[0] == pytest.approx(gains[1], abs=0.5)


def test_images_that_show_nothing_leave_nearest_rounding(resnet, table, tmp_path):
    layer = next(found for n in load_model(resnet).graph if (found := layer_of(n)))
    settings = QuantizeSettings(rounding="learned")
    grey = np.zeros((4, 3, 16, 16), np.float32)
    quantize(resnet, table, SYMMETRIC, tmp_path / "q.onnx", settings, images=grey)
    whole = initializer(onnx.load(tmp_path / "q.onnx"), "stem.conv.weight_quantized")
    stats = table.tensors["input"]
    energy = np.maximum(stats.channel_square - np.square(stats.channel_mean), 0.0)
    expected = quantize_weight(layer, energy=energy, balanced=False).values
    np.testing.assert_array_equal(whole.reshape(expected.shape), expected)
