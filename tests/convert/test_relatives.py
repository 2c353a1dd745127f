"""A checkpoint that nobody says the kind of carries that doubt into report and model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgeres.models.checkpoint import load_checkpoint
from edgeres.system.assets import asset_path

from .conftest import CHECKPOINT, invoke

RECIPE = """\
name: foreign
model: {{source: net.pth{more}}}
preprocess: {{mean: [0.286], std: [0.353]}}
data: {{validation_samples: 200, calibration_samples: 32}}
targets: [onnxruntime]
gates: {{max_drop: 10}}
benchmark: {{seconds: 0.1}}
"""
DOUBT = "cannot tell a plain network from its relatives"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """The reference network's weights alone."""
    state = load_checkpoint(asset_path("recipes", CHECKPOINT)).state
    torch.save(state, tmp_path / "net.pth")
    return tmp_path


def findings(folder: Path, more: str = "") -> list[str]:
    (folder / "recipe.yaml").write_text(RECIPE.format(more=more))
    result = invoke("convert", folder / "recipe.yaml", "--output", folder / "out")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "out" / "report.json").read_text())
    return [finding["text"] for finding in report["findings"]]


def test_doubt_is_told_until_something_settles_it(foreign: Path) -> None:
    assert any(DOUBT in text for text in findings(foreign))
    assert invoke("report", foreign / "out").exit_code == 0
    assert DOUBT in (foreign / "out" / "MODEL_CARD.md").read_text()
    assert not any(DOUBT in text for text in findings(foreign, ", declared_top1: 0.93"))


def test_a_file_beside_the_weights_is_part_of_the_key(foreign: Path) -> None:
    findings(foreign)
    (foreign / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}))
    result = invoke("convert", foreign / "recipe.yaml", "--output", foreign / "out")
    assert result.exit_code == 3
    assert "resnetblur18" in result.output
