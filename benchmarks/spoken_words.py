"""Keyword spotting, measured: spoken words through training's result, convert, bundle and run.

    python benchmarks/spoken_words.py --words DIR --out benchmarks/results/spoken_words.json

DIR is the set of ``scripts/spoken_words.py`` with seed 0, which is made where it is not there. The
network is the shipped one, ``recipes/training/spoken_words.yaml`` trained it. It is converted as it
is and with the pruning of ``recipes/spoken_words.yaml``; each bundle then answers for one sound of
each word and test voice, by ``edgeres run`` in a process that cannot import torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import edgeres
from edgeres.data.source import open_dataset
from edgeres.report.schema import Report
from edgeres.system.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
RUN = """\
import sys
sys.modules["torch"] = None
from edgeres.cli import app
app(["run", *sys.argv[1:], "--json"])
"""


def main() -> None:
    """Converts twice, asks both bundles, prints and keeps what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=Path, required=True, help="folder of the set")
    parser.add_argument("--work", type=Path, help="folder of the two runs, which is kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    words = arguments.words.resolve()
    if not words.exists():
        script = ROOT / "scripts" / "spoken_words.py"
        subprocess.run([sys.executable, str(script), str(words)], check=True)
    made = json.loads((words / "made_by.json").read_text())
    trained = json.loads((ROOT / "recipes/training/spoken_words.result.json").read_text())
    found: dict[str, Any] = {
        "environment": describe_environment().to_dict(),
        "set": {
            "program": made["program"],
            "seed": made["seed"],
            "voices": {split: len(voices) for split, voices in made["voices"].items()},
            "sounds": {split: _count(words, split) for split in made["voices"]},
            "test_fingerprint": open_dataset(
                f"audiofolder:{words}", split="validation"
            ).fingerprint,
        },
        "training": trained,
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as place:
        work = arguments.work or Path(place)
        for name, changes in (("plain", {"prune": None}), ("pruned", {})):
            data = dict.fromkeys(("validation", "calibration", "train"), f"audiofolder:{words}")
            said = {f"data.{key}": value for key, value in data.items()} | changes
            recipe = edgeres.load_recipe("spoken_words", said)
            report = edgeres.convert(recipe, work / name)
            bundle = work / f"{name}.edgeres"
            edgeres.bundle(work / name, bundle)
            found["runs"][name] = _figures(report) | {"run": _asked(bundle, words, report)}
            print(name, json.dumps(found["runs"][name], indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def _count(words: Path, split: str) -> int:
    return sum(1 for _ in (words / split).glob("*/*.wav"))


def _figures(report: Report) -> dict[str, Any]:
    plain = report.to_dict()
    targets = {
        name: {
            key: target[key]
            for key in (
                *("top1", "drop_pp", "drop_upper_pp", "quantization_drop_pp", "verdict"),
                *("agreement", "sqnr_db", "int8_coverage", "size_bytes"),
            )
        }
        for name, target in plain["targets"].items()
    }
    return {
        "model": {key: plain["model"][key] for key in ("name", "parameters", "macs")},
        "fp32_top1": plain["baseline"]["top1"],
        "samples": plain["baseline"]["samples"],
        "pruning": plain["pruning"],
        "targets": targets,
    }


def _asked(bundle: Path, words: Path, report: Report) -> dict[str, Any]:
    """How many of one sound for each word and voice are answered rightly, by target."""
    files = sorted((words / "val").glob("*/*_000.wav"))
    found = {}
    for target in report.to_dict()["targets"]:
        asked = [str(bundle), *map(str, files), "--target", target]
        done = subprocess.run(
            [sys.executable, "-c", RUN, *asked], capture_output=True, text=True, check=True
        )
        answers = [image["answers"][0]["label"] for image in json.loads(done.stdout)["images"]]
        right = sum(a == file.parent.name for a, file in zip(answers, files, strict=True))
        found[target] = {"right": right, "sounds": len(files)}
    return found


if __name__ == "__main__":
    main()
