"""Tries of `attack.py` on samples and what is right for them: tables, features, sounds.

Beside what must be refused stands what must not be: a good set of each kind that passes, and sets
whose figures cannot tell anything, which must not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attack_content import OUT
from attack_try import Try
from numpy.typing import NDArray

COUNT = 60
JUDGE = ("validate", "engine.onnx", "--mean", "0.286", "--std", "0.353", "--baseline")
"""The engine is held against itself, so that only the set and the task can be wrong."""
UNDECIDED = (0, 1)
"""Where nothing is wrong, and so few samples may not decide."""
HEARS = """\
name: hears
model: {source: net.onnx}
preprocess:
  mean: [-4.3]
  std: [3.0]
  log_mel: {sample_rate: 8000, duration_s: 0.54, n_fft: 256, hop_length: 160, n_mels: 28}
data: {calibration_samples: 16}
targets: [onnxruntime]
gates: {max_drop: 100, untrained: true}
benchmark: {seconds: 0.02}
"""
"""Sounds of 0.54 s become 28 bands of 28 frames, as the network takes them."""


def tables(folder: Path) -> Iterator[Try]:
    """Tables of images whose header or cells make no sense for the task that reads them."""
    images, right = pictures(folder)
    rows = [f"{name},{right[row]},{row / 7:.3f}" for row, name in enumerate(images)]
    good = "file,label,age\n" + "\n".join(rows) + "\n"

    def cell(column: str, values: Sequence[Any]) -> str:
        lines = [f"{name},{value}" for name, value in zip(images, values, strict=True)]
        return f"file,{column}\n" + "\n".join(lines) + "\n"

    first = images[0]
    texts: dict[str, tuple[str, str, tuple[int, ...]]] = {
        "a good one": (good, "classification", (0,)),
        "numbers that nobody asks for": (cell("age", range(COUNT)), "outputs", UNDECIDED),
        "only a header": ("file,label\n", "classification", (3,)),
        "no column of files": ("name,label\na.png,1\n", "classification", (3,)),
        "two columns of files": (good.replace("age", "path", 1), "classification", (3,)),
        "one heading twice": (good.replace("age", "label", 1), "classification", (3,)),
        "a heading without a name": (good.replace("age", "", 1), "classification", (3,)),
        "a cell too few": (good + f"{first}-2\n", "classification", (3,)),
        "a cell too many": (good + f"{first},1,2,3\n", "classification", (3,)),
        "a file twice": (good + f"{first},1,2\n", "classification", (3,)),
        "a file that is not there": (good + "nothing.png,1,2\n", "classification", (3,)),
        "a file above": (good + "../../../etc/passwd,1,2\n", "classification", (3,)),
        "a FIFO": (good + "fifo.png,1,2\n", "classification", (3,)),
        "a path that acts": (good + "\x1b[2J\u202e.png,1,2\n", "classification", (3,)),
        "a heading that acts": (good.replace("age", "\x1b[2J\u202e", 1), "outputs", UNDECIDED),
        "a NUL": (good + "a\0b.png,1,2\n", "classification", (3,)),
        "an open quote": (good + f'"{first},1,2\n', "classification", (3,)),
        "a cell of 200 kB": (good + f"{'x' * 200_000},1,2\n", "classification", (3,)),
        "20,000 columns": ("file," + ",".join(map(str, range(20_000))) + "\n", "outputs", (3,)),
        "classes of 10^9": (cell("label", [10**9] * COUNT), "classification", (3,)),
        "classes below 0": (cell("label", [-1] * COUNT), "classification", (3,)),
        "classes the network lacks": (cell("label", range(COUNT)), "classification", (3,)),
        "one class": (cell("label", [3] * COUNT), "classification", (3,)),
        "an empty class": (cell("label", [""] + ["a"] * (COUNT - 1)), "classification", (3,)),
        "names that are numbers": (cell("label", ["1", "x"] * (COUNT // 2)), "classification",
                                   (3,)),
        "an age that is NaN": (cell("age", ["nan", *range(COUNT - 1)]), "regression", (3,)),
        "an infinite age": (cell("age", ["1e999", *range(COUNT - 1)]), "regression", (3,)),
        "ages for ten outputs": (cell("age", range(COUNT)), "regression", (3,)),
        "words for numbers": (cell("age", ["old"] * COUNT), "regression", (3,)),
        "numbers for classes": (cell("label", [0.5] * COUNT), "classification", (3,)),
        "labels for ten, two given": (cell("labels:a|b", ["a"] * COUNT), "multilabel", (3,)),
        "an unknown label": (cell("labels:a|b", ["c"] * COUNT), "multilabel", (3,)),
        "cells of 2 for labels": ("file,l:a,l:b\n" + f"{first},2,0\n", "multilabel", (3,)),
        "masks that are not there": (cell("mask", ["m.png"] * COUNT), "segmentation", (3,)),
        "masks for scores of classes": (cell("mask", images), "segmentation", (3,)),
        "one person a photo": (cell("label", range(COUNT)), "embedding", (3,)),
    }  # fmt: skip
    for number, (name, (text, task, codes)) in enumerate(texts.items()):
        path = folder / f"table-{number}.csv"
        path.write_text(text)
        words = (*JUDGE, "engine.onnx", "--data", f"list:{path.name}", *_judged(task))
        yield Try(f"a table: {name}", words, codes)


def _judged(task: str) -> tuple[str, ...]:
    """Words that name a task; classes may lose anything, so that 60 samples can pass."""
    return ("--task", task, *(("--max-drop", "100") if task == "classification" else ()))


def pictures(folder: Path) -> tuple[list[str], list[int]]:
    """Writes images that differ; gives their names, and what the network says of them."""
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 28, 28), np.uint8)
    names = [f"picture-{number}.png" for number in range(COUNT)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    inputs = (pixels[:, None] / 255 - 0.286) / 0.353
    return names, answers(folder, inputs.astype(np.float32)).argmax(1).tolist()


def answers(folder: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network says of some inputs: what it is right about, whatever it is."""
    import onnxruntime

    found = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"image": inputs})[0]
    assert len(set(found.argmax(1))) > 1
    return np.asarray(found)


def tensors(folder: Path) -> Iterator[Try]:
    """Features and targets that do not belong together, or are none."""
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 1, 28, 28), np.uint8)
    inputs = ((pixels / 255 - 0.286) / 0.353).astype(np.float32)
    numbers = answers(folder, inputs)
    labels = numbers.argmax(1)
    holed = inputs.copy()
    holed[:30] = np.nan
    cases: dict[str, tuple[Mapping[str, Any], str, tuple[int, ...]]] = {
        "a good one": ({"inputs": inputs, "labels": labels}, "classification", (0,)),
        "numbers": ({"inputs": inputs, "targets": numbers}, "regression", UNDECIDED),
        "no inputs": ({"labels": labels}, "outputs", (3,)),
        "no sample": ({"inputs": inputs[:0], "labels": labels[:0]}, "outputs", (3,)),
        "one sample": ({"inputs": inputs[:1], "labels": labels[:1]}, "classification", (3,)),
        "no targets": ({"inputs": inputs}, "regression", (3,)),
        "too few targets": ({"inputs": inputs, "targets": numbers[:9]}, "regression", (3,)),
        "targets of three": ({"inputs": inputs, "targets": numbers[:, :3]}, "regression", (3,)),
        "NaN targets": ({"inputs": inputs, "targets": numbers * np.nan}, "regression", (3,)),
        "Inf targets": ({"inputs": inputs, "targets": numbers + np.inf}, "regression", (3,)),
        "texts for targets": ({"inputs": inputs, "targets": ["x"] * COUNT}, "regression", (3,)),
        "objects": ({"inputs": np.array([object()] * COUNT)}, "outputs", (3,)),
        "half of it NaN": ({"inputs": holed, "labels": labels}, "outputs", (3,)),
        "all of it Inf": ({"inputs": inputs + np.inf}, "outputs", (3,)),
        "complex numbers": ({"inputs": inputs + 1j}, "outputs", (3,)),
        "another size": ({"inputs": inputs[:, :, :20]}, "outputs", (3,)),
        "other channels": ({"inputs": inputs.repeat(3, 1)}, "outputs", (3,)),
        "one axis": ({"inputs": inputs[:, 0, 0, 0]}, "outputs", (3,)),
        "seven axes": ({"inputs": inputs[:, None, None, None]}, "outputs", (3,)),
        "one sample again and again": (
            {"inputs": inputs[:1].repeat(COUNT, 0), "labels": labels}, "outputs", (1, 3)),
        "classes below 0": ({"inputs": inputs, "labels": labels - 5}, "classification", (3,)),
        "classes beyond": ({"inputs": inputs, "labels": labels + 500}, "classification", (3,)),
        "answers of 2": ({"inputs": inputs, "targets": labels}, "binary", (3,)),
        "names that act": (
            {"inputs": inputs, "labels": labels, "class_names": ["\x1b[2J\u202e"] * 10},
            "classification", (0, 3)),
        "a head that acts": (
            {"inputs": inputs, "targets_\x1b[2J": labels, "targets_b": labels},
            "classification", (3,)),
    }  # fmt: skip
    for number, (name, (arrays, task, codes)) in enumerate(cases.items()):
        path = folder / f"tensors-{number}.npz"
        named = {"class_names": [str(n) for n in range(10)]} if "labels" in arrays else {}
        np.savez(path, **{**named, **arrays})
        words = ("validate", "engine.onnx", "--baseline", "engine.onnx", "--data",
                 f"tensors:{path.name}", *_judged(task))  # fmt: skip
        yield Try(f"tensors: {name}", words, codes)
    np.save(folder / "alone.npy", inputs)
    (folder / "cut.npy").write_bytes((folder / "alone.npy").read_bytes()[:5000])
    (folder / "lies.npy").write_bytes(
        (folder / "alone.npy").read_bytes().replace(b"(60, ", b"(99999999999, ")[:9000]
    )
    for place in ("cut.npy", "lies.npy", "fifo.npz", "/dev/zero", "folder", "nothing", "", "."):
        given = (*JUDGE[:2], "--baseline", "engine.onnx", "--task", "outputs", "--data")
        yield Try(f"tensors: {place!r}", (*given, f"tensors:{place}"), (2, 3))


def sounds(folder: Path) -> Iterator[Try]:
    """Folders of sounds that are none, too long, too short, or all alike."""
    import soundfile  # type: ignore[import-untyped]

    rng = np.random.default_rng(3)
    (folder / "hears.yaml").write_text(HEARS)

    def wav(samples: Any, rate: int = 8000, form: str = "WAV") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=form, subtype="PCM_16")
        return buffer.getvalue()

    def noise(seconds: float = 0.54, channels: int = 1) -> Any:
        return rng.uniform(-0.5, 0.5, (int(seconds * 8000), channels))

    whole = wav(noise())
    lying = whole[:40] + (2**31).to_bytes(4, "little") + whole[44:]
    odd: dict[str, tuple[bytes, tuple[int, ...]]] = {
        "another rate": (wav(noise(), 44100), UNDECIDED),
        "FLAC": (wav(noise(), form="FLAC"), UNDECIDED),
        "six channels": (wav(noise(channels=6)), UNDECIDED),
        "one sample": (wav(noise()[:1]), (0, 1, 3)),
        "no sample": (wav(noise()[:0]), (3,)),
        "nothing": (b"", (3,)),
        "a text": (b"no sound\n" * 99, (3,)),
        "half": (whole[: len(whole) // 2], (0, 1, 3)),
        "a header that lies": (lying, (0, 1, 3)),
        "a rate of 1": (wav(noise(), 1), (0, 1, 3)),
        "a name that acts\x1b[2J\u202e": (b"x", (3,)),
    }
    names = [f"word-{number}" for number in range(10)]
    for number, (name, (content, codes)) in enumerate(odd.items()):
        place = folder / f"sounds-{number}"
        for word in names:
            (place / word).mkdir(parents=True)
            for take in range(4):
                (place / word / f"{take}.wav").write_bytes(wav(noise()))
        acting = name.partition("acts")[2]
        ending = "flac" if name == "FLAC" else "wav"
        (place / names[0] / f"odd{acting}.{ending}").write_bytes(content)
        shown = name.encode("unicode_escape").decode()
        words = ("convert", "hears.yaml", "--data", f"audiofolder:{place.name}", *OUT)
        # One bad sound of 41 is over the share that may be left out. Noise may decide nothing.
        yield Try(f"a sound: {shown}", words, codes)
    for place_name in ("folder", "fifo", "nothing", "/proc", "cat.png", ""):
        words = ("convert", "hears.yaml", "--data", f"audiofolder:{place_name}", *OUT)
        yield Try(f"sounds in {place_name!r}", words, (2, 3))
    yield Try("images where sounds are asked for",
              ("convert", "hears.yaml", "--data", "npz:images.npz", *OUT), (2, 3))  # fmt: skip
    yield Try("sounds where images are asked for",
              ("convert", "recipe.yaml", "--data", "audiofolder:sounds-0", *OUT),
              (2, 3))  # fmt: skip
