"""Random foreign networks through the import: does what comes out answer as what went in?

Each network is written by hand as an exporter would: channels first or last, a batch that is free,
one or four, open or fixed sizes, shapes computed or written out, float32, float16, float64 or 8-bit
inputs, opset 13 to 21, residual blocks of many kinds. With `--mutated` each file is then changed
once or twice (`import_fuzz_mutations.py`), which may make another network of it or none at all.
The answers are compared here, apart from the import's own gate, on numbers that it has not seen:
what ONNX Runtime answers to the file is right, and a file that it cannot run must be refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from import_fuzz_blocks import BLOCKS, Net
from import_fuzz_mutations import mutate

from edgeres.errors import EdgeResError
from edgeres.exporting.foreign import normalize_file
from edgeres.exporting.parity import Tolerance

CLASSES = 5
_LIKE_THE_ENGINE = "refused, as by ONNX Runtime"
LIMITS = {"float16": 0.05, "float": 1e-3, "double": 1e-3, "uint8": 1e-3}
CODES = {"float": 1, "float16": 10, "double": 11, "uint8": 2}


def network(seed: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A random network and what is special about it."""
    random = np.random.default_rng(seed)
    kind = str(random.choice(["float", "float", "float", "float16", "double", "uint8"]))
    batch = [None, None, 1, 4][random.integers(4)]
    last = bool(random.random() < 0.4)
    is_open = bool(random.random() < 0.3)
    channels = int(random.choice([1, 3, 3, 4]))
    height, width = int(random.integers(12, 20)), int(random.integers(12, 20))
    net = Net(random, batch, last=last, computes_shapes=batch is None and random.random() < 0.6)
    net.shape = [channels, height, width]
    if kind != "float":
        net.add("Cast", ["x"], to=1)
    if random.random() < 0.4:
        net.normalize()
    net.conv(8, 3)
    blocks = [str(random.choice(list(BLOCKS))) for _ in range(int(random.integers(2, 6)))]
    for block in blocks:
        BLOCKS[block](net)
    net.head(CLASSES)
    if kind in ("float16", "double"):
        net.add("Cast", [net.value], to=CODES[kind])
    free: int | str = "N" if batch is None else batch
    sides: list[int | str] = ["h", "w"] if is_open and not net.bound else [height, width]
    sample = [*sides, channels] if last else [channels, *sides]
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("x", CODES[kind], [free, *sample])],
        [helper.make_tensor_value_info(
            net.value, 1 if kind == "uint8" else CODES[kind], [free, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in net.weights.items()],
    )  # fmt: skip
    opset = int(random.integers(13, 22))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    told = {
        "kind": kind, "batch": batch, "size": [height, width], "blocks": blocks,
        "sample": [height, width, channels] if last else [channels, height, width],
    }  # fmt: skip
    return model, told


def judge(seed: int, folder: Path, *, mutated: bool) -> tuple[str, str]:
    """What became of one network, and why where it is not the same."""
    model, told = network(seed)
    about, scores = f"{told['blocks']} {told['kind']}", model.graph.output[0].name
    if mutated:
        about += f", {mutate(model, np.random.default_rng([seed, 2]))}"
    source, out = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(model.SerializeToString())
    told["batch"] = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None
    try:
        made = normalize_file(
            source=source, out=out, opset=20, layout=None, sample_shape=None, outputs=(scores,),
            classes=True, images=None, tolerance=Tolerance(), max_bytes=1 << 30,
            open_size=told["size"],
        )  # fmt: skip
    except EdgeResError as error:
        runs = _right_answers(source, seed, told)
        return "refused" if runs else _LIKE_THE_ENGINE, f"{about}: {error}"
    except Exception as error:  # what must not happen
        return "crash", f"{about}: {error!r}"
    told["sample"] = made["sample_shape"]
    free = bool(made["dynamic_batch"])
    right = _right_answers(source, seed, told)
    difference = _difference(out, right, seed, told, free=free)
    if difference or not right:
        return ("wrong", f"{about}: {difference}") if right else ("taken, unrun before", about)
    if told["batch"] is None and not free:
        return "same, batch 1", f"{about}: {made['notes']}"
    return "same", ""


def _right_answers(source: Path, seed: int, told: dict[str, Any]) -> dict[int, Any]:
    """What ONNX Runtime answers to a file for one image and for three; empty where it cannot."""
    dtype = {"float": "float32", "double": "float64"}.get(told["kind"], told["kind"])
    answers: dict[int, Any] = {}
    try:
        before = _session(source)
        for count in (1, 3):
            size = told["batch"] or count
            numbers = _numbers(seed, told, size * -(-count // size)).astype(dtype)
            rows = [
                before.run(None, {"x": numbers[start : start + size]})[0]
                for start in range(0, count, size)
            ]
            answers[count] = np.concatenate(rows).astype(np.float64)[:count]
            if not np.isfinite(answers[count]).all() or len(answers[count]) != count:
                return {}
    except Exception:  # it has many errors, and each means the same here
        return answers
    return answers


def _difference(
    out: Path, right: dict[int, Any], seed: int, told: dict[str, Any], *, free: bool
) -> str:
    after = _session(out)
    for count, expected in right.items():
        if count > 1 and not free:
            continue
        numbers = _numbers(seed, told, count).astype(np.float32)
        (found,) = after.run(None, {"x": numbers})
        if found.shape != expected.shape:
            return f"{found.shape} in place of {expected.shape}"
        worst = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)
        if not worst <= LIMITS[told["kind"]]:
            return f"{told}: {worst:.2g}"
    return ""


def _numbers(seed: int, told: dict[str, Any], count: int) -> Any:
    """Images, the first of them the same for any count."""
    generator = np.random.default_rng([seed, 1])
    images = np.stack([generator.integers(0, 256, told["sample"]) for _ in range(count)])
    return images if told["kind"] == "uint8" else images / 128 - 1


def _session(path: Path) -> onnxruntime.InferenceSession:
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])


def main() -> None:
    """Parses arguments, judges, prints the counts and what is not the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--mutated", action="store_true", help="change each file")
    parser.add_argument("--out", type=Path, help="a run is added to what the file holds")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    others: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.first, arguments.first + arguments.networks):
            verdict, why = judge(seed, Path(name), mutated=arguments.mutated)
            counts[verdict] += 1
            if why:
                print(f"{seed} {verdict}: {why[:400]}", flush=True)
            if why and verdict != _LIKE_THE_ENGINE:
                others.append(f"{seed} {verdict}: {why[:400]}")
    result = {
        "networks": arguments.networks,
        "first": arguments.first,
        "mutated": arguments.mutated,
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "counts": dict(sorted(counts.items())),
        "others": others,
    }
    print(json.dumps(result["counts"]))
    if arguments.out:
        runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
        told = {
            "networks": sum(run["networks"] for run in [*runs, result]),
            "runs": [*runs, result],
        }
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
