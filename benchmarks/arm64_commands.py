"""Exit codes of edgeres's commands on emulated Arm CPUs, and a bundle that goes there and back."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.data.source import open_dataset
from edgeres.system.assets import asset_path

RECIPE = """name: small
model: {source: net.safetensors}
targets: [onnxruntime, openvino]
data: {validation_samples: 100, calibration_samples: 32}
quantize: {saturation_safe: on}
gates: {max_drop: 20}
benchmark: {seconds: 0.1}
"""
IMAGES = 8
Keep = Callable[[], None]


def run_here(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs edgeres on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "edgeres", *command], capture_output=True, text=True, check=False
    )


def prepare(folder: Path) -> Path:
    """Converts and bundles the reference network here; gives the folder with all that is needed."""
    folder.mkdir()
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    shutil.copyfile(checkpoint, folder / "net.safetensors")
    (folder / "recipe.yaml").write_text(RECIPE)
    data = open_dataset("fashion-mnist", split="validation")
    images = [np.asarray(data.image(index)) for index in range(IMAGES)]
    np.savez(folder / "some.npz", images=np.stack(images), labels=data.labels[:IMAGES])
    for command in (
        ["convert", str(folder / "recipe.yaml"), "--output", str(folder / "out")],
        ["bundle", str(folder / "out"), "--output", str(folder / "x86.edgeres")],
    ):
        done = run_here(command)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
    return folder


def commands(folder: Path, place: Path) -> dict[str, list[str]]:
    """The commands, by what they do."""
    out, data = folder / "out", f"npz:{folder / 'some.npz'}"
    image = str(next((out / "baseline" / "samples").iterdir()))
    found = {"bundle": ["bundle", str(out), "--output", str(place / "made.edgeres")]}
    for target in ("onnxruntime", "openvino"):
        suffix = {"onnxruntime": ".onnx", "openvino": ".xml"}[target]
        engine = str(out / target / f"model{suffix}")
        fp32 = str(out / "baseline" / "model.onnx")
        bundle = [str(folder / "x86.edgeres"), image, "--target", target, "--trust"]
        qdq = str(place / f"{target}.qdq.onnx")
        found |= {
            f"inspect {target}": ["inspect", engine],
            f"validate {target}": [
                *("validate", engine, "--data", data, "--baseline", fp32, "--max-drop", "50"),
            ],
            f"benchmark {target}": ["benchmark", engine, "--seconds", "0.2"],
            f"run {target}": ["run", *bundle],
            f"run --rebuild {target}": ["run", *bundle, "--rebuild"],
            f"quantize {target}": [
                *("quantize", fp32, "--output", qdq, "--data", data, "--target", target),
                *("--mean", "0.286", "--std", "0.353"),
            ],
            f"build {target}": ["build", qdq, "--output", f"{qdq}{suffix}", "--target", target],
        }
    found["doctor"] = ["doctor"]
    found["wrong device"] = ["run", str(folder / "x86.edgeres"), image, "--device", "gpu"]
    return found


def exit_codes(
    environment: Path, cpus: Sequence[str], work: Path, told: dict[str, Any], keep: Keep
) -> None:
    """Exit codes by command and CPU, and of bundles made there what x86 says of them.

    Args:
        environment: The emulated one.
        cpus: The emulated CPUs.
        work: A folder for what is made.
        told: Gets ``commands`` and ``round_trips``; what it has is not run again.
        keep: Called whenever something was added.
    """
    emulated = importlib.import_module("emulated")
    codes, trips = told.setdefault("commands", {}), told.setdefault("round_trips", {})
    folder = prepare(work / "commands")
    for cpu in ("x86", *cpus):
        place = work / f"made-{cpu}"
        place.mkdir()
        for name, command in commands(folder, place).items():
            if cpu in codes.get(name, {}) and name != "bundle":
                continue
            done = (
                run_here(command)
                if cpu == "x86"
                else emulated.run_python(
                    environment, cpu, ["-m", "edgeres", *command], cwd=folder, seconds=3600
                )
            )
            codes.setdefault(name, {})[cpu] = done.returncode
            keep()
            last = (done.stderr.strip().splitlines() or [""])[-1]
            print(cpu, name, done.returncode, last, file=sys.stderr, flush=True)
        if cpu != "x86" and cpu not in trips:
            trips[cpu] = round_trip(folder, place / "made.edgeres")
            keep()


def round_trip(folder: Path, made: Path) -> dict[str, Any]:
    """A bundle that Arm made of a run of x86, run on x86: are its recorded answers x86's own?"""
    first, second = (_answers(path) for path in (folder / "x86.edgeres", made))
    image = str(next((folder / "out" / "baseline" / "samples").iterdir()))
    told: dict[str, Any] = {}
    for target in ("onnxruntime", "openvino"):
        done = run_here(["run", str(made), image, "--target", target, "--json"])
        name = f"samples/expected-{target}.json"
        told[target] = {
            "exit_code": done.returncode,
            "equal_digests": first[name] == second[name],
            "self_test": json.loads(done.stdout)["self_test"] if not done.returncode else None,
        }
    return told


def _answers(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        files = json.loads(archive.read("manifest.json"))["files"]
    return {name: os.fspath(entry["sha256"]) for name, entry in files.items()}
