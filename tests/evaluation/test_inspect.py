"""The inside of real engines, in their own words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeres.errors import ArtefactError
from edgeres.evaluation.inspect import inspect


def test_an_int8_engine_says_so(engines) -> None:
    found = inspect(engines["int8"], source=engines["int8 source"])
    assert found.coverage.int8_coverage == 1.0
    assert found.coverage.macs == 3 * 16
    assert any(layer.precision == "int8" for layer in found.layers)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["int8_coverage"] == 1.0
    assert told["float_layers"] == []
    assert {"name", "op", "precision", "nodes", "time_ms"} <= set(told["layers"][0])
    assert told["size_bytes"] == engines["int8"].stat().st_size


def test_a_float_engine_says_so(engines) -> None:
    found = inspect(engines["fp32"])
    assert found.coverage.int8_coverage == 0.0
    assert [layer.name for layer in found.coverage.float_layers] == ["templates"]


def test_the_source_is_found_beside_the_engine(engines, tmp_path: Path) -> None:
    shutil.copytree(engines["int8"].parent, tmp_path / "engine")
    shutil.copy(engines["fp32 source"], tmp_path / "engine" / "a.onnx")  # another model
    shutil.copy(engines["int8 source"], tmp_path / "engine" / "b.onnx")
    assert inspect(tmp_path / "engine" / engines["int8"].name).coverage.int8_coverage == 1.0


def test_another_source_is_refused(engines) -> None:
    with pytest.raises(ArtefactError, match="is not the ONNX file"):
        inspect(engines["int8"], source=engines["fp32 source"])


def test_damaged_engines_are_refused(engines, tmp_path: Path) -> None:
    shutil.copytree(engines["int8"].parent, tmp_path / "engine")
    engine = tmp_path / "engine" / engines["int8"].name
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(ArtefactError, match="SHA-256"):
        inspect(engine)
