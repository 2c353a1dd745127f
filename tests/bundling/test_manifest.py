"""The manifest: exact round trip, and any other content is one error."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.backends.base import ShapeRange
from edgeres.bundling.manifest import EngineEntry, FileEntry, Manifest, parse_manifest
from edgeres.errors import ArtefactError

WHERE = Path("net.edgeres")
NAMES = ("engines/cpu/m", "engines/cpu/m.engine.json", "s.png", "expected.json")


def manifest(**changes) -> Manifest:
    engine = EngineEntry(
        backend="null",
        engine=NAMES[0],
        files=NAMES[:2],
        qdq=NAMES[0],
        device="cpu",
        versions={"runtime": "1.2"},
        saturating=False,
        architecture="any",
        needs=(),
        saturation_safe=True,
        expected=NAMES[3],
        expected_from="null",
        proven={"top1": 0.9},
        options={"max_batch": "8"},
        shapes={"image": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))},
    )
    values = {
        "name": "net",
        "created_by": "edgeres 1",
        "preprocess": {"scale": 1.0},
        "class_names": ("a", "b"),
        "outputs": "logits",
        "samples": (NAMES[2],),
        "engines": {"cpu": engine},
        "proven_on": {"cpu": "x"},
        "files": {name: FileEntry("0" * 64, 3) for name in NAMES},
    }
    return Manifest(**{**values, **changes})


def test_round_trip():
    made = manifest()
    assert parse_manifest(made.to_bytes(), WHERE) == made
    assert parse_manifest(made.to_bytes(), WHERE).to_bytes() == made.to_bytes()


def test_a_manifest_without_options_and_shapes_is_read():
    raw = json.loads(manifest().to_bytes())
    del raw["engines"]["cpu"]["options"], raw["engines"]["cpu"]["shapes"]
    entry = parse_manifest(json.dumps(raw).encode(), WHERE).engines["cpu"]
    assert (entry.options, entry.shapes) == ({}, {})


@pytest.mark.parametrize("ends", [((2,), (1,), (3,)), ((0,), (1,), (1,)), ((1,), (1, 1), (1,))])
def test_shapes_that_are_no_range_are_refused(ends):
    range_ = dict(zip(("min", "opt", "max"), ends, strict=True))
    with pytest.raises(ArtefactError, match="shapes of 'image'"):
        parse_manifest(
            _with(
                "engines.cpu", {**asdict(manifest().engines["cpu"]), "shapes": {"image": range_}}
            ),
            WHERE,
        )


def _with(path: str, value: object) -> bytes:
    raw = {"format": "edgeres-bundle", "schema": 1, **asdict(manifest())}
    place = raw
    *way, last = path.split(".")
    for key in way:
        place = place[key]
    place[last] = value
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("format", "other", "not the manifest of a bundle"),
        ("schema", 2, "schema 2"),
        ("name", 3, "expected text"),
        ("class_names", ["one"], "1 classes"),
        ("class_names", "ab", "list of texts"),
        ("outputs", "scores", "logits or probabilities"),
        ("engines", {}, "no engine"),
        ("engines", [], "expected an object"),
        ("engines.cpu.engine", "s.png", "not among its files"),
        ("engines.cpu.files", ["/etc/passwd", "engines/cpu/m"], "/etc/passwd"),
        ("engines.cpu.qdq", "other", "other"),
        ("engines.cpu.expected", "../x", "../x"),
        ("engines.cpu.saturating", 1, "true or false"),
        ("engines.cpu.versions", {"a": 1}, "expected text"),
        ("samples", ["none.png"], "none.png"),
        ("files", {"../x": {"sha256": "0" * 64, "size_bytes": 1}}, "../x"),
        ("files", {"manifest.json": {"sha256": "0" * 64, "size_bytes": 1}}, "manifest.json"),
        ("files", {"a": {"sha256": "zz", "size_bytes": 1}}, "no SHA-256"),
        ("files", {"a": {"sha256": "0" * 64, "size_bytes": -1}}, "no size"),
        ("files", {"a": {"sha256": "0" * 64, "size_bytes": True}}, "no size"),
    ],
)
def test_what_is_wrong_is_named(path, value, word):
    with pytest.raises(ArtefactError, match=word.replace(".", r"\.")):
        parse_manifest(_with(path, value), WHERE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"format": NaN}',
        b'{"format": "edgeres-bundle", "format": "edgeres-bundle"}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"1" * 5000,
    ],
)
def test_what_is_no_manifest(content):
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        parse_manifest(content, WHERE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
paths = st.sampled_from(
    [*asdict(manifest()), *(f"engines.cpu.{key}" for key in asdict(manifest())["engines"]["cpu"])]
)


@settings(max_examples=300)
@given(paths, json_values)
def test_any_value_in_any_place_is_taken_or_refused(path, value):
    try:
        found = parse_manifest(_with(path, value), WHERE)
    except ArtefactError:
        return
    assert found.files.keys() >= {*found.samples, *found.engines["cpu"].files}
