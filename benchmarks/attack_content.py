"""Tries of `attack.py` on recipes, checkpoints, networks and data whose content is hostile."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attack_try import Try

OUT = ("--output", "made/out")
NORMAL = ("--mean", "0.286", "--std", "0.353")
RECIPE = """\
name: attack
model: {source: net.onnx}
preprocess: {mean: [0.286], std: [0.353], channels: 1}
data: {validation_samples: 40, calibration_samples: 16}
targets: [onnxruntime]
"""
CANARY = "canary"
"""A file that foreign code would make."""


def recipes(folder: Path) -> Iterator[Try]:
    """Recipes that make no sense, each one thing away from a good one."""
    whole = {
        "tag": "model: !!python/object/apply:os.system ['touch canary']\n",
        "anchors": "a: &a [x, x]\nb: &b [*a, *a]\nmodel: {source: *b}\n",
        "merge": "a: &a {source: net.onnx}\nmodel: {<<: *a}\n",
        "nul": "model: {source: 'a\0b'}\n",
        "tabs": "model:\n\tsource: net.onnx\n",
        "two documents": RECIPE + "---\n" + RECIPE,
        "a number": "3\n",
        "a list": "- a\n- b\n",
        "a text": "convert\n",
        "nothing": "# nothing\n",
        "duplicate": RECIPE + "targets: [openvino]\n",
        "key of a list": RECIPE + "? [a, b]\n: c\n",
        "unclosed": RECIPE + "prune: {ratio: 0.5\n",
        "half a character": "name: \ud800\n",
    }
    edits = {
        "unknown key": "quantise: {}",
        "unknown calibrator": "quantize: {calibrator: magic}",
        "a text for a block": "quantize: yes",
        "a list for a block": "checks: [1]",
        "infinite drop": "gates: {max_drop: .inf}",
        "NaN": "gates: {confidence: .nan}",
        "a share over 1": "gates: {min_int8_coverage: 1.5}",
        "a huge number": "seed: 1e999",
        "a huge integer": f"seed: {'9' * 5000}",
        "a bool for a number": "seed: true",
        "no target": "targets: []",
        "an unknown target": "targets: [onnxruntime, toaster]",
        "a target that is a path": "targets: [../../etc]",
        "ratio 1": "prune: {ratio: 1.0}",
        "ratio below 0": "prune: {ratio: -0.5}",
        "opset 99": "export: {opset: 99}",
        "epochs below 0": "prune: {ratio: 0.5, finetune: {epochs: -1}}",
        "no images": "data: {validation_samples: 0}",
        "images below 0": "data: {calibration_samples: -5}",
        "more images than there are": "data: {validation_samples: 100000000000}",
        "data outside": "data: {validation: 'npz:../../../etc/passwd'}",
        "data of no kind": "data: {validation: 'ftp:x'}",
        "an absolute model": "model: {source: /etc/passwd}",
        "a model outside": "model: {source: ../../../etc/passwd}",
        "a name that acts": 'name: "\\e[2J\\u202e"',
        "std 0": "preprocess: {mean: [0.5], std: [0.0]}",
        "means of 7 channels": "preprocess: {mean: [0, 0, 0, 0, 0, 0, 0], std: [1]}",
        "a crop below 0": "preprocess: {crop: -3}",
        "a crop of 10^9": "preprocess: {crop: 1000000000}",
        "an unknown layout": "preprocess: {layout: hcwn}",
        "no seconds": "benchmark: {seconds: 0}",
        "threads below 0": "benchmark: {threads: -2}",
        "a long name": f"name: {'n' * 100_000}",
    }
    for name, line in edits.items():
        key = line.partition(":")[0]
        kept = [one for one in RECIPE.splitlines() if one.partition(":")[0] != key]
        whole[name] = "\n".join([*kept, line]) + "\n"
    for number, (name, text) in enumerate(whole.items()):
        path = folder / f"hostile-{number}.yaml"
        path.write_bytes(text.encode(errors="surrogatepass"))
        yield Try(f"a recipe: {name}", ("convert", path.name, *OUT), (2, 3))


def checkpoints(folder: Path) -> Iterator[Try]:
    """Headers that lie, and pickles that would run code."""
    for name, content in {**_headers(), **_pickles()}.items():
        path = folder / f"hostile {name}"
        path.write_bytes(content)
        yield Try(f"a checkpoint: {name}", ("export", path.name, "--size", "28", *OUT), (3,))


def _headers() -> dict[str, bytes]:
    """Safetensors files whose header says what is not so."""

    def file(header: Any, size: int | None = None, data: bytes = bytes(64)) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + data

    def one(**changed: Any) -> dict[str, Any]:
        return {"fc.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changed}}

    return {
        "a header of 2^63.safetensors": file({}, 2**63),
        "a header beyond the end.safetensors": file({}, 10_000),
        "no JSON.safetensors": file(b"{" * 500),
        "deep JSON.safetensors": file(b"[" * 100_000),
        "unknown dtype.safetensors": file(one(dtype="F7")),
        "a huge shape.safetensors": file(one(shape=[2**62, 4])),
        "a shape below 0.safetensors": file(one(shape=[-4])),
        "offsets beyond.safetensors": file(one(data_offsets=[0, 10**12])),
        "offsets turned.safetensors": file(one(data_offsets=[16, 0])),
        "overlap.safetensors": file({**one(), "x": one()["fc.weight"]}),
        "names that act.safetensors": file({"\x1b[2J\u202e": one()["fc.weight"]}, data=bytes(16)),
        "metadata of lists.safetensors": file({"__metadata__": [1], **one()}, data=bytes(16)),
    }


def _pickles() -> dict[str, bytes]:
    """Pickles whose reading would make a file, plain and inside the ZIP form."""

    class Touch:
        def __init__(self, call: Callable[..., object], *words: object) -> None:
            self._call = (call, words)

        def __reduce__(self) -> Any:
            return self._call

    found: dict[str, bytes] = {}
    calls = {
        "system": Touch(os.system, f"touch {CANARY}"),
        "open": Touch(open, CANARY, "w"),
        "exec": Touch(exec, f"open({CANARY!r}, 'w')"),
        "eval": Touch(eval, f"open({CANARY!r}, 'w')"),
    }
    for name, call in calls.items():
        plain = pickle.dumps({"state_dict": call}, protocol=2)
        found[f"{name}.pt"] = plain
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", plain)
            archive.writestr("archive/version", "3\n")
        found[f"{name} in a ZIP.pt"] = buffer.getvalue()
    found["half.pt"] = plain[: len(plain) // 2]
    return found


def networks(folder: Path) -> Iterator[Try]:
    """ONNX files that lie about their content, or ask for all there is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def edited(edit: Callable[[Any], object]) -> bytes:
        model = onnx.load(folder / "net.onnx")
        edit(model)
        return bytes(model.SerializeToString())

    def outside(place: str) -> Callable[[Any], object]:
        def edit(model: Any) -> None:
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)

        return edit

    def weight(value: float) -> Callable[[Any], object]:
        def edit(model: Any) -> None:
            tensor = model.graph.initializer[0]
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] = value
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

        return edit

    def huge(model: Any) -> None:
        shape = numpy_helper.from_array(np.array([2**40], np.int64), "big")
        model.graph.initializer.append(shape)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["big"], ["all"], "all"))
        model.graph.output.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, None))

    def nested(model: Any) -> None:
        graph = helper.make_graph([], "inner", [], [])
        for _ in range(500):
            graph = helper.make_graph(
                [helper.make_node("If", ["c"], ["d"], then_branch=graph, else_branch=graph)]
                if len(graph.SerializeToString()) < 1 << 16
                else [],
                "outer",
                [],
                [],
            )
        model.graph.node.append(
            helper.make_node("If", ["c"], ["d"], then_branch=graph, else_branch=graph)
        )

    def text(name: str) -> Callable[[Any], object]:
        return lambda model: setattr(model.graph.node[0], "name", name)

    whole = (folder / "net.onnx").read_bytes()
    made = {
        "data in ..": edited(outside("../../etc/passwd")),
        "data at an absolute path": edited(outside("/etc/passwd")),
        "data in memory": edited(outside("*/_ORT_MEM_ADDR_/*")),
        "data that is not there": edited(outside("nothing.bin")),
        "data in a FIFO": edited(outside("fifo")),
        "a NaN weight": edited(weight(float("nan"))),
        "an Inf weight": edited(weight(float("inf"))),
        "a tensor of 2^40": edited(huge),
        "nested": edited(nested),
        "a name that acts": edited(text("\x1b[2J\u202e")),
        "no input": edited(lambda model: model.graph.ClearField("input")),
        "no output": edited(lambda model: model.graph.ClearField("output")),
        "no node": edited(lambda model: model.graph.ClearField("node")),
        "no graph": edited(lambda model: model.ClearField("graph")),
        "opset 999": edited(lambda model: setattr(model.opset_import[0], "version", 999)),
        "IR 999": edited(lambda model: setattr(model, "ir_version", 999)),
        "another domain": edited(lambda model: setattr(model.graph.node[0], "domain", "evil")),
        "an unknown op": edited(lambda model: setattr(model.graph.node[0], "op_type", "Explode")),
        "a ring": edited(
            lambda model: model.graph.node[0].input.__setitem__(0, model.graph.node[-1].output[0])
        ),
        "one name twice": edited(
            lambda model: setattr(model.graph.node[1], "name", model.graph.node[0].name)
        ),
        "half": whole[: len(whole) // 2],
        "nothing": b"",
        "zeros": bytes(5000),
    }
    right = {"a name that acts": (0, 3), "one name twice": (0, 3)}
    for number, (name, content) in enumerate(made.items()):
        path = folder / f"hostile-{number}.onnx"
        path.write_bytes(content)
        words = (
            "quantize",
            path.name,
            "--target",
            "onnxruntime",
            "--data",
            "npz:images.npz",
            *NORMAL,
        )
        codes = right.get(name, (3, 5))
        yield Try(f"a network: {name}", (*words, "--output", "made/q.onnx"), codes)


def data(folder: Path) -> Iterator[Try]:
    """Arrays, IDX files and folders of images that cannot be a data set."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 28, 28), np.uint8), np.arange(60) % 10
    arrays: dict[str, dict[str, Any]] = {
        "pickled labels": {"images": images, "labels": np.array([object()] * 60)},
        "too few labels": {"images": images, "labels": labels[:30]},
        "labels below 0": {"images": images, "labels": labels - 5},
        "labels of 10^12": {"images": images, "labels": labels * 10**12},
        "labels with fractions": {"images": images, "labels": labels + 0.5},
        "images of floats": {"images": images / 255.0, "labels": labels},
        "images of five axes": {"images": images[None, None], "labels": labels},
        "images of 0 pixels": {"images": images[:, :0], "labels": labels},
        "no image": {"images": images[:0], "labels": labels[:0]},
        "one image": {"images": images[:1], "labels": labels[:1]},
        "constant images": {"images": np.zeros_like(images), "labels": labels},
        "one class": {"images": images, "labels": np.zeros_like(labels)},
        "no labels": {"images": images},
        "nothing": {},
    }
    kinds: dict[str, str] = {}
    for number, (name, content) in enumerate(arrays.items()):
        np.savez(folder / f"hostile-{number}.npz", **content)
        kinds[name] = f"npz:hostile-{number}.npz"
    _zip_bomb(folder / "bomb.npz")
    head = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2)
    for name, raw in {
        "a huge header": head,
        "half a header": head[:6],
        "another magic": b"\x01\x02" + head[2:],
    }.items():
        (folder / f"idx {name}").write_bytes(raw)
        kinds[f"IDX with {name}"] = f"idx:idx {name},idx {name}"
    (folder / "idx-bomb.gz").write_bytes(gzip.compress(bytes(64 << 20), 9))
    kinds |= {"a bomb": "npz:bomb.npz", "an IDX bomb": "idx:idx-bomb.gz,idx-bomb.gz"}
    for name, given in kinds.items():
        words = (
            "quantize",
            "net.onnx",
            "--target",
            "onnxruntime",
            "--data",
            given,
            *NORMAL,
            "--output",
            "made/q.onnx",
        )
        right = (0, 3) if "label" in name or name == "one class" else (3,)
        yield Try(f"data to calibrate: {name}", words, right)
        if "IDX" not in name:
            judged = ("validate", "engine.onnx", "--data", given, *NORMAL)
            yield Try(f"data to judge: {name}", (*judged, "--baseline", "engine.onnx"), (3,))


def _zip_bomb(path: Path) -> None:
    """An archive whose one array says that it has 2^40 bytes."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824, 32, 32), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", array + bytes(16 << 20))
        archive.writestr("labels.npy", array)
