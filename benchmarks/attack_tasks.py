"""Tries of `attack.py` on tasks: recipes, options and bundles that say wrongly what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attack_content import OUT
from attack_files import write_bundle
from attack_targets import COUNT, JUDGE
from attack_try import Try

from edgeres.bundling.archive import MANIFEST, Archive


def tasks(folder: Path) -> Iterator[Try]:
    """Recipes that say what the outputs mean, and are wrong."""
    tensors_of_heads(folder)
    base = (
        "name: heads\nmodel: {source: two.onnx}\ndata: {validation: 'tensors:heads.npz', "
        "calibration: 'tensors:heads.npz', calibration_samples: 16}\ntargets: [onnxruntime]\n"
        "benchmark: {seconds: 0.02}\n"
    )
    one, other = "{name: classification, output: scores}", "{name: regression, output: deep}"
    loose = "gates: {untrained: true, max_drop: {scores.top1: 100, deep.mae: 100}}\n"
    tries: dict[str, tuple[str, str, tuple[int, ...]]] = {
        "two good heads": (f"[{one}, {other}]", loose, (0,)),
        "a head without an output": (f"[{one}, {{name: regression}}]", "", (2,)),
        "two heads of one output": (f"[{one}, {one}]", "", (2,)),
        "an output that is not there": ("{name: regression, output: no}", "", (2, 3)),
        "an output that acts": ('{name: regression, output: "\\e[2J\\u202e"}', "", (2, 3)),
        "a target that is not there": ("{name: regression, output: deep, target: no}", "", (3,)),
        "an unknown task": ("{name: magic}", "", (2,)),
        "no name": ("{output: scores}", "", (2,)),
        "an empty list": ("[]", "", (2, 3)),
        "a list in a list": (f"[[{one}]]", "", (2,)),
        "a number": ("3", "", (2,)),
        "an unknown key": ("{name: regression, colour: red}", "", (2,)),
        "a head's key of another task": ("{name: classification, tolerance: 3}", "", (2,)),
        "a tolerance below 0": ("{name: regression, output: deep, tolerance: -1}", "", (2,)),
        "an empty range": ("{name: regression, output: deep, expected_value: [5, 5]}", "", (2, 3)),
        "a range of NaN": (
            "{name: regression, output: deep, expected_value: [.nan, 1]}", "", (2,)),
        "a threshold of 2": ("{name: binary, output: deep, threshold: 2}", "", (2, 3)),
        "no false accept": ("{name: embedding, output: deep, false_accepts: 0}", "", (2, 3)),
        "more false accepts than pairs": (
            "{name: embedding, output: deep, false_accepts: 1e-9}", "", (3,)),
        "a metric of no head": (f"[{one}, {other}]", "gates: {metric: no}\n", (2, 3)),
        "a budget of no metric": (f"[{one}, {other}]", "gates: {max_drop: {no: 1}}\n", (2, 3)),
        "a budget of NaN": (
            f"[{one}, {other}]", "gates: {max_drop: {deep.mae: .nan}}\n", (2, 3)),
        "a floor that nothing reaches": (
            f"[{one}, {other}]", loose[:-2] + ", floor: {scores.top1: 101}}\n", (1, 2)),
        "decibels that nothing reaches": (
            "{name: outputs}", "gates: {floor: {scores.sqnr_db: 500}}\n", (1, 2)),
        "an untrained head": (f"[{one}, {other}]", "", (3,)),
        "a thousand heads": (f"[{', '.join([one] * 1000)}]", "", (2,)),
        "code without trust": ("{name: custom, function: 'x.py:f'}", "", (2,)),
        "segmentation of scores": ("{name: segmentation, output: scores}", "", (3,)),
    }  # fmt: skip
    for number, (name, (task, gates, codes)) in enumerate(tries.items()):
        path = folder / f"heads-{number}.yaml"
        path.write_text(f"{base}task: {task}\n{gates}")
        yield Try(f"a task: {name}", ("convert", path.name, *OUT), codes)
    yield from _bundles_of_tasks(folder)
    options = {
        "an unknown task": ("--task", "magic"), "no task": ("--task", ""),
        "a task that acts": ("--task", "\x1b[2J"), "a custom one of nothing": ("--task", "custom:"),
        "a metric of another task": ("--task", "regression", "--metric", "top1"),
        "a drop of NaN": ("--task", "outputs", "--max-drop", "nan"),
        "a drop below 0": ("--task", "outputs", "--max-drop", "-1"),
    }  # fmt: skip
    for name, words in options.items():
        data = ("--data", "tensors:heads.npz")
        yield Try(f"validate with {name}", (*JUDGE, "engine.onnx", *data, *words), (2, 3))
        if name in ("a drop of NaN", "a drop below 0"):
            continue  # it knows no such option
        codes = (0, 2, 3) if name == "a metric of another task" else (2, 3)
        asked = ("sensitivity", "net.onnx", "--target", "onnxruntime", *data, *words[:2])
        yield Try(f"sensitivity with {name}", asked, codes)


def _bundles_of_tasks(folder: Path) -> Iterator[Try]:
    """A real bundle whose manifest says another task; its hashes hold."""
    with Archive(folder / "whole.edgeres") as archive:
        manifest = json.loads(archive.read(MANIFEST, limit=1 << 20))
        files = {n: archive.read(n, limit=1 << 26) for n in archive.sizes if n != MANIFEST}
    said: dict[str, tuple[Any, tuple[int, ...]]] = {
        "numbers, which it may be": ([{"name": "regression"}], (0,)),
        "an unknown one": ([{"name": "magic"}], (3,)),
        "a path": ([{"name": "../../x"}], (3,)),
        "no name": ([{}], (3,)),
        "a text": ("regression", (3,)),
        "an output that is not there": ([{"name": "regression", "output": "no"}], (3,)),
        "an output that is a number": ([{"name": "regression", "output": 3}], (3,)),
        "masks": ([{"name": "segmentation"}], (3,)),
        "one yes": ([{"name": "binary"}], (3,)),
        "a unit that acts": ([{"name": "regression", "unit": "\x1b[2J\u202e"}], (0, 3)),
        "code": ([{"name": "custom", "function": "metric_0.py:score"}], (0,)),
        "a thousand": ([{"name": "regression", "output": "scores"}] * 1000, (3,)),
    }
    for number, (name, (task, codes)) in enumerate(said.items()):
        path = folder / f"tasked-{number}.edgeres"
        write_bundle(path, json.dumps({**manifest, "task": task}).encode(), files)
        yield Try(f"a bundle whose task is {name}", ("run", path.name, "cat.png"), codes)


def tensors_of_heads(folder: Path) -> None:
    """A network of two outputs, and features with targets for both."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(folder / "net.onnx")
    model.graph.node.append(helper.make_node("Identity", ["i"], ["deep"], name="second"))
    deep = helper.make_tensor_value_info("deep", TensorProto.FLOAT, ["N", 8])
    model.graph.output.append(deep)
    onnx.save(model, folder / "two.onnx")
    rng = np.random.default_rng(4)
    np.savez(
        folder / "heads.npz",
        inputs=rng.standard_normal((COUNT, 1, 28, 28)).astype(np.float32),
        targets_scores=np.arange(COUNT) % 10,
        targets_deep=rng.standard_normal((COUNT, 8)),
    )
