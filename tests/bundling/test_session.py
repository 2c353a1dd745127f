"""The runtime: right answers from any thread, in order, and wrong inputs named."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import edgeres
from edgeres.backends import get_backend
from edgeres.backends.base import BatchLimits, BuildConfig
from edgeres.backends.sidecar import read_engine
from edgeres.data.decode import decode_file
from edgeres.errors import DataError, StageError, UsageError

from .conftest import TARGETS


def test_scores_are_those_of_the_bare_engine(output, bundle_file, images, target):
    report = json.loads((output / "report.json").read_text())
    engine = read_engine(output / report["targets"][target]["engine"])
    with edgeres.Session(bundle_file, target=target) as session:
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        got = session.infer(batch)
        assert session.target == target
        assert session.input.shape == (None, 1, 28, 28)
        assert session.self_test is not None
        assert session.self_test.samples == 4
    with get_backend(target).load(engine, BuildConfig()) as runner:
        (expected,) = runner.infer({runner.inputs[0].name: batch}).values()
    np.testing.assert_array_equal(got, expected)


def test_classes_and_confidences(bundle_file, images):
    with edgeres.Session(bundle_file) as session:
        found = session.classify(images, top=3)
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        logits = session.infer(batch).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [answers[0].label for answers in found] == [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
    ]
    for row, answers in zip(shares, found, strict=True):
        assert [a.index for a in answers] == np.argsort(-row)[:3].tolist()
        assert [a.confidence for a in answers] == pytest.approx(np.sort(row)[::-1][:3])


def test_paths_images_and_arrays_are_one(bundle_file, images):
    pixels = np.asarray(Image.open(images[1]))
    colour = Image.open(images[1]).convert("RGB")
    with edgeres.Session(bundle_file, batch_size=2) as session:
        found = session.classify([images[1], str(images[1]), colour, pixels], top=1)
        assert len(set(found)) == 1
        assert session.classify([], top=1) == []


def test_more_images_than_a_batch_come_in_order(bundle_file, images):
    many = [images[index % 4] for index in range(37)]
    with edgeres.Session(bundle_file, batch_size=5, pool=2) as session:
        found = session.classify(many, top=1)
        single = [session.classify([path], top=1)[0] for path in images]
        firsts = list(zip(session.stream(many, top=1), range(3), strict=False))
    assert [f[0].index for f in found] == [single[index % 4][0].index for index in range(37)]
    assert len(firsts) == 3


def test_infer_keeps_within_what_the_engine_takes(bundle_file, images, monkeypatch):
    with edgeres.Session(bundle_file, target=TARGETS[0]) as session:
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in (images * 2)[:7]])
        expected, sizes = session.infer(batch), []
        runner = session._runners[0]
        infer = runner.infer
        monkeypatch.setattr(type(runner), "batch_limits", BatchLimits(2, 3))
        monkeypatch.setattr(
            runner,
            "infer",
            lambda feeds: (sizes.append(*map(len, feeds.values())), infer(feeds))[1],
        )
        np.testing.assert_allclose(session.infer(batch), expected, rtol=1e-5)
        assert sizes == [3, 3, 2]


def test_any_thread_may_call(bundle_file, images, target):
    with edgeres.Session(bundle_file, target=target, pool=2, threads=1) as session:
        batches = [session.preprocess.apply(decode_file(path))[None] for path in images]
        expected = [session.infer(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(session.infer, batches * 25))
    for index, scores in enumerate(got):
        np.testing.assert_array_equal(scores, expected[index % 4])


def test_async_calls(bundle_file, images):
    async def main(session):
        batch = session.preprocess.apply(decode_file(images[2]))[None]
        scores, answers = await asyncio.gather(
            session.infer_async(batch), session.classify_async(images, top=1)
        )
        return scores, answers, session.infer(batch)

    with edgeres.Session(bundle_file) as session:
        scores, answers, expected = asyncio.run(main(session))
    np.testing.assert_array_equal(scores, expected)
    assert answers[3][0].label == "Dress"


def test_decoding_goes_on_while_the_engine_runs(bundle_file, images, monkeypatch):
    running = threading.Event()
    overlapped = []
    with edgeres.Session(bundle_file, batch_size=1) as session:
        infer, fit = session.infer, type(session.preprocess).fit

        def slow(batch):
            running.set()
            time.sleep(0.05)
            scores = infer(batch)
            running.clear()
            return scores

        def watched(self, image):
            overlapped.append(running.is_set())
            return fit(self, image)

        monkeypatch.setattr(session, "infer", slow)
        monkeypatch.setattr(type(session.preprocess), "fit", watched)
        session.classify([images[0]] * 60, top=1)
    assert any(overlapped)


def test_wrong_inputs_are_named(bundle_file, images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no jpeg")
    with edgeres.Session(bundle_file) as session:
        with pytest.raises(DataError, match="shape"):
            session.infer(np.zeros((1, 3, 28, 28), np.float32))
        with pytest.raises(DataError, match=r"broken\.jpg"):
            session.classify([images[0], tmp_path / "broken.jpg"])
        with pytest.raises(DataError, match="uint8"):
            session.classify([np.zeros((28, 28), np.float32)])
        with pytest.raises(UsageError, match="at least one class"):
            session.classify(images, top=0)
        assert len(session.classify(images, top=99)[0]) == 10
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.infer(np.zeros((1, 1, 28, 28), np.float32))
    for wrong in ({"pool": 0}, {"batch_size": 0}, {"target": "tpu"}):
        with pytest.raises(UsageError):
            edgeres.Session(bundle_file, **wrong)


def test_pixels_that_were_not_normalized_are_refused(bundle_file, images):
    pixels = np.stack([np.asarray(Image.open(path)) for path in images])[:, None]
    with edgeres.Session(bundle_file, target=TARGETS[0]) as session:
        good = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        nan, inf = good.copy(), good.copy()
        nan[2, 0, 3, 4], inf[1, 0, 0, 0] = np.nan, -np.inf
        for wrong, told in (
            (pixels, "array of normalized floats, got uint8"),
            (pixels.astype(np.int64), "got int64"),
            (good.tolist(), "got list"),
            (pixels.astype(np.float32), "expected normalized pixels from"),
            (pixels.astype(np.float64), "expected normalized pixels from"),
            (-50 * good, "expected normalized pixels from"),
            (nan, r"image 2 has NaN or Inf \(1 of 4"),
            (inf, "image 1 has NaN or Inf"),
            (good[:0], "at least one image"),
        ):
            with pytest.raises(DataError, match=told) as caught:
                session.infer(wrong)
            assert "classify()" in caught.value.hint
        np.testing.assert_array_equal(session.infer(good.astype(np.float64)), session.infer(good))


def test_scores_that_are_no_numbers_are_no_answer(bundle_file, images, monkeypatch):
    with edgeres.Session(bundle_file, target=TARGETS[0], batch_size=2) as session:
        runner = session._runners[0]
        infer, planted = runner.infer, [np.nan]

        def broken(feeds):
            ((name, scores),) = infer(feeds).items()
            scores = scores.copy()
            scores[1, 3] = planted[-1]
            return {name: scores}

        monkeypatch.setattr(runner, "infer", broken)
        batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
        for value in (np.nan, np.inf, -np.inf):
            planted.append(value)
            with pytest.raises(StageError, match=r"NaN or Inf for image 1 \(1 of 4"):
                session.infer(batch)
            with pytest.raises(StageError, match="no answer"):
                session.classify(images)
        monkeypatch.undo()
        assert session.classify(images, top=1)


def test_an_image_stands_upright_however_it_is_given(bundle_file, images, tmp_path):
    pixels = np.asarray(Image.open(images[3]))
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.rot90(pixels).copy()).save(turned, exif=exif)
    with edgeres.Session(bundle_file) as session, Image.open(turned) as opened:
        upright, lying = session.classify([pixels, np.rot90(pixels).copy()])
        assert upright != lying
        ways = [turned, str(turned), opened, turned.read_bytes(), bytearray(turned.read_bytes())]
        assert session.classify(ways) == [upright] * len(ways)


def test_what_is_no_image_is_named(bundle_file, images, tmp_path):
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:200])
    with edgeres.Session(bundle_file) as session, Image.open(tmp_path / "cut.png") as cut:
        for wrong in (None, 3, ["nested"], b"", b"no image", cut, np.zeros((4, 4, 4), np.uint8)):
            with pytest.raises(DataError, match="image 1"):
                session.classify([images[0], wrong])
        with pytest.raises(UsageError, match="expected an image or a number of them, got int"):
            session.classify(3)


def test_one_image_alone_however_it_is_given(bundle_file, images):
    pixels = np.asarray(Image.open(images[0]))
    with edgeres.Session(bundle_file) as session, Image.open(images[0]) as opened:
        (wanted,) = session.classify([images[0]], top=2)
        for one in (images[0], str(images[0]), images[0].read_bytes(), opened, pixels):
            assert session.classify(one, top=2) == wanted
        assert session.classify(np.stack([np.stack([pixels] * 3, -1)] * 2), top=2) == [wanted] * 2
        assert session.classify((path for path in images[:1]), top=2) == [wanted]


def test_outcomes_go_on_after_a_bad_one(bundle_file, images, tmp_path):
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:200])
    large = Image.new("L", (40, 30))
    given = [images[0], tmp_path / "cut.png", large, images[1], None, images[2]]
    with edgeres.Session(bundle_file, batch_size=2) as session:
        wanted = session.classify([images[0], images[1], images[2]], top=1)
        for form in (given, iter(given)):
            found = list(session.outcomes(form, top=1))
            assert [f for f in found if not isinstance(f, DataError)] == wanted
            assert [isinstance(f, DataError) for f in found] == [
                False,
                True,
                True,
                False,
                True,
                False,
            ]
            assert "cut.png" in found[1].message
            assert "image 4" in found[4].message
        assert [type(f) for f in session.outcomes([None, b""])] == [DataError, DataError]


def test_engine_files_are_gone_after_loading(bundle_file, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with edgeres.Session(bundle_file):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        edgeres.Session(bundle_file, target="none")
    assert list(tmp_path.iterdir()) == []


def test_engines_of_one_network_agree_better_than_the_limit(output, bundle_file, images):
    if len(TARGETS) < 2:
        pytest.skip("needs two runtimes")
    found = []
    for name in TARGETS:
        with edgeres.Session(bundle_file, target=name) as session:
            batch = np.stack([session.preprocess.apply(decode_file(path)) for path in images])
            found.append(session.infer(batch).astype(float))
    sqnr = 10 * np.log10(np.square(found[0]).sum() / np.square(found[0] - found[1]).sum())
    assert sqnr > 30
