"""A small residual network as Python code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NETWORK = Path(__file__).parents[1] / "convert" / "throwaway" / "code_network.py"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """``net.py:build`` makes a small residual network."""
    return Path(shutil.copyfile(NETWORK, tmp_path / "net.py"))
