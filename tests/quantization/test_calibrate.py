from __future__ import annotations

import builtins
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres.errors import BackendMissingError, DataError, ModelError, UsageError
from edgeres.quantization.batch_statistics import of_values
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.collectors import TensorCollector
from edgeres.quantization.histogram import BINS
from edgeres.quantization.places import Places
from edgeres.quantization.table import CalibrationTable


def activations(path: Path, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every intermediate tensor of the FP32 model, straight from ONNX Runtime."""
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    values = dict(zip(names, session.run(names, {"input": images}), strict=True))
    return values | {"input": images}


def edited(path: Path, out: Path, edit) -> Path:
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, change in edit.items():
        content = numpy_helper.to_array(weights[name]).copy()
        weights[name].CopyFrom(numpy_helper.from_array(change(content), name))
    onnx.save(model, out)
    return out


def test_statistics_are_those_of_the_activations(
    resnet: Path, images: NDArray[np.float32], table: CalibrationTable
):
    true = activations(resnet, images)
    assert len(table.tensors) > 12
    for name, stats in table.tensors.items():
        x = true[name]
        assert stats.shape == x.shape[1:], name
        # A tensor behind a Relu has 0 as lower end by definition, seen or not.
        assert stats.low == pytest.approx(x.min(), abs=1e-5) or stats.low == 0.0 <= x.min(), name
        assert stats.high == pytest.approx(x.max(), rel=1e-5), name
        low, high = stats.ranges["minmax"].low, stats.ranges["minmax"].high
        assert low <= max(x.min(), low) <= 0.0 or x.min() >= 0, name
        assert high == pytest.approx(max(x.max(), 0), rel=1e-5), name
        if stats.channel_mean.size:
            axes = (0, *range(2, x.ndim))
            np.testing.assert_allclose(stats.channel_mean, x.mean(axis=axes), atol=1e-5)
            np.testing.assert_allclose(
                stats.channel_square, np.square(x).mean(axis=axes), rtol=1e-4, atol=1e-6
            )


def test_inputs_of_weighted_layers_have_channel_statistics(resnet: Path, table: CalibrationTable):
    for node in onnx.load(resnet).graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert table.tensors[node.input[0]].channel_mean.size > 0, node.name


def test_any_batch_size_and_order_gives_the_same_file(resnet, images, table):
    shuffled = np.random.default_rng(0).permutation(len(images))
    for batch, order in ((1, slice(None)), (7, slice(None, None, -1)), (24, shuffled)):
        ordered = images[order]
        again = calibrate(resnet, [ordered[i : i + batch] for i in range(0, 24, batch)])
        assert again.to_json() == table.to_json(), batch


def test_statistics_from_the_engine_depend_on_neither_batch_nor_order(
    load_program, monkeypatch, tmp_path
):
    """Random networks with odd maps, of which the engine adds up all but the smallest tensors."""
    monkeypatch.setattr(Places, "SAMPLE", 8)
    quirks = load_program(Path(__file__).parents[2] / "benchmarks" / "engine_quirks.py")
    for seed in (51, 58):
        network = quirks.draw(seed)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(quirks._normalized(network))
        images, tables = network.images, set()
        for batch, threads in ((len(images), 2), (1, 1), (3, 2)):
            parts = [images[i : i + batch] for i in range(0, len(images), batch)]
            tables.add(calibrate(path, parts[::-1], threads=threads).to_json())
        assert len(tables) == 1, seed


def test_the_image_keeps_its_whole_range(table: CalibrationTable):
    stats = table.tensors["input"]
    assert {(r.low, r.high) for r in stats.ranges.values()} == {(stats.low, stats.high)}


@pytest.mark.parametrize(
    "shape",
    [(3, 224, 224), (64, 7, 250), (1024, 14, 14), (2048, 7, 7), (5000, 3, 3), (257, 19, 23)],
    ids=str,
)
def test_a_sample_favours_no_place_of_the_map(shape):
    """Wide, deep, small and odd maps whose corner, border and middle differ: all are met alike."""
    _, rows, columns = shape
    images = np.random.default_rng(0).standard_normal((40, 1, 4, 4)).astype(np.float32)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    border = (row == 0) | (column == 0) | (row == rows - 1) | (column == columns - 1)
    kinds = np.where((row == 0) & (column == 0), 1.0, np.where(border, 2.0, 3.0))
    tensor = np.broadcast_to(kinds, (len(images), *shape)).astype(np.float32)
    collector = TensorCollector("x", shape)
    collector.add(of_values(tensor, Places(images), moments=True, rectified=False))
    seen = collector.summary()
    sampled = seen.counts.sum()
    for kind in (1.0, 2.0, 3.0):
        share = seen.counts[BINS + int(kind / seen.width)] / sampled
        true = float((kinds == kind).mean())
        assert share == pytest.approx(true, abs=4 * (true / sampled) ** 0.5 + 1e-9), kind


def test_places_differ_between_images_and_meet_every_channel():
    images = np.random.default_rng(0).standard_normal((3, 1, 4, 4)).astype(np.float32)
    size = 2048 * 7 * 7
    first, second, _ = Places(images).of(size)
    assert len(np.intersect1d(first, second)) < 0.1 * len(first)
    assert len(np.unique(first // 49)) == 2048
    assert first.max() < size
    np.testing.assert_array_equal(first, Places(images[:1]).of(size)[0])


def test_moments_are_of_all_values_and_never_contradict_each_other(resnet, images, monkeypatch):
    monkeypatch.setattr(Places, "SAMPLE", 16)
    table = calibrate(resnet, [images])
    true = activations(resnet, images)
    for name, stats in table.tensors.items():
        if not stats.channel_mean.size:
            continue
        axes = (0, *range(2, true[name].ndim))
        np.testing.assert_allclose(stats.channel_mean, true[name].mean(axis=axes), atol=1e-5)
        variance = stats.channel_square - np.square(stats.channel_mean)
        np.testing.assert_allclose(variance, true[name].var(axis=axes), rtol=1e-2, atol=1e-4)


def test_progress_counts_images(resnet, images):
    calls: list[tuple[int, int]] = []
    calibrate(
        resnet, [images[:10], images[10:]], total=24, progress=lambda *call: calls.append(call)
    )
    assert calls == [(10, 24), (24, 24)]


@pytest.mark.parametrize(("count", "words"), [(0, "got 0"), (1, "got 1")])
def test_too_few_images(resnet, images, count, words):
    with pytest.raises(DataError, match=f"at least 2 images, {words}"):
        calibrate(resnet, [images[:count]])


def test_constant_and_repeated_images(resnet, images):
    with pytest.raises(DataError, match="are constant"):
        calibrate(resnet, [np.ones_like(images)])
    with pytest.raises(DataError, match="all the same"):
        calibrate(resnet, [np.repeat(images[:1], 5, axis=0)])


def test_images_with_nan_are_named_by_index(resnet, images):
    bad = images.copy()
    bad[13, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match="image 13 holds NaN"):
        calibrate(resnet, [bad[:8], bad[8:]])


def test_images_of_another_shape(resnet, images):
    with pytest.raises(DataError, match=r"float32 images \[3, 16, 16\].*\[1, 16, 16\]"):
        calibrate(resnet, [images[:, :1]])
    with pytest.raises(DataError, match="float64"):
        calibrate(resnet, [images.astype(np.float64)])


def test_weights_with_nan_are_named_before_any_image_runs(resnet, tmp_path):
    def plant(weight):
        weight.flat[3] = np.nan
        return weight

    broken = edited(resnet, tmp_path / "nan.onnx", {"block2.conv1.weight": plant})

    def never():
        raise AssertionError("an image was read")
        yield

    with pytest.raises(ModelError, match=r"block2\.conv1\.weight holds 1 NaN"):
        calibrate(broken, never())


def test_activations_that_overflow_are_named(resnet, images, tmp_path):
    huge = edited(
        resnet,
        tmp_path / "inf.onnx",
        {"stem.conv.weight": lambda w: w * 1e30, "block1.conv1.weight": lambda w: w * 1e30},
    )
    with pytest.raises(ModelError, match=r"activation block1\.\S+ holds NaN or Inf"):
        calibrate(huge, [images])


def test_a_dead_layer_is_marked_and_a_dead_network_refused(resnet, images, tmp_path):
    dead = edited(
        resnet,
        tmp_path / "dead.onnx",
        {"block1.conv1.weight": lambda w: w * 0, "block1.conv1.bias": lambda b: -np.abs(b)},
    )
    stats = calibrate(dead, [images]).tensors["block1.relu1_out"]
    assert stats.dead
    assert stats.zeros == 1.0
    silent = edited(resnet, tmp_path / "silent.onnx", {"fc.weight": lambda w: w * 0})
    with pytest.raises(DataError, match="same output for all 24"):
        calibrate(silent, [images])


def test_an_unknown_calibrator_is_refused(resnet, images):
    with pytest.raises(UsageError, match=r"'best'.*minmax"):
        calibrate(resnet, [images], calibrator="best")


def test_models_that_cannot_be_calibrated(tmp_path, resnet, images):
    with pytest.raises(ModelError, match="no ONNX file"):
        calibrate(tmp_path / "missing.onnx", [images])
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        calibrate(tmp_path / "text.onnx", [images])
    model = onnx.load(resnet)
    model.graph.node[3].name = model.graph.node[4].name
    onnx.save(model, tmp_path / "names.onnx")
    with pytest.raises(ModelError, match="not unique"):
        calibrate(tmp_path / "names.onnx", [images])


def test_a_network_of_one_image_is_calibrated_image_by_image(tmp_path, resnet, images):
    model = onnx.load(resnet)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    single = calibrate(tmp_path / "fixed.onnx", [images], calibrator="mse")
    several = calibrate(resnet, [images], calibrator="mse")
    for name, stats in several.tensors.items():
        assert single.tensors[name].high == pytest.approx(stats.high, rel=1e-5), name


def test_without_onnxruntime_the_hint_says_how_to_get_it(resnet, images, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(BackendMissingError, match=r"edgeres\[onnxruntime\]"):
        calibrate(resnet, [images])


def test_a_network_that_computes_over_the_batch_is_named_as_such(
    resnet: Path, images: NDArray[np.float32], tmp_path: Path
):
    model = onnx.load(resnet)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["scores" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axis"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["scores", "axis"], ["mean"], name="over_batch"),
            onnx.helper.make_node("Sub", ["scores", "mean"], [output], name="centred"),
        ]
    )
    onnx.save(model, tmp_path / "centred.onnx")
    with pytest.raises(ModelError, match=r"tensor mean .* computed over the batch"):
        calibrate(tmp_path / "centred.onnx", [images])
