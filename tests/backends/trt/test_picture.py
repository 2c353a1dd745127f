"""The picture in the documents shows what the quantizer does, not what it once did."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_picture_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime calibrates")
    spec = importlib.util.spec_from_file_location("draw_qdq", ROOT / "scripts" / "draw_qdq.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "TARGET", tmp_path / "qdq.svg")
    program.main()
    fresh = (tmp_path / "qdq.svg").read_text()
    assert fresh.count(">DQ<") == 4
    assert fresh == (ROOT / "docs" / "qdq.svg").read_text(), "run scripts/draw_qdq.py"
