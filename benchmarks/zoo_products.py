"""Products of two computed tensors (attention) in float and in INT8, in edgeres' own engines.

    python benchmarks/zoo_products.py --out benchmarks/results/zoo_products.json

For networks with attention, at two sizes each: the INT8 share of the multiply-adds as the engine
tells it, the signal over quantization noise of the answers, and how long a run takes against the
engine whose products are float (CPU time of one thread, in turns: quartiles of the rounds). The
network is the same otherwise. Needs what `zoo.py` needs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zoo_engines as engines
from zoo_networks import CALIBRATION, TEST, declare_operators, make_subject, open_normalized

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.evaluation.coverage import int8_coverage
from edgeres.exporting.import_onnx import import_onnx
from edgeres.graph.summary import node_macs
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.system.environment import describe_environment

NETWORKS = (
    "botnet26t_256@side=128@img_size=128",
    "botnet26t_256@side=256@img_size=256",
    "sebotnet33ts_256@side=128@img_size=128",
    "lambda_resnet26t@side=128@img_size=128",
    "coatnet_nano_rw_224@side=64@img_size=64",
    "coatnet_nano_rw_224@side=224@img_size=224",
)
SECONDS = 3.0


def judge(name: str, folder: Path) -> dict[str, Any]:
    """Both forms of one network on both engines."""
    foreign = make_subject(name, folder / "raw")
    subject = open_normalized(foreign, folder / "normalized")
    some = next(subject.batches("test", 4))
    import_onnx(foreign.fp32, subject.fp32, layout="nchw", images=some)
    images = np.concatenate(list(subject.batches("test", 8, TEST)))
    table = calibrate(subject.fp32, subject.batches("calibration", 8, CALIBRATION))
    macs, row = node_macs(subject.fp32), {}
    for engine in engines.ENGINES:
        backend, config = get_backend(engine), BuildConfig(threads=1)
        rules = backend.qdq_rules("cpu")
        running: dict[str, engines.Infer] = {}
        told: dict[str, Any] = {}
        wanted = _answers(engines.open_engine(engine, subject.fp32), images)
        for obeyed in (replace(rules, products="float"), rules):
            products = obeyed.products
            place = folder / f"{engine}-{products}"
            place.mkdir(exist_ok=True)  # a CPU whose own rules say float has one form
            file, target = place / "qdq.onnx", place / f"engine{backend.engine_suffix}"
            quantize(subject.fp32, table, obeyed, file)
            built = backend.build(file, target, config)
            running[products] = _infer(backend.load(built, config))
            share = int8_coverage(macs, backend.layers(built)).int8_coverage
            noise = engines.sqnr_db(wanted, _answers(running[products], images))
            told[products] = {"int8": round(share, 4), "sqnr_db": round(noise, 2)}
        times = engines.in_turns(running, images[:1], SECONDS)
        for form, values in times.items():
            told[form]["over_float_quartiles"] = engines.ratio(values, times["float"])
        row[engine] = told
    return row


def _infer(runner: Any) -> engines.Infer:
    name = runner.inputs[0].name
    return lambda images: np.asarray(next(iter(runner.infer({name: images}).values())))


def _answers(infer: engines.Infer, images: Any) -> Any:
    return np.concatenate([infer(images[at : at + 4]) for at in range(0, len(images), 4)])


def main() -> None:
    """Parses arguments, judges, writes the result after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("zoo_products.json"))
    parser.add_argument("--name", action="append", help="One network; several may be given.")
    arguments = parser.parse_args()
    declare_operators()
    told = {"environment": describe_environment().to_dict(), "rows": {}}
    for name in arguments.name or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            told["rows"][name] = judge(name, Path(folder))
        print(name, json.dumps(told["rows"][name]), flush=True)
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
