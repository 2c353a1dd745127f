"""A bundle of an engine that did not pass says so wherever it is looked at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from edgeres.bundling.open import OpenBundle
from edgeres.cli import app
from edgeres.report.model_card import model_card
from edgeres.report.schema import read_report


def test_bundle_run_and_model_repository_say_so(output, tmp_path, images) -> None:
    target = next(iter(json.loads((output / "report.json").read_text())["targets"]))
    folder = tmp_path / "doubted"
    shutil.copytree(output, folder, ignore=shutil.ignore_patterns(".stages"))
    report = json.loads((folder / "report.json").read_text())
    report["targets"][target] |= {"verdict": "inconclusive", "reason": "100 samples are too few."}
    (folder / "report.json").write_text(json.dumps(report))

    told = f"engine for {target} is not proven; its verdict is inconclusive: 100 samples are too"
    made = CliRunner().invoke(app, ["bundle", str(folder), "--target", target])
    assert made.exit_code == 0, made.output
    assert told in made.stderr
    with OpenBundle(folder / "bundle.edgeres") as opened:
        card = opened.read("MODEL_CARD.md").decode()
        raw = json.loads(opened.manifest.to_bytes())
    assert raw["not_proven"] == {target: "inconclusive: 100 samples are too few."}
    head, _, _ = card.partition("## Model details")
    assert f"- {target}: **INCONCLUSIVE**. 100 samples are too few." in head
    run = ["run", str(folder / "bundle.edgeres"), str(images[0]), "--trust", "--json"]
    used = CliRunner().invoke(app, run)
    assert told in used.stderr
    assert json.loads(used.stdout)["not_proven"] == raw["not_proven"][target]
    if target == "onnxruntime":
        served = CliRunner().invoke(app, ["bundle", str(folder), "--serve", "triton"])
        assert told in served.stderr


@pytest.mark.parametrize("verdict", ["fail", "not_executed", "pass"])
def test_manifest_and_card_of_each_verdict(output, bundle_file, verdict: str) -> None:
    with OpenBundle(bundle_file) as opened:
        manifest = opened.manifest
    proven = {"verdict": verdict, "reason": "Because."}
    engines = {name: replace(entry, proven=proven) for name, entry in manifest.engines.items()}
    manifest = replace(manifest, engines=engines)
    assert set(manifest.not_proven) == (set() if verdict == "pass" else set(engines))
    assert ("not_proven" in json.loads(manifest.to_bytes())) == (verdict != "pass")
    unjudged = replace(manifest, engines={n: replace(e, proven={}) for n, e in engines.items()})
    assert all(text.startswith("not judged") for text in unjudged.not_proven.values())
    report = read_report(output / "report.json")
    parts = {n: replace(part, verdict=verdict) for n, part in report.targets.items()}
    assert ("## Not proven" in model_card(replace(report, targets=parts))) == (verdict != "pass")
