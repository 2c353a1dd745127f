"""Layers that saturate, named; and what quantizing each layer costs.

The network of the default recipe (the reference ResNet-20, pruned) is quantized without
saturation-safe weights. `edgeres compare` looks at the real engines layer by layer, against their
own Q/DQ files, on this CPU and on this CPU as one without VNNI (`without_vnni.py`).
`edgeres sensitivity` then quantizes each layer alone.

    python benchmarks/layers.py --out benchmarks/results/layers.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from saturation import BACKENDS, CPUS, PREPROCESS, child, pruned_reference
from without_vnni import CannotHideError, environment

from edgeres.backends import get_backend
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.int8 import calibrate, quantize
from edgeres.stages.network import build, export
from edgeres.system.environment import describe_environment

OPTIONS = ["--mean", "0.286", "--std", "0.353", "--threads", "1", "--json"]


def edgeres(*arguments: object, cpu: str = "native") -> dict[str, Any]:
    """Runs one command in a process of its own and returns its JSON."""
    command = [sys.executable, "-m", "edgeres", *map(str, arguments), *OPTIONS]
    variables = environment() if cpu == "without_vnni" else None
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(folder: Path, samples: int) -> dict[str, Any]:
    """Everything, by backend."""
    fp32, table, block = folder / "fp32.onnx", folder / "table.json", QuantizeBlock()
    export(pruned_reference(), fp32, image_size=(28, 28), settings=ExportSettings())
    calibrate(fp32, table, data="fashion-mnist", samples=512, preprocess=PREPROCESS)
    results: dict[str, Any] = {}
    for name in BACKENDS:
        qdq = folder / name / "model.qdq.onnx"
        qdq.parent.mkdir()
        rules = replace(get_backend(name).qdq_rules("cpu"), saturating=False)
        quantize(fp32, table, qdq, rules=rules, settings=block)
        engine = build(qdq, folder / name / "model", target=name).path
        compare = ["compare", qdq, engine, "--samples", samples]
        asked = ["--target", name, "--data", "fashion-mnist", "--table", table]
        results[name] = {
            "against_fp32": edgeres("compare", fp32, engine),
            "cpus": {cpu: json.loads(child(["--probe", name], cpu)) for cpu in CPUS},
            **{cpu: edgeres(*compare, cpu=cpu) for cpu in CPUS},
            "sensitivity": edgeres("sensitivity", fp32, *asked),
        }
    return results


def main() -> None:
    """Measures, prints what stands out and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=64, help="Images to compare.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        if environment() == dict(os.environ):
            parser.error("this CPU shows no VNNI as it is, so there are no two CPUs to compare")
    except (CannotHideError, OSError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.samples)
    for name, found in results.items():
        for cpu in CPUS:
            print(f"{name}, {cpu}: SQNR {found[cpu]['output']['sqnr_db']:.1f} dB to its source")
            for suspect in found[cpu]["suspects"]:
                print(f"  {suspect['text']}")
        tested = found["sensitivity"]
        together = sum(10 ** (-node["only"]["sqnr_db"] / 10) for node in tested["nodes"])
        print(f"{name}: all in INT8 {tested['quantized']['sqnr_db']:.1f} dB, noises {together:.3g}")
        for node in tested["nodes"][:5]:
            share = 10 ** (-node["only"]["sqnr_db"] / 10) / together
            print(f"  only {node['node']}: {node['only']['sqnr_db']:.1f} dB, {100 * share:.1f} %")
    if arguments.out:
        content = {
            "environment": describe_environment().to_dict(),
            "results": results,
        }
        text = json.dumps(content, indent=1).replace(str(Path(folder)), "FOLDER")
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
