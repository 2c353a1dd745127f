"""Layers with their tails, as the graph has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.errors import ModelError
from edgeres.layer_latency.shapes import layer_widths, network_layers

from .conftest import small_network


def test_layers_tails_and_widths(network: Path) -> None:
    layers = {layer.name: layer for layer in network_layers(network)}
    assert {n: layer.shape.tail for n, layer in layers.items()} == {
        "conv1": ("relu", "maxpool 3/2/1"),
        "a.conv1": ("relu",),
        "a.conv2": ("add", "relu"),  # the sum belongs to the longer path
        "a.down": (),
        "fc": (),
    }
    assert layer_widths(network)["a.down"] == (16, 32)
    assert layers["a.conv1"].shape.size == (8, 8)
    assert layers["a.down"].shape.strides == (2, 2)
    assert layers["conv1"].reads_image
    assert layers["fc"].gives_logits
    assert not layers["a.conv2"].reads_image
    assert layers["conv1"].shape.key == (
        "Conv 3x3 stride 1x1 pads 1,1,1,1 image 16x16 + relu + maxpool 3/2/1"
    )


def test_grouped_convolutions_keep_their_unit(tmp_path: Path) -> None:
    layers = {n.name: n for n in network_layers(small_network(tmp_path / "g.onnx", unit=4))}
    assert layers["a.group"].shape.unit == 4
    assert (layers["a.group"].inputs, layers["a.group"].outputs) == (32, 32)
    assert "groups of 4" in layers["a.group"].shape.key


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        network_layers(tmp_path / "none.onnx")
