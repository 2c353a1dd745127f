"""The Pareto set, the winner, and the picture of both."""

from __future__ import annotations

import itertools
from dataclasses import replace
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from edgeres.tuning.plot import pareto_svg
from edgeres.tuning.record import fastest, pareto_dict, pareto_front, pooled

from .conftest import measured, tried

POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(-3, 9)), max_size=12)


@given(POINTS)
def test_the_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    tries = [tried(n, measured(float(x), float(y))) for n, (x, y) in enumerate(points)]
    front = pareto_front(tries)
    kept = {(t.measured.latency_ms, t.measured.drop) for t in front if t.measured}
    beaten = {
        a
        for a, b in itertools.permutations({(float(x), float(y)) for x, y in points}, 2)
        if b[0] <= a[0] and b[1] <= a[1]
    }
    assert kept == {(float(x), float(y)) for x, y in points} - beaten
    assert [t.measured.latency_ms for t in front if t.measured] == sorted(k[0] for k in kept)


def test_the_winner_is_the_fastest_that_passed() -> None:
    tries = [
        tried(0, measured(3.0, 0.1)),
        tried(1, measured(1.0, 2.0, "fail")),
        tried(2, None, "it broke"),
        tried(3, measured(2.0, 0.4)),
        tried(4, measured(1.5, 0.4, "inconclusive")),
    ]
    best = fastest(tries)
    assert best is not None
    assert best.number == 3
    assert fastest(tries[1:3]) is None
    told = pareto_dict(tries)
    assert [t["number"] for t in told["pareto"]] == [1, 4, 0]
    assert told["trials"][2] == {
        "number": 2, "target": "onnxruntime", "budget": 0.5, "importance": "l2",
        "calibrator": "mse", "precision": "int8", "error": "it broke",
    }  # fmt: skip
    root = ElementTree.fromstring(pareto_svg(tries))
    told = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(text.endswith((" pass", " fail", " inconclusive")) for text in told) == 4
    (line,) = (group for group in root.iter() if "mark-line" in group.get("class", ""))
    assert line[0].get("d", "").count("L") == 2  # three tries, joined


def test_a_picture_of_nothing() -> None:
    ElementTree.fromstring(pareto_svg([]))
    ElementTree.fromstring(pareto_svg([tried(0, measured(1.0, 0.0))]))


def test_equal_engines_share_the_median_of_their_times() -> None:
    """Of three measurements of one file none is faster; another file keeps its own."""
    equal = [replace(measured(ms, 0.1), source_sha256="a") for ms in (2.0, 1.0, 3.0)]
    tries = [tried(n, one) for n, one in enumerate([*equal, measured(1.5, 0.1), measured(9.0, 0)])]
    times = [t.measured.latency_ms for t in pooled([*tries, tried(5, None, "no memory.")])[:5]]
    assert times == [2.0, 2.0, 2.0, 1.5, 9.0]
    best = fastest(pooled(tries))
    assert best is not None
    assert best.number == 3
    other = replace(tries[1], candidate=replace(tries[1].candidate, target="openvino"))
    assert pooled([tries[0], other])[1] == other
