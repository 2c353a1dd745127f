"""Residual blocks are found and drawn with every node on both ways."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from edgeres.errors import ModelError
from edgeres.report.block_graph import residual_blocks
from edgeres.report.block_picture import block_svg


def test_identity_and_convolution_on_the_skip(residual_onnx) -> None:
    first, second = residual_blocks(residual_onnx, {"conv_a": "int8", "conv_skip": "float32"})
    assert (first.name, second.name) == ("first_add", "second_add")
    assert "computations in INT8: 1, in float: 0. The skip is the identity." in first.words
    assert "computations in INT8: 0, in float: 1. On the skip: 1." in second.words
    assert "float32" in block_svg(second)


def test_boxes_are_the_nodes_and_none_lies_on_another(residual_onnx) -> None:
    drawn = ET.fromstring(block_svg(residual_blocks(residual_onnx, {})[1]))
    titles = [t.text for t in drawn.iter("title")]
    assert sorted(titles) == sorted(
        [
            "Relu relu",
            "Conv conv_b",
            "Conv conv_skip",
            "QuantizeLinear skip_q",
            "DequantizeLinear skip_d",
            "Add second_add",
        ]
    )
    places = [(rect.get("x"), rect.get("y")) for rect in drawn.iter("rect")]
    assert len(set(places)) == len(places) == 6
    assert len(list(drawn.iter("path"))) == 6


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ModelError, match="Expected an ONNX model"):
        residual_blocks(tmp_path / "model.onnx", {})
