"""Weights that were found once are found again, and nothing else is taken for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgeres.graph.layers import Layer
from edgeres.quantization import weights
from edgeres.quantization.found_weights import FoundWeights, content_of
from edgeres.quantization.weights import quantize_weight


@dataclass(frozen=True)
class Sized:
    nbytes: int


@pytest.fixture
def conv_layer() -> Layer:
    """A 3x3 Conv of two groups with four input channels each."""
    weight = np.random.default_rng(0).normal(0, 0.05, (6, 36)).astype(np.float32)
    node = ir.node("Conv", [], name="conv")
    return Layer(node, weight, None, (3, 3), 2, 0, (6, 4, 3, 3))


def test_the_longest_unused_goes_first_and_what_is_too_large_is_not_kept() -> None:
    found = FoundWeights(100)
    made: list[str] = []

    def get(key: str, size: int) -> None:
        def make() -> Sized:
            made.append(key)
            return Sized(size)

        assert found.get(key, make).nbytes == size

    for key, size in [("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40)]:
        get(key, size)
    assert made == ["a", "b", "c", "b"]
    get("huge", 101)
    get("huge", 101)
    get("b", 40)
    assert made == ["a", "b", "c", "b", "huge", "huge"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((np.zeros(4),), (np.zeros((2, 2)),)),
        ((np.zeros(4, np.float32),), (np.zeros(4, np.int32),)),
        ((np.zeros(0), np.ones(1)), (np.ones(1), np.zeros(0))),
        ((None, 1.0), (1.0, None)),
        (("ab", "c"), ("a", "bc")),
        ((np.array([0.0]),), (np.array([-0.0]),)),
    ],
)
def test_unlike_contents_have_unlike_keys(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    assert content_of(*one) != content_of(*other)  # type: ignore[arg-type]


def settings(layer: Layer) -> dict[str, dict[str, object]]:
    """Every argument of the search, changed in turn."""
    rows = len(layer.weight)
    energy = np.linspace(0.5, 2.0, 8, dtype=np.float32)
    return {
        "plain": {},
        "per tensor": {"per_channel": False},
        "safe": {"saturating": True},
        "energy": {"energy": energy},
        "other energy": {"energy": energy[::-1].copy()},
        "bound": {"least_scales": np.full(rows, 0.02)},
        "least": {"least_scale": 0.03},
        "unbalanced": {"balanced": False},
        "given": {"scales": np.full(rows, 0.01, np.float32)},
        "given one": {"scales": np.full(1, 0.01, np.float32), "per_channel": False},
    }


def told(layer: Layer, **arguments: object) -> list[NDArray[np.generic]]:
    found = quantize_weight(layer, **arguments)  # type: ignore[arg-type]
    return [found.values, found.scales, np.array(found.dead_channels), np.array(found.sqnr_db)]


def test_what_is_found_again_is_what_a_new_search_finds(
    conv_layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = conv_layer.weight.copy()
    dead[1] = 0.0
    bias = np.linspace(-1, 1, len(dead), dtype=np.float32)
    layers = [
        conv_layer,
        replace(conv_layer, weight=conv_layer.weight * np.float32(1.01)),
        replace(conv_layer, weight=dead, bias=bias),
        replace(conv_layer, weight=dead, bias=None),
        replace(conv_layer, weight=dead, bias=bias * 2),
    ]
    tries = [(layer, case) for layer in layers for case in settings(layer).values()]
    monkeypatch.setattr(weights, "_FOUND", FoundWeights(0))
    fresh = [told(layer, **case) for layer, case in tries]
    monkeypatch.setattr(weights, "_FOUND", FoundWeights())
    for _ in range(2):
        for (layer, case), expected in zip(tries, fresh, strict=True):
            for got, wanted in zip(told(layer, **case), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_a_bound_that_no_candidate_reaches_is_not_searched_again(
    conv_layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []
    search = weights._search_rows

    def counted(*arguments: object) -> NDArray[np.float32]:
        searches.append(1)
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "_search_rows", counted)
    monkeypatch.setattr(weights, "_FOUND", FoundWeights())
    peaks = np.abs(conv_layer.weight).max(axis=1).astype(np.float64)
    for part in (1e-6, 0.5, 0.59, 0.9):
        quantize_weight(conv_layer, least_scales=part * peaks / 127)
    assert len(searches) == 2
