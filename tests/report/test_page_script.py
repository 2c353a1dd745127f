"""What the page does by script, on a network of 50 blocks and 1,000 classes, in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.backends.base import LayerInfo
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation import run_folder
from edgeres.evaluation.judge import MetricPart
from edgeres.evaluation.predictions import Predictions
from edgeres.report.block_graph import residual_blocks
from edgeres.report.block_picture import block_svg
from edgeres.report.evidence import pair_answers, write_target
from edgeres.report.history import append_run
from edgeres.report.schema import Percentiles, TaskPart, write_report
from edgeres.report.write import write_reports

BLOCKS, CLASSES, IMAGES = 50, 1000, 3000
MOST_BYTES = 2_000_000


def _network(path: Path) -> list[str]:
    """A chain of blocks of three convolutions and a skip, as ResNet-152 has; names of the nodes."""
    nodes = []
    last = "image"
    for block in range(BLOCKS):
        first = last
        for part in ("conv1", "conv2", "conv3"):
            name = f"stage.{block}.{part}"
            nodes.append(helper.make_node("Conv", [last, "w"], [name], name))
            last = f"stage.{block}.{part}.relu"
            nodes.append(helper.make_node("Relu", [name], [last], last))
        skip = f"stage.{block}.add"
        nodes.append(helper.make_node("Add", [last, first], [skip], skip))
        last = skip
    shape = [1, 1, 4, 4]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", last)]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph), path)
    return [node.name for node in nodes]


def _answers() -> tuple[Predictions, Predictions]:
    """Class 7 loses 20 images to class 8; another 100 images change one by one."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, IMAGES)
    labels[:40] = 7
    names = tuple(f"kind {number} of a thousand" for number in range(CLASSES))
    engine = labels.copy()
    engine[:20] = 8
    engine[-100:] = rng.integers(0, CLASSES, 100)
    found = []
    for answers in (labels, engine):
        logits = np.zeros((IMAGES, CLASSES), np.float32)
        logits[np.arange(IMAGES), answers] = 9.0
        found.append(Predictions(logits, labels, class_names=names))
    return found[0], found[1]


@pytest.fixture(scope="module")
def deep(report, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    answers = _answers()
    (folder / "onnxruntime").mkdir()
    names = _network(folder / "onnxruntime" / "model.qdq.onnx")
    convs = [name for name in names if "conv" in name and "relu" not in name]
    told = {name: 20.0 + 0.25 * number for number, name in enumerate(convs)}
    told |= {"stage.0.conv1": -9.5, "stage.0.conv2": -3.5}
    (folder / "onnxruntime" / "model.qdq.json").write_text(
        json.dumps({"saturation_safe": True, "weight_sqnr_db": told})
    )
    write_target(
        folder / run_folder.EVIDENCE,
        "onnxruntime",
        layers=[
            LayerInfo(name, "Conv", "float32" if name == "stage.31.conv2" else "int8", (name,))
            for name in names
        ],
        macs_by_node=dict.fromkeys(convs, 1),
        answers=pair_answers(*answers),
        images=ArrayDataset("many", np.zeros((IMAGES, 4, 4), np.uint8), answers[0].labels),
        preprocess=Preprocess(scale=1.0, channels=1),
    )
    targets = {"onnxruntime": report().targets["onnxruntime"]}
    write_report(report(targets=targets), folder / "report.json")
    write_reports(folder, folder)
    return folder


@pytest.fixture
def shown(browser, deep):
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.goto((deep / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield page
    context.close()


def _first_cells(page) -> list[str]:
    rows = page.locator("div.layers tbody tr:visible")
    return rows.evaluate_all("rows => rows.map(row => row.cells[0].textContent)")


def test_a_deep_network_makes_no_heavy_page_and_says_its_size(deep) -> None:
    text = (deep / "report.html").read_text()
    assert len(text.encode()) < MOST_BYTES
    told = re.search(r"one file of ([0-9.]+) KiB", text)
    assert told is not None
    assert float(told[1]) == pytest.approx(len(text.encode()) / 1024, abs=1)


def test_layers_are_ordered_by_the_column_that_is_clicked(shown) -> None:
    order = _first_cells(shown)
    assert order[0] == "stage.0.conv1"
    assert len(order) == 7 * BLOCKS
    heading = shown.locator("div.layers th", has_text="Weights")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert _first_cells(shown)[:2] == ["stage.49.conv3", "stage.49.conv2"]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    least = _first_cells(shown)
    assert least[:2] == ["stage.0.conv1", "stage.0.conv2"]
    assert "relu" in least[-1] or "add" in least[-1]  # what has no number is last, both ways
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert _first_cells(shown) == order
    shown.locator("div.layers th", has_text="ONNX node").locator("button").click()
    named = _first_cells(shown)
    assert named.index("stage.9.add") < named.index("stage.10.add")


def test_layers_are_filtered_and_searched(shown) -> None:
    bar = shown.locator("div.layers")
    bar.locator("select").select_option("float")
    assert _first_cells(shown) == ["stage.31.conv2"]
    bar.locator("select").select_option("weights")
    assert len(_first_cells(shown)) == 3 * BLOCKS
    bar.locator("input").fill("STAGE.4.")
    assert _first_cells(shown) == ["stage.4.conv1", "stage.4.conv2", "stage.4.conv3"]
    assert bar.locator("output").inner_text() == f"3 of {7 * BLOCKS} layers"


def test_the_script_draws_what_python_draws(shown, deep) -> None:
    precisions = {"stage.31.conv2": "float32", "stage.0.conv1": "int8"}
    blocks = residual_blocks(deep / "onnxruntime" / "model.qdq.onnx", precisions)
    assert len(blocks) == BLOCKS
    part = shown.locator(".blocks")
    names = part.locator("option").all_inner_texts()
    assert names == [block.name for block in blocks]
    shown.evaluate("document.querySelector('.picture').id = 'drawn'")
    for number in (0, 31):
        part.locator("select").select_option(names[number])
        drawn = shown.evaluate("document.querySelector('#drawn').innerHTML")
        shape = re.compile(r'(?:class|aria-label)="[^"]*"|<title>[^<]*</title>|>[^<>]+</text>')
        assert shape.sub("", drawn) == shape.sub("", block_svg(blocks[number]))
    before = (deep / "report.html").read_text()
    first = re.search(r'<div class="picture">(.*?)</div>', before, re.S)
    assert first is not None
    part.locator("select").select_option(names[0])
    assert shown.evaluate("document.querySelector('#drawn').innerHTML") == first[1]


def test_a_node_is_found_in_the_graph(shown) -> None:
    part = shown.locator(".blocks")
    assert "50 blocks, 1 with a computation in float" in part.locator("h3").inner_text()
    assert part.locator(".strip .float").count() == 1
    part.locator("input").fill("stage.31.conv2")
    assert part.locator("select").input_value() == "stage.31.add"
    assert part.locator(".found title").all_text_contents() == [
        "Relu stage.31.conv2.relu (int8)",
        "Conv stage.31.conv2 (float32)",
    ]
    part.locator("button", has_text=">").click()
    assert part.locator("select").input_value() == "stage.32.add"
    part.locator(".strip i").nth(3).click()
    assert part.locator("select").input_value() == "stage.3.add"


def test_confusions_of_many_classes_are_ranked(shown) -> None:
    part = shown.locator("#flips")
    assert part.locator("figure").count() == 0
    first = part.locator("[aria-label='Confusions of onnxruntime'] tbody tr").first
    assert first.inner_text().split("\t") == [
        "kind 7 of a thousand", "kind 8 of a thousand", "0", "20", "+20",
    ]  # fmt: skip
    worst = part.locator("[aria-label='Classes of onnxruntime'] tbody tr").first
    assert worst.inner_text().split("\t")[0] == "kind 7 of a thousand"
    assert worst.inner_text().split("\t")[-1] == "-20"


_LABELS = """() => [...document.querySelectorAll('.drawn svg')].filter(s => s.checkVisibility())
.flatMap(svg => [...svg.querySelectorAll('.role-axis-label')].map(axis =>
[...axis.querySelectorAll('text')].filter(t => t.textContent && getComputedStyle(t).opacity > 0)
.map(t => { const r = t.getBoundingClientRect();
return [t.textContent, r.left, r.top, r.right, r.bottom, t.getAttribute('transform')] })))"""


def test_no_two_labels_of_an_axis_collide(browser, output, report, target) -> None:
    close = {
        "onnxruntime": target(
            latency_ms=Percentiles(0.0021, 0.003, 0.004),
            fp32_latency_ms=Percentiles(0.34, 0.35, 0.4),
        )
    }
    told = report(targets=report().targets | close)
    told = replace(told, baseline=replace(told.baseline, latency_ms={}))
    write_report(told, output / "report.json")
    for _ in range(40):
        append_run(output / "history.sqlite", told, name="many")
    write_reports(output, output, history=output / "history.sqlite")
    for width in (1280, 390, 320):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((output / "report.html").as_uri())
        axes = page.evaluate(_LABELS)
        page.close()
        assert len(axes) > 8
        for axis in axes:
            upright = [label for label in axis if "rotate" not in (label[5] or "")]
            for a, b in combinations(upright, 2):
                apart = a[3] <= b[1] or b[3] <= a[1] or a[4] <= b[2] + 3 or b[4] <= a[2] + 3
                assert apart, (width, a, b)


def test_charts_fill_their_card_at_every_width(browser, output) -> None:
    write_reports(output, output)
    for width in (1280, 390, 320):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((output / "report.html").as_uri())
        shares = page.evaluate(
            "[...document.querySelectorAll('.drawn svg.wide, .drawn svg.narrow')]"
            ".filter(s => s.checkVisibility())"
            ".map(s => s.getBoundingClientRect().width / s.closest('figure').clientWidth)"
        )
        page.close()
        assert shares
        assert min(shares) > 0.98, width


def test_long_names_of_metrics_do_not_widen_a_phones_page(browser, output, report, target) -> None:
    near = MetricPart("sqnr", "dB", None, 36.7, -36.7, -37.2, -36.1, True, "pass", -20.0)
    metrics = {f"{name}.sqnr_db": near for name in ("features_of_the_last_stage", "map")}
    parts = {"openvino": target(top1=None, drop_pp=None, drop_upper_pp=None, metrics=metrics)}
    told = report(targets=parts, task=TaskPart("outputs", ("features", "map")))
    told = replace(told, baseline=replace(told.baseline, top1=None), pruning=None)
    write_report(told, output / "report.json")
    write_reports(output, output)
    page = browser.new_page(viewport={"width": 320, "height": 900})
    page.goto((output / "report.html").as_uri())
    assert "features_of_the_last_stage.sqnr_db" in page.inner_text("#summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.close()
