"""Markdown and model card say what the report says, and no more."""

from __future__ import annotations

import dataclasses

from ruamel.yaml import YAML

from edgeres.report.markdown import plain, report_markdown
from edgeres.report.model_card import model_card
from edgeres.report.schema import Finding


def test_table_has_a_column_for_each_target(report) -> None:
    text = report_markdown(report())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 11
    assert {line.count("|") for line in table} == {5}
    assert "| Speed-up | 2.90x | doubtful | - |" in table
    assert "- **INCONCLUSIVE** openvino: top-1 drop" in text


def test_texts_from_outside_are_no_markup(report) -> None:
    assert plain("a | <img> *b* [c](d)\n# e") == "a \\| &lt;img&gt; \\*b\\* \\[c\\](d) \\# e"
    finding = Finding("warning", "x", "see <script> | here")
    assert "see &lt;script&gt; \\| here" in report_markdown(report(findings=(finding,)))


def test_what_holds_for_several_targets_is_told_once(report) -> None:
    told = tuple(Finding("warning", "x", "slow.", name) for name in ("onnxruntime", "openvino"))
    assert "- warning (onnxruntime, openvino): slow.\n" in report_markdown(report(findings=told))
    assert "- onnxruntime, openvino: slow.\n" in model_card(report(findings=told))


def test_card_has_a_head_that_is_yaml_and_says_what_is_open(report) -> None:
    text = model_card(report(), name='net: "x"', license_name="Apache-2.0")
    head = YAML(typ="safe").load(text.split("---")[1])
    assert head["license"] == "Apache-2.0"
    assert head["model-index"][0]["name"] == 'net: "x"'
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.954
    assert "- Licence of the weights: Apache-2.0" in text
    assert "- tensorrt: no NVIDIA driver here." in text.partition("## Limits")[2]
    assert "Licence of the weights: not stated" in model_card(report())


def test_card_says_how_the_vendors_tool_builds_it(report) -> None:
    assert "vendor" not in model_card(report())
    targets = report().targets
    told = dataclasses.replace(targets["tensorrt"], commands=("in MODEL/1: tool --onnx=a",))
    card = model_card(dataclasses.replace(report(), targets={**targets, "tensorrt": told}))
    section = card.partition("## Built with the vendor's own tools")[2].partition("##")[0]
    assert "- tensorrt: in MODEL/1: tool --onnx=a" in section


def test_card_of_engines_that_never_ran_claims_no_accuracy(report) -> None:
    targets = {"tensorrt": report().targets["tensorrt"]}
    text = model_card(dataclasses.replace(report(), targets=targets))
    assert "model-index" not in text
    assert "Pruned: structured, to 50 % of the multiply-adds" in text


def test_card_of_fp32_engines_claims_no_quantization(report, target) -> None:
    assert "- Quantized: INT8 weights" in model_card(report())
    text = model_card(report(targets={"openvino": target(precision="fp32")}))
    assert "- Not quantized: weights and activations are FP32" in text
    assert "Quantized: INT8" not in text
    assert 'tags: ["fp32", "openvino"]' in text
    assert "Top-1 %, FP32 → FP32" in text
