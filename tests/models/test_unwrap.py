"""State dicts inside what training scripts save around them."""

from __future__ import annotations

import collections

import pytest
import torch

from edgeres.errors import ModelError
from edgeres.models.unwrap import find_state_dict

WEIGHTS = {"conv1.weight": torch.zeros(1), "fc.bias": torch.ones(2)}
AVERAGED = {"conv1.weight": torch.full((1,), 3.0), "fc.bias": torch.ones(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("content", "wrapped_in"),
    [
        (WEIGHTS, ""),
        (collections.OrderedDict(WEIGHTS), ""),
        ({"state_dict": WEIGHTS, "optimizer": OPTIMIZER, "epoch": 3}, "state_dict"),
        ({"model": WEIGHTS}, "model"),
        ({"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER}, "model_state_dict"),
        ({"model": {"state_dict": WEIGHTS}}, "model/state_dict"),
        ({"best": WEIGHTS, "epoch": 1}, "best"),
        ({"ema": {"decay": 0.99}, "model": WEIGHTS}, "model"),
    ],
)
def test_wrapped_state_dicts(content: object, wrapped_in: str) -> None:
    found = find_state_dict(content, source="x.pt")
    assert found.wrapped_in == wrapped_in
    assert found.tensors.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema"])
def test_averaged_weights_come_first(key: str) -> None:
    found = find_state_dict({"state_dict": WEIGHTS, key: AVERAGED}, source="x.pt")
    assert found.tensors["conv1.weight"].item() == 3.0
    nested = find_state_dict({"state_dict": WEIGHTS, key: {"shadow": AVERAGED}}, source="x.pt")
    assert nested.wrapped_in == f"{key}/shadow"


def test_other_entries_beside_tensors_are_left_out() -> None:
    found = find_state_dict({**WEIGHTS, "epoch": 3}, source="x.pt")
    assert set(found.tensors) == set(WEIGHTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"Expected a state dict in x\.pt, got list"),
        (torch.zeros(2), "got Tensor"),
        ({"model": torch.zeros(1), "epoch": 2}, None),
        ({"epoch": 2, "lr": 0.1}, r"its keys are epoch, lr"),
        ({}, "its keys are none"),
        ({str(i): i for i in range(12)}, "and 2 more"),
        ({"student": WEIGHTS, "teacher": WEIGHTS}, "its keys are student, teacher"),
    ],
)
def test_what_is_no_state_dict_is_named(content: object, message: str | None) -> None:
    if message is None:  # a parameter called 'model' is odd, but a state dict
        assert set(find_state_dict(content, source="x.pt").tensors) == {"model"}
        return
    with pytest.raises(ModelError, match=message):
        find_state_dict(content, source="x.pt")


def test_endless_nesting_is_refused() -> None:
    content: dict[str, object] = dict(WEIGHTS)
    for _ in range(40):
        content = {"model": content}
    with pytest.raises(ModelError, match=r"deeper than 6|No state dict"):
        find_state_dict(content, source="x.pt")
