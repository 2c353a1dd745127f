"""Random foreign networks through the import: does what comes out answer as what went in?

Each network is written by hand as an exporter would: channels first or last, a batch that is free,
one or four, open or fixed sizes, shapes computed or written out, float32, float16, float64 or 8-bit
inputs, opset 13 to 21, residual blocks of many kinds. The answers are compared here, apart from the
import's own gate, on numbers that it has not seen.
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

from edgeres.errors import EdgeResError
from edgeres.exporting.foreign import normalize_file
from edgeres.exporting.parity import Tolerance

CLASSES = 5
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


def judge(seed: int, folder: Path) -> tuple[str, str]:
    """What became of one network, and why where it is not the same."""
    model, told = network(seed)
    source, out = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(model.SerializeToString())
    try:
        made = normalize_file(
            source=source, out=out, opset=20, layout=None, sample_shape=None,
            outputs=(), classes=True, images=None, tolerance=Tolerance(), max_bytes=1 << 30,
            open_size=told["size"],
        )  # fmt: skip
    except EdgeResError as error:
        return "refused", f"{told['blocks']} {told['kind']}: {error}"
    except Exception as error:  # what must not happen
        return "crash", f"{told['blocks']} {told['kind']}: {error!r}"
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    before, after = (
        onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
        for path in (source, out)
    )
    random = np.random.default_rng([seed, 1])
    free = bool(made["dynamic_batch"])
    for count in (1, 3) if free else (1,):
        size = told["batch"] or count
        images = random.integers(0, 256, (max(size, count), *told["sample"]))
        numbers = images if told["kind"] == "uint8" else images / 128 - 1
        dtype = {"float": "float32", "double": "float64"}.get(told["kind"], told["kind"])
        rows = []
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            rows.append(before.run(None, {"x": part.astype(dtype)})[0])
        right = np.concatenate(rows).astype(np.float64)[:count]
        (found,) = after.run(None, {"x": numbers[:count].astype(np.float32)})
        worst = np.abs(found - right).max() / max(np.abs(right).max(), 1e-6)
        if not worst <= LIMITS[told["kind"]]:
            return "wrong", f"{told}: {worst:.2g}"
    if told["batch"] is None and not free:
        return "same, batch 1", f"{told['blocks']}: {made['notes']}"
    return "same", ""


def main() -> None:
    """Parses arguments, judges, prints the counts and what is not the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    others: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.first, arguments.first + arguments.networks):
            verdict, why = judge(seed, Path(name))
            counts[verdict] += 1
            if why:
                others.append(f"{seed} {verdict}: {why[:400]}")
                print(others[-1], flush=True)
    result = {
        "networks": arguments.networks,
        "first": arguments.first,
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "counts": dict(sorted(counts.items())),
        "others": others,
    }
    print(json.dumps(result["counts"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
