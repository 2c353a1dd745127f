"""Options that several commands share: how their texts become values."""

from __future__ import annotations

import inspect

import pytest

from edgeres.cli import options as o
from edgeres.errors import UsageError

NOTHING = dict.fromkeys(
    ("scale", "mean", "std", "resize", "crop", "channel_order", "layout", "interpolation")
)


def test_what_was_not_given_is_left_out():
    assert o.preprocess_fields(NOTHING) == {}
    told = {**NOTHING, "mean": "0.5,0.25", "crop": "28,24", "layout": "nhwc"}
    fields = o.preprocess_fields(told)
    assert list(fields["mean"]) == [0.5, 0.25]
    assert list(fields["crop"]) == [28, 24]
    assert fields["layout"] == "nhwc"
    assert "std" not in fields
    dotted = o.preprocess_changes(told)
    assert dotted == {f"preprocess.{name}": value for name, value in fields.items()}


@pytest.mark.parametrize("told", [{"mean": "half"}, {"std": "1,"}, {"crop": "1,2,3"}])
def test_texts_that_are_no_numbers_are_refused(told):
    with pytest.raises(UsageError):
        o.preprocess_fields({**NOTHING, **told})


def test_a_command_gets_the_options_in_place_of_its_parameter():
    seen = {}

    @o.takes_preprocess
    def command(name: str, *, preprocess: o.PreprocessOptions, as_json: bool = False) -> None:
        seen.update(name=name, preprocess=preprocess, as_json=as_json)

    assert set(NOTHING) | {"name", "as_json"} == set(inspect.signature(command).parameters)
    command(name="a", as_json=True, **{**NOTHING, "scale": 2.0})
    assert seen == {"name": "a", "as_json": True, "preprocess": {**NOTHING, "scale": 2.0}}


def test_shapes_and_options_are_parsed():
    assert o.parse_options(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    shapes = o.parse_shapes(["1x3x8x8,2x3x8x8,4x3x8x8"])
    assert shapes[""].opt == (2, 3, 8, 8)
    for texts in (["a"], ["=1"]):
        with pytest.raises(UsageError):
            o.parse_options(texts)
    with pytest.raises(UsageError):
        o.parse_shapes(["1x3,2x3"])


def test_a_size_is_a_side_or_two():
    assert o.parse_size("--size", "28") == 28
    assert o.parse_size("--size", "28,24") == [28, 24]
