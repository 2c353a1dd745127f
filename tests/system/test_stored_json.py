"""What was stored as JSON comes back as types, and a bad field is named with its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from edgeres.errors import ArtefactError
from edgeres.system.stored_json import check_stored, parse_stored, read_json_object, read_stored


@dataclass(frozen=True)
class Layer:
    name: str
    nodes: tuple[str, ...] = ()
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Account:
    kind: Literal["int8", "float"]
    layers: tuple[Layer, ...]
    macs: Mapping[str, int]


GOOD = {"kind": "int8", "layers": [{"name": "a", "nodes": ["x"], "sqnr_db": 30}], "macs": {"x": 4}}
READ = Account("int8", (Layer("a", ("x",), 30.0),), {"x": 4})


def test_a_file_is_read_as_its_type(tmp_path):
    path = tmp_path / "account.json"
    path.write_text(json.dumps(GOOD))
    assert read_stored(path, Account) == READ
    path.write_text(json.dumps([GOOD, GOOD]))
    assert read_stored(path, tuple[Account, ...]) == (READ, READ)


def test_fields_of_a_newer_version_are_passed_over():
    text = json.dumps({**GOOD, "later": 1})
    assert parse_stored(text, Account, where="it") == READ


def test_numbers_that_json_does_not_know_stay():
    text = '{"name": "a", "sqnr_db": Infinity}'
    assert parse_stored(text, Layer, where="it").sqnr_db == float("inf")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "half"}, "kind"),
        ({"layers": [{"name": "a"}, {"nodes": []}]}, r"layers\.1\.name"),
        ({"layers": [{"name": "a", "nodes": [1]}]}, r"layers\.0\.nodes\.0"),
        ({"macs": {"x": "many"}}, r"macs\.x"),
        ({"layers": None}, "layers"),
    ],
)
def test_file_and_field_are_named(tmp_path, changes, field):
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**GOOD, **changes}))
    with pytest.raises(ArtefactError, match=rf"account\.json: {field}: ") as raised:
        read_stored(path, Account, hint="Do it again.")
    assert raised.value.hint == "Do it again."


@pytest.mark.parametrize(("content", "told"), [(b"{", "is not JSON"), (b"\xff", "cannot be read")])
def test_a_file_that_is_no_json_is_named(tmp_path, content, told):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=rf"a\.json: {told}"):
        read_stored(tmp_path / "a.json", Account)
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_stored(tmp_path / "none.json", Account)


def test_a_free_mapping_must_be_an_object(tmp_path):
    (tmp_path / "a.json").write_text('{"x": [1]}')
    assert read_json_object(tmp_path / "a.json") == {"x": [1]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ArtefactError, match="the whole: "):
        read_json_object(tmp_path / "a.json")


def test_values_of_a_child_are_checked_alike():
    assert check_stored([GOOD], list[Account], where="the child") == [READ]
    with pytest.raises(ArtefactError, match=r"the child: 0\.kind: "):
        check_stored([{}], list[Account], where="the child")
