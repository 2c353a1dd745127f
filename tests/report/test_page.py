"""The page of a small but complete output folder, in a real browser with the network cut."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.feature_set import FeatureSet
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError
from edgeres.evaluation import run_folder
from edgeres.report.evidence import pair_answers, read_target, write_target
from edgeres.report.page import read_output, report_page
from edgeres.report.schema import Finding, write_report

from .conftest import CLASSES, predictions

MOST_BYTES = 2_000_000


def test_everything_that_was_measured_is_on_the_page(output) -> None:
    text = report_page(read_output(output))
    assert len(text.encode()) < MOST_BYTES
    for told in (
        "95.40", "INCONCLUSIVE", "NOT EXECUTED", "no NVIDIA driver here.", "36.6", "1.23",
        "other work kept 1.4 of 2 CPUs busy", "AMD EPYC", "conv_a", "41.5", "ab" * 32,
    ):  # fmt: skip
        assert told in text, told
    # Names from outside are text, never markup.
    assert "dog <b>" not in text
    assert "dog &lt;b&gt;" in text
    assert "tiny </script>" not in text


def test_fp32_engines_are_not_called_int8(output, report, target) -> None:
    text = report_page(read_output(output))
    assert "openvino INT8</th>" in text
    assert "precision: INT8" in text  # the point of the chart
    write_report(report(targets={"openvino": target(precision="fp32")}), output / "report.json")
    text = report_page(read_output(output))
    assert "openvino converted FP32</th>" in text
    assert "precision: converted FP32" in text
    assert "Converted FP32 beside FP32" in text
    assert "converted to FP32 and measured" in text
    for told in (">INT8<", "INT8 beside", "INT8 minus", "precision: INT8", "quantization:"):
        assert told not in text, told


def test_what_holds_for_several_targets_is_told_once_and_commands_look_like_code(
    output, report
) -> None:
    told = [
        Finding("info", "x", "call `a <b>` here.", name) for name in ("onnxruntime", "openvino")
    ]
    told.append(Finding("warning", "y", "an odd ` stays.", "openvino"))
    write_report(report(findings=tuple(told)), output / "report.json")
    text = report_page(read_output(output))
    assert text.count("</code> here.") == 1
    assert "(onnxruntime, openvino): call <code>a &lt;b&gt;</code> here.</li>" in text
    assert "(openvino): an odd ` stays.</li>" in text


def test_page_is_one_file_without_addresses(output) -> None:
    text = report_page(read_output(output))
    assert not re.search(r'(?:src|href|action|url\()=?["\'(]?\s*(?:https?:)?//', text)
    assert set(re.findall(r'src="([a-z]+:)', text)) == {"data:"}
    assert "default-src 'none'" in text


def test_later_fields_are_shown_where_the_report_has_them(output) -> None:
    path = output / "report.json"
    told = json.loads(path.read_text())
    matrix = {"names": ["fp32", "ov"], "agreement": [[1.0, 0.9876], [0.9876, 1.0]]}
    told["agreement_matrix"] = matrix | {"sqnr_db": [[None, 30.0], [30.0, None]]}
    path.write_text(json.dumps(told))
    assert "98.76" in report_page(read_output(output))
    told["agreement_matrix"] = matrix | {"agreement": [[1.0]]}
    path.write_text(json.dumps(told))
    with pytest.raises(ArtefactError, match="agreement_matrix"):
        report_page(read_output(output))


def test_layers_that_were_measured_are_on_the_page(output) -> None:
    text = report_page(read_output(output))
    row = re.search(r'<th scope="row">conv_a</th>(?:(?!</tr>).)*27\.3.*?</tr>', text)
    assert row is not None
    # MACs, weights, output, alone, logits and the share of the noise
    assert re.findall(r"<td>([^<]*)</td>", row.group()) == [
        "100.0", "41.5", "27.3", "31.4", "51.2", "100.0",
    ]  # fmt: skip
    assert "conv_a alone leaves &lt;5 dB." in text
    assert "Sensitivity, most sensitive layers first (openvino)" in text
    assert "SQNR of the outputs (openvino)" in text
    assert "SQNR of the outputs (onnxruntime)" not in text
    asked = "edgeres convert --layers"
    assert asked not in text
    for name in ("compare", "sensitivity"):
        (output / run_folder.EVIDENCE / f"openvino-{name}.json").unlink()
    text = report_page(read_output(output))
    assert asked in text
    assert "stands out" not in text


def test_output_without_evidence_still_has_a_page(output) -> None:
    shutil.rmtree(output / run_folder.EVIDENCE)
    text = report_page(read_output(output))
    assert "keeps no answers" in text
    assert "keeps no recipe" in text


def test_browser_shows_it_offline_without_complaint(page, output) -> None:
    assert page.seen == [(output / "report.html").as_uri()]
    assert page.title() == "tiny </script>: edgeres report"
    pictures = page.locator(".flips img")
    assert pictures.count() == 4
    assert all(pictures.nth(n).evaluate("i => i.complete && i.naturalWidth") == 8 for n in range(4))
    assert page.locator("figure svg").count() >= 5


def test_keyboard_reaches_everything_that_reacts(page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "A", "SELECT", "SUMMARY", "PRE"} <= reached


def test_another_block_can_be_chosen(page) -> None:
    part = page.locator(".blocks").first
    assert "first_add" in part.locator(".words").inner_text()
    part.locator("select").select_option("second_add")
    assert "second_add" in part.locator(".words").inner_text()
    assert part.locator("svg").count() == 1


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 320),
        ("dark", 1100),
        *(
            pytest.param(scheme, width, marks=pytest.mark.slow)
            for scheme, width in (("light", 1100), ("light", 375), ("dark", 375), ("dark", 320))
        ),
    ],
)
def test_readable_at_every_width_and_accessible(page, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe is not installed")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.Axe().run(page)["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


def test_theme_button_switches(page) -> None:
    page.emulate_media(color_scheme="light")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_flips_are_those_that_changed_and_their_pictures_are_kept(output, images) -> None:
    kept = read_target(output / run_folder.EVIDENCE, "onnxruntime")
    assert [(flip.kind, flip.index) for flip in kept.flips] == [("lost", 1), ("gained", 3)]
    assert kept.flips[0].label == "cat"
    assert kept.flips[0].engine == "owl"
    from PIL import Image

    with Image.open(output / run_folder.EVIDENCE / "1.png") as picture:
        assert np.array_equal(np.asarray(picture), images.images[1])
    assert kept.answers is not None
    assert kept.answers.lost.tolist() == [False, True, False, False, False, False]
    exact = 1 / (1 + 2 * np.exp(-1.0 - 1.4))
    assert kept.answers.dense_probability[1] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("shape", "drawn"), [((1, 5, 9), True), ((7,), False)])
def test_flips_of_features_are_drawn_where_they_can_be(tmp_path: Path, shape, drawn) -> None:
    inputs = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2], np.int64)
    write_target(
        tmp_path,
        "openvino",
        layers=[],
        macs_by_node={},
        answers=pair_answers(predictions([0, 0, 1, 0, 2, 2]), predictions([0, 2, 1, 1, 2, 2])),
        images=FeatureSet("f", inputs, np.arange(6), labels, CLASSES, {}, ()),
        preprocess=Preprocess(features=True),
    )
    flips = read_target(tmp_path, "openvino").flips
    assert [flip.image for flip in flips] == (["1.png", "3.png"] if drawn else [None, None])
    assert (tmp_path / "1.png").exists() == drawn


@pytest.mark.parametrize("name", ["onnxruntime.json", "onnxruntime.npz", "latency.json"])
def test_damaged_evidence_is_named(output, name: str) -> None:
    (output / run_folder.EVIDENCE / name).write_bytes(b"{")
    with pytest.raises(ArtefactError, match=name.split(".", maxsplit=1)[0]):
        read_output(output)
