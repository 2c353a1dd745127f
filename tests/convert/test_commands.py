"""Commands that take what convert made, here and on a device."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from .conftest import SAMPLES, invoke


def test_validate_benchmark_and_inspect_take_what_convert_made(workplace, report):
    name = next(n for n, t in report["targets"].items() if t["executed"])
    engine = workplace / "out" / report["targets"][name]["engine"]
    inspected = invoke("inspect", engine, "--json")
    assert inspected.exit_code == 0, inspected.output
    assert json.loads(inspected.stdout)["int8_coverage"] == report["targets"][name]["int8_coverage"]
    refused = invoke("validate", engine, "--json")
    assert refused.exit_code == 3, "the baseline has 400 images, the whole set 10,000"
    timed = invoke("benchmark", engine, "--seconds", "0.2", "--json")
    assert timed.exit_code in (0, 1), timed.output
    assert json.loads(timed.stdout)["engines"][str(engine)]["latency_ms"]["p50"] > 0


def _device(workplace: Path, report: dict, folder: Path) -> Path:
    """A folder with nothing but an engine and the baseline, as on a device."""
    engine = workplace / "out" / report["targets"]["onnxruntime"]["engine"]
    folder.mkdir()
    for file in (engine, engine.with_name(engine.name + ".engine.json")):
        shutil.copyfile(file, folder / file.name)
    for name in ("predictions.npz", "preprocess.json"):
        shutil.copyfile(workplace / "out" / "baseline" / name, folder / name)
    return folder / engine.name


def test_a_device_with_engine_and_baseline_only_can_validate(workplace, report, tmp_path):
    engine = _device(workplace, report, tmp_path / "device")
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *further):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from edgeres.data.source import open_dataset\n"
        "from edgeres.data.sampling import take\n"
        "import edgeres.data.source as s\n"
        "whole = s.open_dataset\n"
        f"s.open_dataset = lambda *a, **k: take(whole(*a, **k), {SAMPLES})\n"
        "from edgeres.cli import app\n"
        "app()"
    )
    options = ["--baseline", "predictions.npz", "--max-drop", "5", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", engine.name, *options,
         "--record-conformance", "c.yaml"],
        capture_output=True, text=True, cwd=engine.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["top1"] == report["targets"]["onnxruntime"]["top1"]
    kept = (engine.parent / "c.yaml").read_text()
    # What was recorded passes; a figure that is too good fails, too.
    (engine.parent / "c.yaml").write_text(
        kept.replace(f"expected: {told['agreement']}", "expected: 0.5")
    )
    for text, code_expected in ((kept, 0), ((engine.parent / "c.yaml").read_text(), 1)):
        (engine.parent / "c.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", code, "validate", engine.name, *options,
             "--conformance", "c.yaml"],
            capture_output=True, text=True, cwd=engine.parent, check=False,
        )  # fmt: skip
        assert done.returncode == code_expected, done.stderr
    assert "better than expected" in json.loads(done.stdout)["reason"]
