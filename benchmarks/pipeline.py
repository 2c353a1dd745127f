"""From JPEG files to labels: edgeres' session beside what people write by hand.

    python benchmarks/pipeline.py prepare WORK
    python benchmarks/pipeline.py measure WORK --out benchmarks/results/pipeline.json

Needs ``pip install --no-deps torchvision`` and ``pip install opencv-python-headless scikit-image``.

The network is ResNet-50 at 224x224 with random weights: times do not depend on their values. The
images are scikit-image's photographs as JPEG, 500 pixels wide, as data sets have them, and of 12
megapixels, as phones make them. Every way runs the INT8 engine that edgeres built, on as many CPUs
as it says (the process is bound to them):

* ``session`` and ``session, bytes``: ``edgeres.Session.classify`` on paths, with an engine that is
  fed floats and with one that is fed the resized image (``--input uint8``).
* ``torchvision + ONNX Runtime``: Resize, CenterCrop, ToTensor, Normalize on the Pillow image.
* ``OpenCV + OpenVINO``: ``imread``, ``resize`` with INTER_AREA, the rest by OpenVINO's
  preprocessing API inside the model, which is fed bytes.

``p50`` is one image after the other. ``images/s`` is all images at once, in the way that each
library recommends: the session's iterator, a DataLoader with a worker for each CPU, and OpenVINO's
AsyncInferQueue with a thread for each CPU that decodes. All ways take turns; what is told are
ratios to ``session`` within each turn, their median and the smallest and largest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

MEAN, STD, SIDE, RESIZED = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 256
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field")
KINDS = {"data set": 500, "phone": 4000}
COPIES = {"data set": 8, "phone": 1}
TARGETS = ("onnxruntime", "openvino")


def prepare(work: Path) -> None:
    """Photographs, and one bundle for each kind of input."""
    import torch
    from PIL import Image

    import edgeres
    from edgeres.models.build import build_model
    from edgeres.models.plan import plan_for

    photographs: Any = importlib.import_module("skimage.data")
    for kind, width in KINDS.items():
        for name in PHOTOGRAPHS:
            folder = work / kind / name
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(getattr(photographs, name)()).convert("RGB")
            size = (width, width * 3 // 4)
            for copy in range(COPIES[kind]):
                moved = image.rotate(7 * copy, resample=Image.Resampling.BICUBIC)
                shown = moved.resize(size, Image.Resampling.LANCZOS)
                shown.save(folder / f"{copy}.jpg", quality=90)
    torch.manual_seed(0)
    torch.save(
        build_model(plan_for("resnet50", num_classes=len(PHOTOGRAPHS))).state_dict(),
        work / "resnet50.pth",
    )
    for kind in ("float", "uint8"):
        said: dict[str, Any] = {
            "name": "resnet50",
            "model": {"source": str(work / "resnet50.pth"), "num_classes": len(PHOTOGRAPHS)},
            "preprocess": {"mean": MEAN, "std": STD, "resize": RESIZED, "crop": SIDE},
            "data": {
                "validation": f"imagefolder:{work / 'data set'}",
                "calibration": f"imagefolder:{work / 'data set'}",
                "calibration_samples": 16,
            },
            "targets": TARGETS,
            "export": {"input": kind},
            "gates": {"untrained": True, "max_drop": 100.0},
            "benchmark": {"seconds": 0.2},
        }
        recipe = edgeres.Recipe(**said)
        edgeres.convert(recipe, work / f"out-{kind}")
        edgeres.bundle(work / f"out-{kind}", work / f"{kind}.edgeres")


Way = tuple[Callable[[Path], Any], Callable[[Sequence[Path]], Any]]
"""One image, and many."""


def ways(work: Path, threads: int) -> dict[str, Way]:
    """Every way, loaded."""
    found: dict[str, Way] = {}
    for target in TARGETS:
        found[f"session ({target})"] = _session(work / "float.edgeres", target, threads)
        found[f"session, bytes ({target})"] = _session(work / "uint8.edgeres", target, threads)
    found["torchvision + ONNX Runtime"] = _torchvision(work, threads)
    found["OpenCV + OpenVINO"] = _opencv(work, threads)
    return found


def _session(bundle: Path, target: str, threads: int) -> Way:
    import edgeres

    session = edgeres.Session(bundle, target=target, threads=threads)
    return session.classify, lambda paths: list(session.stream(paths))


def _torchvision(work: Path, threads: int) -> Way:
    import onnxruntime as ort
    import torch
    from PIL import Image
    from zoo_networks import declare_operators

    declare_operators()
    transforms: Any = importlib.import_module("torchvision.transforms")

    steps = transforms.Compose(
        [
            transforms.Resize(RESIZED),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        str(work / "out-float" / "onnxruntime" / "model.onnx"), options,
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    name = session.get_inputs()[0].name

    def load(path: Path) -> Any:
        return steps(Image.open(path).convert("RGB"))

    def one(path: Path) -> Any:
        return session.run(None, {name: load(path)[None].numpy()})

    class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, paths: Sequence[Path]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return load(self.paths[index])

    def many(paths: Sequence[Path]) -> Any:
        loader = torch.utils.data.DataLoader(Files(paths), batch_size=8, num_workers=threads)
        return [session.run(None, {name: batch.numpy()}) for batch in loader]

    return one, many


def _opencv(work: Path, threads: int) -> Way:
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(threads)
    core = ov.Core()
    model = core.read_model(str(work / "out-float" / "openvino" / "model.xml"))
    model.reshape([1, 3, SIDE, SIDE])
    steps = PrePostProcessor(model)
    image = steps.input()
    image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    image.tensor().set_color_format(ColorFormat.BGR)
    image.model().set_layout(ov.Layout("NCHW"))
    scaled = image.preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB)
    scaled.mean([255 * mean for mean in MEAN]).scale([255 * std for std in STD])
    whole = steps.build()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    fast = core.compile_model(whole, "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY"})
    wide = core.compile_model(whole, "CPU", {**settings, "PERFORMANCE_HINT": "THROUGHPUT"})
    request = fast.create_infer_request()

    def load(path: Path) -> Any:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        height, width = pixels.shape[:2]
        share = RESIZED / min(height, width)
        size = (round(width * share), round(height * share))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        top, left = (small.shape[0] - SIDE) // 2, (small.shape[1] - SIDE) // 2
        return np.ascontiguousarray(small[None, top : top + SIDE, left : left + SIDE])

    def one(path: Path) -> Any:
        return request.infer([load(path)])

    def many(paths: Sequence[Path]) -> Any:
        queue = ov.AsyncInferQueue(wide)
        with ThreadPoolExecutor(threads) as pool:
            for pixels in pool.map(load, paths):
                queue.start_async([pixels])
        queue.wait_all()

    return one, many


def measure_here(work: Path, threads: int, turns: int) -> dict[str, Any]:
    """Figures of one number of CPUs, for each kind of photograph."""
    os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:threads]))
    every = ways(work, threads)
    found: dict[str, Any] = {}
    for kind in KINDS:
        paths = sorted((work / kind).rglob("*.jpg"))
        p50: dict[str, list[float]] = {name: [] for name in every}
        rate: dict[str, list[float]] = {name: [] for name in every}
        for one, many in every.values():
            one(paths[0])
            many(paths[:8])
        for _ in range(turns):
            for name, (one, many) in every.items():
                took = []
                for path in paths[:24]:
                    start = time.perf_counter()
                    one(path)
                    took.append(time.perf_counter() - start)
                p50[name].append(1e3 * statistics.median(took))
                start = time.perf_counter()
                many(paths)
                rate[name].append(len(paths) / (time.perf_counter() - start))
        found[kind] = {
            name: {
                "p50_ms": statistics.median(p50[name]),
                "images_per_s": statistics.median(rate[name]),
                **{
                    f"faster_than_{base}": _ratio(p50[base], p50[name])
                    for base in ("torchvision + ONNX Runtime", "OpenCV + OpenVINO")
                },
                **{
                    f"more_than_{base}": _ratio(rate[name], rate[base])
                    for base in ("torchvision + ONNX Runtime", "OpenCV + OpenVINO")
                },
            }
            for name in every
        }
        found[kind]["steps_ms"] = profile(paths[:24])
    return found


def _ratio(over: list[float], under: list[float]) -> list[float]:
    """Smallest, median and largest ratio within a turn."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    return [round(value, 3) for value in (ratios[0], statistics.median(ratios), ratios[-1])]


def profile(paths: Sequence[Path]) -> dict[str, float]:
    """Milliseconds of each step of edgeres before the engine, medians."""
    from edgeres.data.decode import decode_file
    from edgeres.data.preprocess import Preprocess

    preprocess = Preprocess(mean=MEAN, std=STD, resize=RESIZED, crop=SIDE)
    times: dict[str, list[float]] = {"decode": [], "resize and crop": [], "normalize": []}
    for path in paths:
        marks = [time.perf_counter()]
        image = decode_file(path)
        marks.append(time.perf_counter())
        fitted = preprocess.fit(image)
        marks.append(time.perf_counter())
        preprocess.batch([fitted])
        marks.append(time.perf_counter())
        for name, begin, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(1e3 * (end - begin))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Prepares, or measures with one and with two CPUs in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["prepare", "measure", "here"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.work)
        return
    if arguments.command == "here":
        print(json.dumps(measure_here(arguments.work, arguments.threads, arguments.turns)))
        return
    from edgeres.system.environment import describe_environment

    result: dict[str, Any] = {"environment": describe_environment().to_dict(), "cpus": {}}
    for threads in (1, 2):
        command = [sys.executable, __file__, "here", str(arguments.work)]
        command += ["--threads", str(threads), "--turns", str(arguments.turns)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result["cpus"][str(threads)] = json.loads(done.stdout.splitlines()[-1])
        text = json.dumps(result, indent=1)
        if arguments.out:
            arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
