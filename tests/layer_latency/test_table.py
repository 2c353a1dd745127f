"""The file of measured times: what it interpolates, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import ArtefactError
from edgeres.layer_latency.shapes import LayerShape
from edgeres.layer_latency.table import (
    LatencyTable,
    MeasurementContext,
    Multiples,
    NetworkTime,
    ShapeTimes,
)

PLACE = MeasurementContext("b", "cpu", "int8", 2, 1, "CPU", 2, ("avx2",), {"b": "1.0"})
SHAPE = LayerShape("Conv", (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), 0, ("relu",))
TIMES = ShapeTimes((8, 32, 64), (16, 64), ((1.0, 2.0), (2.0, 4.0), (4.0, 8.0)))


@given(st.floats(1, 200), st.floats(1, 200), *[st.floats(0.01, 1) for _ in range(4)])
def test_bilinear_times_are_met_everywhere(
    i: float, o: float, a: float, b: float, c: float, d: float
) -> None:
    """A product of affine functions is what the grid stands for, so it is exact beyond it too."""

    def exact(inputs: float, outputs: float) -> float:
        return a + b * inputs + c * outputs + d * inputs * outputs

    grid = ((8, 32, 64), (16, 64))
    times = ShapeTimes(*grid, tuple(tuple(exact(x, y) for y in grid[1]) for x in grid[0]))
    assert times.at(i, o) == pytest.approx(exact(i, o), rel=1e-9)


def test_one_width_alone_stands_for_all() -> None:
    assert ShapeTimes((3,), (8, 16), ((1.0, 2.0),)).at(3, 12) == 1.5
    assert ShapeTimes((0,), (8,), ((1.0,),)).at(8, 8) == 1.0
    assert ShapeTimes((8, 16), (8,), ((1.0,), (5.0,))).at(1, 8) > 0  # never free


def test_widths_are_rounded_up_to_what_the_device_computes() -> None:
    table = LatencyTable(PLACE, Multiples(8, 16)).with_shape(SHAPE, TIMES)
    assert table.layer_ms(SHAPE, 32, 40) == table.layer_ms(SHAPE, 32, 48) == TIMES.at(32, 48)
    assert table.layer_ms(SHAPE, 40, 64) == TIMES.at(40, 64)
    fixed = LatencyTable(PLACE, Multiples(8, 16)).with_shape(
        SHAPE, ShapeTimes((3,), (16, 64), ((1.0, 2.0),))
    )
    assert fixed.layer_ms(SHAPE, 3, 16) == 1.0
    with pytest.raises(ArtefactError, match="no layer 'Gemm'"):
        table.layer_ms(LayerShape("Gemm", (1, 1)), 8, 8)


def test_through_a_file_and_back(tmp_path: Path) -> None:
    table = LatencyTable(PLACE, Multiples(8, 16), {"outputs": {"8": 0.5}})
    table = table.with_shape(SHAPE, TIMES).with_network("abc", [NetworkTime(1.0, 2.0, 3.0)])
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table
    assert '"inputs": [8, 32, 64]' in (tmp_path / "t.json").read_text()


def test_places_have_names_of_their_own() -> None:
    assert PLACE.file_name.startswith("latency-b-int8-")
    for change in ({"threads": 1}, {"cpu": "x"}, {"versions": {"b": "2"}}, {"batch": 4}):
        assert replace(PLACE, **change).file_name != PLACE.file_name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.clear(),
        lambda c: c.update(format="other"),
        lambda c: c["shapes"]["k"].update(ms=[[1.0, 2.0]]),
        lambda c: c["shapes"]["k"].update(inputs=[8, 8, 64]),
        lambda c: c["shapes"]["k"]["ms"][0].__setitem__(0, -1.0),
        lambda c: c["place"].pop("cpu"),
    ],
)
def test_what_is_no_table_is_refused(change: object, tmp_path: Path) -> None:
    good = LatencyTable(PLACE, Multiples(), {}, {"k": TIMES})
    content = json.loads(good.to_json())
    change(content)  # type: ignore[operator]
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=r"t\.json"):
        LatencyTable.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ArtefactError):
        LatencyTable.load(tmp_path / "t.json")
    with pytest.raises(ArtefactError, match="can be read"):
        LatencyTable.load(tmp_path / "none.json")
