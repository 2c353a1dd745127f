"""Where does `edgeres convert` spend its time and memory? ResNet-50 and ResNet-152 at 224 x 224.

    python benchmarks/convert_cost.py --work WORK --out benchmarks/results/convert_cost.json

Makes a network (random weights, batch norms that have seen the photographs) and JPEG photographs,
and runs `edgeres convert` on both in a process of its own, in which a thread looks 50 times a
second at what the main thread does. Work of engines is named by the call that waits for it,
everything else by the function of edgeres that it is done for. After it the FP32 network answers
the calibration images in bare passes, twice: what calibration and both engines' files cost is told
as a multiple of the faster. `python benchmarks/without_vnni.py` in front makes it a CPU without
VNNI.

Needs `pip install scikit-image`, for its photographs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image
from without_vnni import hidden

from edgeres.system.environment import describe_environment

NETWORKS = ("resnet50", "resnet152")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
CALIBRATION, HELD_OUT = 512, 512
LOOK_S = 0.02
TOLD = 0.002
#: Innermost first: a part of the file's path and the function, and what it is.
WAITS = (
    ("onnxruntime_inference_collection", "run", "inference"),
    ("quantization/observed", "run", "inference"),
    ("backends/openvino/run", "_infer", "inference"),
    ("onnxruntime_inference_collection", "_create_inference_session", "opening engines"),
    ("backends/openvino", "compile", "opening engines"),
    ("PIL/", "", "decode and resize"),
    ("edgeres/data/", "", "decode and resize"),
    ("system/child", "", "child processes"),
    ("importlib._bootstrap", "", "imports"),
)
#: Stages that make the INT8 files of the engines, by the beginning of their names.
FILES = ("calibrate", "quantize", "prepare")


def make(name: str, folder: Path) -> None:
    """The checkpoint and the photographs, once."""
    import torch

    from edgeres.models.build import build_model
    from edgeres.models.plan import plan_for

    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("pip install scikit-image")
    photos = [
        np.asarray(Image.open(Path(found.origin).parent / "data" / photo).convert("RGB"))
        for photo in PHOTOS
    ]
    random = np.random.default_rng(0)
    for which in ("calibration", "validation"):
        (folder / which).mkdir(parents=True, exist_ok=True)
    seen = []
    for index in range(CALIBRATION + HELD_OUT):
        photo = photos[index % len(photos)]
        side = int(random.integers(150, min(photo.shape[:2])))
        top, left = (int(random.integers(0, size - side + 1)) for size in photo.shape[:2])
        image = Image.fromarray(photo[top : top + side, left : left + side]).resize((320, 280))
        which = "calibration" if index < CALIBRATION else "validation"
        image.save(folder / which / f"{index:04d}.jpg", quality=92)
        if index < 32:
            seen.append(np.asarray(image.resize((224, 224)), np.float32) / 255)
    torch.manual_seed(0)
    module = build_model(plan_for(name, num_classes=1000))
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = (torch.from_numpy(np.stack(seen)) - mean) / std
    with torch.no_grad():
        module.train()(batch.permute(0, 3, 1, 2).contiguous())
    torch.save(module.state_dict(), folder / f"{name}.pt")


class Looker(threading.Thread):
    """Counts what the main thread is at."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kinds: Counter[str] = Counter()
        self._main = threading.main_thread().ident

    def run(self) -> None:
        """Until the process ends."""
        while True:
            time.sleep(LOOK_S)
            frame = sys._current_frames().get(self._main or 0)
            self.kinds[kind_of(frame)] += 1


def kind_of(frame: FrameType | None) -> str:
    """What a stack is waiting for, or the function of edgeres that it works for."""
    ours = ""
    while frame is not None:
        file, function = frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name
        for part, name, kind in WAITS:
            if part in file and name in function:
                return kind
        if not ours and "edgeres/" in file and "benchmarks/" not in file:
            ours = f"{file.rpartition('edgeres/')[2]}:{function}"
        frame = frame.f_back
    return ours or "the rest"


def child(folder: Path, looks: Path) -> None:
    """One `edgeres convert` under the eyes of a thread."""
    looker = Looker()
    looker.start()
    began = time.monotonic()
    from edgeres.cli import app

    code = 0
    try:
        app(["convert", str(folder / "recipe.yaml"), "--output", str(folder / "out"), "--no-cache"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = {"code": code, "seconds": time.monotonic() - began, "looks": dict(looker.kinds)}
    looks.write_text(json.dumps(told))


def bare(folder: Path) -> float:
    """Seconds of the FP32 passes over the calibration images, in this process."""
    import onnxruntime as ort

    session = ort.InferenceSession(
        str(folder / "out" / "baseline" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    batch = np.random.default_rng(0).normal(size=(32, 3, 224, 224)).astype(np.float32)
    session.run(None, {name: batch})
    began = time.monotonic()
    for _ in range(CALIBRATION // len(batch)):
        session.run(None, {name: batch})
    return time.monotonic() - began


def again(*words: str) -> str:
    """This program in a process of its own; what it printed last."""
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().rpartition("\n")[2]


def measure(name: str, work: Path) -> dict[str, Any]:
    """One network: the run's own figures, the looks, and the bare passes around it."""
    folder = (work / name).resolve()
    if not (folder / f"{name}.pt").exists():
        make(name, folder)
    recipe = (
        f"name: {name}\nmodel: {{source: {name}.pt}}\n"
        "preprocess: {resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], "
        "std: [0.229, 0.224, 0.225]}\n"
        "data: {calibration: 'imagefolder:calibration', validation: 'imagefolder:validation', "
        f"calibration_samples: {CALIBRATION}, validation_samples: {HELD_OUT}}}\n"
        "task: outputs\ntargets: [onnxruntime, openvino]\n"
    )
    (folder / "recipe.yaml").write_text(recipe)
    looks = folder / "looks.json"
    again("--child", str(folder), "--looks", str(looks))
    floor = [float(again("--bare", str(folder))) for _ in range(2)]
    told = json.loads(looks.read_text())
    report = json.loads((folder / "out" / "report.json").read_text())
    total = sum(told["looks"].values())
    shares = {kind: count / total for kind, count in told["looks"].items()}
    files = sum(s["seconds"] for s in report["stages"] if s["name"].startswith(FILES))
    model = (folder / "out" / "baseline" / "model.onnx").stat().st_size
    peak = max(stage["peak_rss_bytes"] for stage in report["stages"])
    return {
        "exit_code": told["code"],
        "seconds": told["seconds"],
        "shares": {
            kind: round(share, 4)
            for kind, share in sorted(shares.items(), key=lambda pair: -pair[1])
            if share >= TOLD
        },
        "stages": {
            stage["name"]: {
                "seconds": round(stage["seconds"], 2),
                "peak_rss_mb": round(stage["peak_rss_bytes"] / 1e6),
            }
            for stage in report["stages"]
        },
        "bare_seconds": floor,
        "files_over_bare": files / min(floor),
        "model_bytes": model,
        "peak_rss_bytes": peak,
        "allowed_bytes": 4 * model + 300_000_000,
    }


def main() -> None:
    """Measures what is named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--work", type=Path, default=Path("cost"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--looks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.looks)
        return
    if options.bare:
        print(bare(options.bare))
        return
    rows: dict[str, Any] = {}
    if options.out and options.out.exists():
        rows = json.loads(options.out.read_text())["rows"]
    suffix = " without VNNI" if hidden() else ""
    rows |= {f"{name}{suffix}": measure(name, options.work) for name in options.networks}
    told = {"environment": describe_environment().to_dict(), "rows": rows}
    text = json.dumps(told, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
