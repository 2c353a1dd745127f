"""The default calibrator: ranges are judged by what the network's output loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edgeres.calibrators import percentile
from edgeres.quantization import output_ranges
from edgeres.quantization.activation_trial import ActivationTrial
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.output_ranges import ShownImages
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import sqnr_db

from .conftest import FUSING, NetBuilder, smooth_images

ALL = slice(None)


def logits(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return ort.InferenceSession(str(path)).run(None, {"input": images})[0]


def trial(path: Path, images: NDArray[np.float32]) -> ActivationTrial:
    return ActivationTrial(path, images, {"logits": logits(path, images)})


@pytest.fixture(scope="module")
def peaks(tmp_path_factory) -> tuple[Path, NDArray[np.float32]]:
    """A network whose answer is one large value among 16,384 small ones, which mse clips."""
    net = NetBuilder(0)
    x = net.add("Conv", "copy", ["input", net.weight("one", np.ones((1, 1, 1, 1)))])
    x = net.relu("relu", x)
    weights = [net.weight("w", np.ones((1, 1, 1, 1))), net.weight("b", np.array([-10.0]))]
    x = net.relu("above", net.add("Conv", "threshold", [x, *weights]))
    net.head(x, 1, 4)
    path = net.save(tmp_path_factory.mktemp("peaks") / "net.onnx", (1, 128, 128), 4)
    random = np.random.default_rng(0)
    images = random.uniform(0, 1, (16, 1, 128, 128)).astype(np.float32)
    images[np.arange(16), 0, random.integers(128, size=16), random.integers(128, size=16)] = 60.0
    images[:, 0, 0, 0] = np.linspace(50, 60, 16)
    return path, images


def test_ranges_of_which_the_output_loses_least_are_taken(peaks, tmp_path):
    path, images = peaks
    table = calibrate(path, [images])
    stats = table.tensors["relu_out"].ranges
    assert stats["mse"].high < 0.99 * stats["minmax"].high
    assert stats["output"] == stats["minmax"]
    sqnr = {}
    for calibrator in ("mse", "output"):
        settings = QuantizeSettings(calibrator=calibrator)
        quantize(path, table, FUSING, tmp_path / "q.onnx", settings)
        simulated = simulated_logits(tmp_path / "q.onnx", [images])
        sqnr[calibrator] = sqnr_db(logits(path, images), simulated)
    assert sqnr["output"] > sqnr["mse"] + 6


def test_a_calibrator_that_ruins_the_output_is_never_taken(peaks, monkeypatch):
    path, images = peaks
    monkeypatch.setattr(percentile, "KEPT", 60.0)
    table = calibrate(path, [images])
    for stats in table.tensors.values():
        assert stats.ranges["output"] != stats.ranges["percentile"] or (
            stats.ranges["percentile"] == stats.ranges["minmax"]
        )


@pytest.mark.parametrize(
    ("gains", "sure"), [([3, 3.5, 2.5, 3], True), ([9, -8, 7, 1], False), ([0.1] * 8, False)]
)
def test_a_gain_within_chance_changes_nothing(resnet, images, monkeypatch, gains, sure):
    def errors(self, ranges, chosen):
        full = all(r.high >= table.tensors[n].ranges["minmax"].high for n, r in ranges.items())
        return -np.resize(np.asarray(gains, np.float64), len(images[chosen]))[:, None] * np.full(
            2, full
        )

    table = calibrate(resnet, [images], calibrator="mse")
    monkeypatch.setattr(ActivationTrial, "errors", errors)
    again = calibrate(resnet, [images])
    wider = [s.ranges["output"] != s.ranges["mse"] for s in again.tensors.values()]
    assert any(wider) == sure


def test_more_images_are_tried_where_the_first_leave_it_open(resnet, images, monkeypatch):
    tried = []

    def errors(self, ranges, chosen):
        full = all(r.high >= table.tensors[n].ranges["minmax"].high for n, r in ranges.items())
        few = chosen.start == 0
        tried.append(chosen)
        gains = [4.0, -3.0, 2.0, 1.0] if few else [2.0, 2.1]
        return -np.resize(gains, len(images[chosen]))[:, None] * np.full(2, full)

    table = calibrate(resnet, [images], calibrator="mse")
    monkeypatch.setattr(ActivationTrial, "errors", errors)
    monkeypatch.setattr(output_ranges, "_NUMBERS", 8 * 3 * 16 * 16)
    again = calibrate(resnet, [images])
    assert tried == [*[slice(0, 8)] * 4, *[slice(8, None)] * 3]
    assert again.tensors["input"].ranges["output"] == again.tensors["input"].ranges["minmax"]


def test_the_plain_calibrators_need_no_trial(resnet, images):
    table = calibrate(resnet, [images], calibrator="mse")
    plain = {"midway", "minmax", "mse", "percentile"}
    assert all(set(s.ranges) == plain for s in table.tensors.values())


def test_what_all_images_lose_together_counts_as_much_as_the_usual_image():
    random = np.random.default_rng(0)
    before = random.normal(-40, 1, (24, 2))
    before[:6] += 20  # a few lose most
    clips_less = before + random.normal(0.3, 0.1, before.shape)
    clips_less[:6] -= 12
    clips_more = before - random.normal(0.3, 0.1, before.shape)
    clips_more[:2] += 6
    energies = np.full(before.shape, 7.0)
    assert output_ranges._gain(before, clips_less, energies).sure > 1
    worse = output_ranges._gain(before, clips_more, energies)
    assert worse.sure < worse.mean < 0
    assert output_ranges._gain(before, before, energies).mean == 0.0
    alone = np.zeros((24, 1))
    alone[3] = 1.0  # all others are exact, and without energy
    assert np.isfinite(output_ranges._gain(alone - 300, alone - 290, alone).sure)


def test_features_whose_errors_hardly_vary_do_not_outweigh_the_output():
    random = np.random.default_rng(0)
    before = np.full((24, 2), -25.0)
    after = before - np.stack([random.normal(5, 2, 24), random.normal(-0.2, 0.01, 24)], axis=1)
    found = output_ranges._gain(before, after, np.ones(before.shape))
    assert 1.5 < found.sure < found.mean < 3.5


def test_the_trial_computes_what_the_file_says(resnet, images, table, tmp_path):
    """With weights that INT8 holds exactly the only error is that of the activations."""
    found = trial(resnet, images)
    ranges = {name: table.tensors[name].ranges["minmax"] for name in found.tensors}
    quantize(resnet, table, FUSING, tmp_path / "q.onnx", QuantizeSettings(calibrator="minmax"))
    wanted = logits(resnet, images)
    whole = 10 ** (-sqnr_db(wanted, simulated_logits(tmp_path / "q.onnx", [images])) / 10)
    # Weights add a little error; a wrongly fused pool adds a hundred times as much.
    assert 0.2 * whole < 10 ** (found.errors(ranges, ALL).mean() / 10) < 1.5 * whole


def test_wider_steps_lose_more(resnet, images, table):
    found = trial(resnet, images)
    fine = {name: table.tensors[name].ranges["minmax"] for name in found.tensors}
    coarse = {name: type(r)(8 * r.low, 8 * r.high, 8 * r.magnitude) for name, r in fine.items()}
    assert found.errors(coarse, ALL).mean() > 10 + found.errors(fine, ALL).mean()
    np.testing.assert_array_equal(found.errors(fine, ALL), found.errors(fine, ALL))


def test_the_images_that_are_shown_depend_on_neither_order_nor_batches():
    images = smooth_images(200)
    seeds = np.random.default_rng(0).permutation(200).tolist()
    outputs = np.arange(200, dtype=np.float32)[:, None]
    kept = []
    for order, size in ((np.arange(200), 200), (np.random.default_rng(1).permutation(200), 7)):
        shown = ShownImages((3, 16, 16))
        for start in range(0, 200, size):
            at = order[start : start + size]
            shown.add(images[at], [seeds[i] for i in at], {"logits": outputs[at]})
        kept.append(shown)
    np.testing.assert_array_equal(kept[0].images, kept[1].images)
    np.testing.assert_array_equal(kept[0].wanted["logits"], kept[1].wanted["logits"])
    assert len(kept[0].images) == 64
    assert {seeds[int(i)] for i in kept[0].wanted["logits"][:, 0]} == set(range(64))
