"""Seeded mutation fuzzing of everything that may come from elsewhere.

    python benchmarks/fuzz.py --inputs 20000 --seed 0 --out benchmarks/results/fuzz.json

The result file is written every 500 inputs, and a run that was stopped goes on from there.

Good files of each kind are damaged (bits, bytes, cuts, repeats, lengths, numbers, swapped parts)
and given to the reader that edgeres uses. What may happen: the file is read, or an error of
edgeres's own tree says why not. Anything else is counted: another exception, the end of the
process that fuzzes, a hang, a file that appears anywhere but in the case's own folder. ONNX files
are parsed by native code, which edgeres does in a child process; here every such input runs in a
forked child under the same limits, whose end counts apart, for the parent survives it by design.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import gzip
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.errors import EdgeResError

SECONDS = 20
STEP = 500
"""Inputs between two writes of the result file."""
CHILD_BYTES = 8 << 30

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Kind:
    """One kind of file: its name, a good one, and the reader."""

    name: str
    seeds: tuple[bytes, ...]
    suffix: str
    read: Callable[[Path], object]
    forked: bool = False


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A damaged copy: one to four random changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(7):
            case 0 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                changed[place : place + chance.randint(1, 8)] = chance.randbytes(
                    chance.randint(1, 8)
                )
            case 2:
                del changed[place:]
            case 3:
                del changed[place : place + chance.randint(1, 64)]
            case 4:
                part = bytes(changed[place : place + chance.randint(1, 64)])
                changed[place:place] = part * chance.randint(1, 4)
            case 5:
                size = chance.choice((1, 2, 4, 8))
                value = chance.choice(_INTERESTING) % (1 << 8 * size)
                order = chance.choice(("little", "big"))
                changed[place : place + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
            case _:
                other = chance.randrange(len(changed) + 1)
                size = chance.randint(1, 32)
                changed[place : place + size] = changed[other : other + size]
    return bytes(changed)


def kinds() -> tuple[Kind, ...]:
    """Every kind of file that edgeres reads."""
    from edgeres.bundling.open import OpenBundle
    from edgeres.data.decode import decode_file
    from edgeres.data.idx import read_idx_images
    from edgeres.models.checkpoint import load_checkpoint
    from edgeres.pipeline.recipe_file import load_recipe

    def bundle(path: Path) -> None:
        with OpenBundle(path) as opened:
            opened.check_all()

    return (
        Kind("recipe", _recipes(), ".yaml", load_recipe),
        Kind("checkpoint", _checkpoints(), ".safetensors", load_checkpoint),
        Kind("bundle", _bundles(), ".edgeres", bundle),
        Kind("idx", _idx(), ".gz", read_idx_images),
        Kind("image", _images(), ".img", decode_file),
        Kind("onnx", _onnx(), ".onnx", _read_onnx, forked=True),
    )


def _read_onnx(path: Path) -> None:
    from edgeres.graph.external_data import load_self_contained
    from edgeres.graph.summary import summarize

    load_self_contained(path, max_bytes=1 << 28)
    summarize(path)


def run_case(kind: Kind, data: bytes, folder: Path) -> str:
    """Reads one damaged file; gives what happened."""
    path = folder / f"case{kind.suffix}"
    path.write_bytes(data)
    return _forked(kind, path) if kind.forked else _called(kind, path)


def _called(kind: Kind, path: Path) -> str:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        kind.read(path)
    except EdgeResError:
        return "refused"
    except TimeoutError:
        return "hang"
    except Exception as error:  # what no reader may raise is what is looked for
        return f"unforeseen {type(error).__name__}"
    finally:
        signal.alarm(0)
    return "read"


def _forked(kind: Kind, path: Path) -> str:
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        codes = {"read": 0, "refused": 1, "hang": 2}
        os._exit(codes.get(_called(kind, path), 3))
    deadline = time.monotonic() + SECONDS + 5
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                return f"child ended by signal {-code}"
            return ("read", "refused", "hang", "unforeseen in the child")[code]
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def fuzz(
    inputs: int,
    seed: int,
    chosen: Callable[[], tuple[Kind, ...]] = kinds,
    *,
    first: int = 0,
) -> dict[str, dict[str, int]]:
    """Counts of what happened, by kind; ``stray files`` is always there.

    Args:
        inputs: Number after the last damaged file; kinds take turns.
        seed: Same seed, same files.
        chosen: The kinds.
        first: Number of the first damaged file.
    """
    found: dict[str, Counter[str]] = {}
    all_kinds = chosen()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        case, outside = place / "case", place / "outside"
        case.mkdir()
        outside.mkdir()
        os.chdir(outside)
        try:
            for number in range(first, inputs):
                kind = all_kinds[number % len(all_kinds)]
                chance = random.Random(f"{seed} {number}")
                data = mutate(chance.choice(kind.seeds), chance)
                counts = found.setdefault(kind.name, Counter({"stray files": 0}))
                outcome = run_case(kind, data, case)
                counts[outcome] += 1
                if outcome not in ("read", "refused"):
                    print(f"{kind.name} {number}: {outcome}", file=sys.stderr)
                counts["stray files"] += sum(1 for _ in outside.rglob("*"))
                (case / f"case{kind.suffix}").unlink()
                counts["stray files"] += sum(1 for _ in case.iterdir())
        finally:
            os.chdir(before)
    return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def totals(found: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The figures that must be 0, over all kinds; a crash of the parent would leave none."""
    bad: Counter[str] = Counter(hangs=0, unforeseen=0, stray_files=0, child_ends=0, inputs=0)
    for counts in found.values():
        for outcome, count in counts.items():
            if outcome == "stray files":
                bad["stray_files"] += count
                continue
            bad["inputs"] += count
            bad["hangs"] += count * (outcome == "hang")
            bad["unforeseen"] += count * outcome.startswith("unforeseen")
            bad["child_ends"] += count * outcome.startswith("child ended")
    return dict(bad)


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError


@functools.cache
def _recipes() -> tuple[bytes, ...]:
    from edgeres.system.assets import asset_folder

    return tuple(file.read_bytes() for file in sorted(asset_folder("recipes").glob("*.yaml")))


@functools.cache
def _checkpoints() -> tuple[bytes, ...]:
    """Tensors of no network, and a narrow ResNet-20 as edgeres and as torch save it."""
    import torch
    from safetensors.numpy import save

    from edgeres.models.build import build_model
    from edgeres.models.checkpoint import Checkpoint, save_checkpoint
    from edgeres.models.plan import plan_for

    odd = {"fc.weight": np.ones((2, 4), np.float32), "fc.bias": np.zeros(2, np.float32)}
    plan = plan_for("resnet20", num_classes=2, in_channels=1, width_multiplier=0.1)
    state = {name: torch.ones_like(x) for name, x in build_model(plan).state_dict().items()}
    pickled = io.BytesIO()
    torch.save(state, pickled)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_checkpoint(path, Checkpoint(plan, state))
        ours = path.read_bytes()
    return (save(odd), ours, pickled.getvalue())


@functools.cache
def _bundles() -> tuple[bytes, ...]:
    import hashlib

    from edgeres.bundling.archive import write_archive

    files = {name: name.encode() * 9 for name in ("e/m", "e/m.engine.json", "s.png", "x.json")}
    engine = {
        "backend": "null", "engine": "e/m", "files": ["e/m", "e/m.engine.json"], "qdq": "e/m",
        "device": "cpu", "versions": {}, "saturating": False, "saturation_safe": True,
        "architecture": "any", "needs": [],
        "expected": "x.json", "expected_from": "null", "proven": {},
    }  # fmt: skip
    manifest = {
        "format": "edgeres-bundle", "schema": 1, "name": "n", "created_by": "e",
        "preprocess": {"mean": [0.5], "channels": 1}, "class_names": ["a", "b"],
        "outputs": "logits", "samples": ["s.png"], "engines": {"null": engine}, "proven_on": {},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for name, content in files.items()
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b"
        write_archive(path, json.dumps(manifest).encode(), dict(files))
        good = path.read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../evil", b"x" * 1000)
    return (good, good, other.getvalue())


@functools.cache
def _idx() -> tuple[bytes, ...]:
    images = np.arange(5 * 6 * 7, dtype=np.uint8)
    head = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (5, 6, 7))
    plain = head + images.tobytes()
    return (plain, gzip.compress(plain, mtime=0))


@functools.cache
def _images() -> tuple[bytes, ...]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    made = []
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        made.append(buffer.getvalue())
    return tuple(made)


@functools.cache
def _onnx() -> tuple[bytes, ...]:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    outside = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="weights.bin")
    made = []
    for tensor in (weights, outside):
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 6, 6])],
            [tensor],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        made.append(model.SerializeToString())
    return tuple(made)


def _earlier(path: Path | None, seed: int) -> dict[str, Any]:
    """What a run with this seed wrote before, or nothing done yet."""
    if path and path.exists():
        result: dict[str, Any] = json.loads(path.read_text())
        if result["seed"] == seed:
            return result
    return {"inputs": 0, "seed": seed, "seconds": 0.0, "totals": totals({}), "kinds": {}}


def _sum(
    one: Mapping[str, Mapping[str, int]], other: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Counts of two runs together."""
    names = dict.fromkeys([*one, *other])
    added = {name: Counter(one.get(name, {})) for name in names}
    for name, counts in added.items():
        counts.update(other.get(name, {}))
    return {name: dict(sorted(counts.items())) for name, counts in added.items()}


def main() -> None:
    """Parses arguments, fuzzes, prints the counts; exit 1 where a count that must be 0 is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = _earlier(arguments.out, arguments.seed)
    while result["inputs"] < arguments.inputs:
        begin = time.monotonic()
        after = min(result["inputs"] + STEP, arguments.inputs)
        found = fuzz(after, arguments.seed, first=result["inputs"])
        result["kinds"] = _sum(result["kinds"], found)
        result["totals"] = totals(result["kinds"])
        result["inputs"] = after
        result["seconds"] = round(result["seconds"] + time.monotonic() - begin, 1)
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    bad = result["totals"]
    sys.exit(1 if bad["hangs"] or bad["unforeseen"] or bad["stray_files"] else 0)


if __name__ == "__main__":
    main()
