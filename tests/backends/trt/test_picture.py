"""The picture in the documents shows what the quantizer does, not what it once did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


def test_the_picture_is_up_to_date(
    load_program: Callable[[Path], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime calibrates")
    program = load_program(ROOT / "scripts" / "draw_qdq.py")
    monkeypatch.setattr(program, "TARGET", tmp_path / "qdq.svg")
    program.main()
    fresh = (tmp_path / "qdq.svg").read_text()
    assert fresh.count(">DQ<") == 4
    assert fresh == (ROOT / "docs" / "qdq.svg").read_text(), "run scripts/draw_qdq.py"
