"""``edgeres clean``: what was removed, or would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.pipeline.clean import Cleaned

from .conftest import invoke


@pytest.mark.parametrize(
    ("options", "word"), [([], "removed"), (["--dry-run"], "would be removed")]
)
def test_each_folder_has_its_line(note, options, word):
    gone = Cleaned(Path("runs/a"), ("build-1", "build-2"), 2048, 3, 10, finished=True)
    seen = note("edgeres.pipeline.clean.clean", [gone])
    result = invoke("clean", "runs", *options)
    assert result.exit_code == 0
    assert "runs/a: a run had been stopped at its end; finished." in result.stdout
    assert f"runs/a: 2 results {word} (" in result.stdout
    assert "3 kept (" in result.stdout
    assert seen.options == {"everything": False, "dry_run": bool(options)}


def test_json_has_the_names(note):
    note(
        "edgeres.pipeline.clean.clean",
        [Cleaned(Path("runs/a"), ("build-1",), 2048, 3, 10, finished=False)],
    )
    (folder,) = json.loads(invoke("clean", "--all", "--json").stdout)["folders"]
    assert (folder["folder"], folder["removed"]) == ("runs/a", ["build-1"])
