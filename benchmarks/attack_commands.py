"""Tries of `attack.py` on files, places and streams: what each command reads and writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attack_try import Try

DATA = ("--data", "npz:images.npz", "--mean", "0.286", "--std", "0.353")
QUANTIZE = ("quantize", "net.onnx", "--target", "onnxruntime", *DATA)
LONG = "x" * 300
_PLACE = re.compile(r"\{0?\}[.a-z]*")


def special_files() -> Iterator[Try]:
    """A FIFO, a device or a folder in place of every file that a command reads."""
    out = ("--output", "made/out")
    reads = {
        "recipe": ("convert", "{}.yaml", *out),
        "model.pt": ("convert", "--model", "{}.pt", *DATA, *out),
        "model.safetensors": ("convert", "--model", "{}.safetensors", *DATA, *out),
        "model.onnx": ("convert", "--model", "{}.onnx", *DATA, *out),
        "weights": ("convert", "--model", "resnet20", "--weights", "{}.pt", *DATA, *out),
        "sample answer": ("convert", "--model", "net.safetensors", "--sample-answer", "{}.npz",
                          *DATA, *out),
        "npz": ("convert", "recipe.yaml", "--data", "npz:{}.npz", *out),
        "idx": ("convert", "recipe.yaml", "--data", "idx:{0}.gz,{0}.gz", *out),
        "list": ("convert", "recipe.yaml", "--data", "list:{}.txt", *out),
        "image folder": ("convert", "recipe.yaml", "--data", "imagefolder:{}", *out),
        "export": ("export", "{}.pt", "--size", "28", *out),
        "prune": ("prune", "{}.pt", *out),
        "train": ("train", "{}.yaml", *out),
        "train start": ("train", "empty", "--start", "{}.pt", *out),
        "quantize": ("quantize", "{}.onnx", "--target", "onnxruntime", *DATA, *out),
        "table": (*QUANTIZE, "--table", "{}.json", *out),
        "sensitivity": ("sensitivity", "{}.onnx", "--target", "onnxruntime", *DATA),
        "build": ("build", "{}.onnx", "--target", "onnxruntime", *out),
        "engine": ("inspect", "{}.onnx"),
        "validate": ("validate", "engine.onnx", *DATA, "--baseline", "{}.npz"),
        "conformance": ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx",
                        "--conformance", "{}.yaml"),
        "compare": ("compare", "{}.onnx", "net.onnx", *DATA),
        "benchmark": ("benchmark", "{}.onnx"),
        "fleet": ("benchmark", "engine.onnx", "--fleet", "{}.yaml"),
        "known hosts": ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1",
                        "--known-hosts", "{}"),
        "identity": ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1",
                     "--known-hosts", "empty", "--identity", "{}"),
        "bundle": ("run", "{}.edgeres", "x.png"),
        "image": ("run", "bundle.edgeres", "{}.png", "--trust"),
        "key": ("run", "bundle.edgeres", "x.png", "--key", "{}"),
        "push": ("push", "{}.edgeres", "127.0.0.1:1/a/b:1", "--plain-http"),
        "report": ("report", "{}"),
        "history": ("report", "folder", "--history-file", "{}"),
        "clean": ("clean", "{}"),
        "labels": ("bundle", "folder", "--labels", "{}.txt"),
    }  # fmt: skip
    for what, words in reads.items():
        yield Try(f"a FIFO as {what}", [word.format("fifo") for word in words], (2, 3, 4))
    for what in ("recipe", "model.pt", "npz", "engine", "bundle", "key", "labels", "known hosts"):
        for place in ("/dev/zero", "/dev/null", "folder"):
            put = [_PLACE.sub(place, word) for word in reads[what]]
            yield Try(f"{place} as {what}", put, (2, 3, 4))


def foreign_content() -> Iterator[Try]:
    """Files whose form holds and whose content makes no sense."""
    words: tuple[str, ...]
    out = ("--output", "made/out")
    yield Try("a recipe of 50,000 brackets", ("convert", "deep.yaml", *out), (2,))
    yield Try("a recipe with keys that act", ("convert", "keys.yaml", *out), (2,))
    for name in ("sparse", "csr", "meta", "quantized", "complex", "numbers", "list", "names",
                 "nested"):  # fmt: skip
        words = ("export", f"{name}.pt", "--size", "28", *out)
        yield Try(f"a checkpoint of {name}", words, (3,))
    for name in ("deep", "deep-inside", "empty", "list", "null", "nan", "long", "acts", "batch",
                 "huge"):  # fmt: skip
        codes = {"acts": (2, 3), "huge": (0, 3)}.get(name, (3,))
        yield Try(f"a sidecar: {name}", ("inspect", f"sidecar-{name}.onnx"), codes)
    bundles = ("no-samples", "no-classes", "acts", "no-shape", "number", "device", "backend",
               "deep", "deep-e", "deep-x", "empty-e", "empty-x", "null-e", "null-x")  # fmt: skip
    for name in bundles:
        words = ("run", f"bundle-{name}.edgeres", "x.png")
        yield Try(f"a bundle: {name}", words, (2, 3, 4))
    for name in ("acts", "fifo", "deep", "long", "null"):
        words = ("convert", "recipe.yaml", "--data", f"list:list-{name}.txt", *out)
        yield Try(f"a list: {name}", words, (2, 3))
    for name in ("deep", "odd", "acts"):
        words = ("benchmark", "engine.onnx", "--fleet", f"fleet-{name}.yaml")
        yield Try(f"a fleet: {name}", words, (2, 4))
    for name in ("deep.json", "empty", "junk"):
        for what, words in {
            "table": (*QUANTIZE, "--table", name, *out),
            "baseline": ("validate", "engine.onnx", *DATA, "--baseline", name),
            "conformance": ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx",
                            "--conformance", name),
            "labels": ("bundle", "folder", "--labels", name),
            "key": ("run", "bundle.edgeres", "x.png", "--key", name),
            "sample answer": ("convert", "--model", "net.safetensors", "--sample-answer", name,
                              *DATA, *out),
            "training recipe": ("train", name, *out),
            "history": ("report", "folder", "--history-file", name),
        }.items():  # fmt: skip
            yield Try(f"{name} as {what}", words, (2, 3))


def outputs() -> Iterator[Try]:
    """Places that cannot be written, before any work."""
    words: tuple[str, ...]
    writers = {
        "convert": ("convert", "recipe.yaml"),
        "export": ("export", "net.safetensors", "--size", "28"),
        "prune": ("prune", "net.safetensors", *DATA[2:]),
        "quantize": QUANTIZE,
        "build": ("build", "net.onnx", "--target", "onnxruntime"),
        "tune": ("tune", "recipe.yaml", "--trials", "1"),
        "train": ("train", "train.yaml"),
        "bundle": ("bundle", "folder"),
        "pull": ("pull", "127.0.0.1:1/a/b:1", "--plain-http"),
        "report": ("report", "folder"),
    }
    for place in ("/proc/x", "", LONG, "a\0b", "/dev/full", "net.onnx/inside"):
        for what, words in writers.items():
            if "\0" in place:
                continue
            yield Try(f"{what} to {place[:20]!r}", (*words, "--output", place), (2, 3, 6))
    for what in ("export", "quantize", "build", "pull"):
        yield Try(f"{what} to a folder", (*writers[what], "--output", "folder"), (0, 2, 4, 6))
    for what in ("convert", "tune", "train"):
        yield Try(f"{what} to a file", (*writers[what], "--output", "net.onnx"), (2, 6))
    for option in ("--junit", "--save", "--record-conformance"):
        for place in ("/proc/x", "", LONG, "folder"):
            words = ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx", option, place)
            yield Try(f"{option} {place[:10]!r}", words, (2, 6))


def streams() -> Iterator[Try]:
    """Output that cannot be written, or that nobody reads."""
    for words in (("doctor",), ("doctor", "--json"), ("inspect", "engine.onnx", "--json"),
                  ("--help",), ("--version",)):  # fmt: skip
        told = " ".join(words)
        yield Try(f"{told} > /dev/full", words, (6,), stdout="/dev/full")
        yield Try(f"{told} | true", words, (141,), stdout="closed")


def addresses() -> Iterator[Try]:
    """Hosts, registries and schedulers that are not there, and what names them."""
    words: tuple[str, ...]
    for name in ("known-junk", "known-acts", "folder", "nothing"):
        words = ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1", "--known-hosts", name)
        yield Try(f"known hosts: {name}", words, (2, 3, 4))
    for name in ("key-garbage", "junk", "folder", "nothing"):
        words = ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1", "--known-hosts",
                 "empty", "--identity", name)  # fmt: skip
        yield Try(f"identity: {name}", words, (2, 3, 4))
    scheduler = ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx", "--scheduler")
    for address in ("tcp://127.0.0.1:1", "nonsense", "", "tcp://127.0.0.1:99999"):
        yield Try(f"scheduler {address!r}", (*scheduler, address), (2, 4))
    for name in ("127.0.0.1:1/a/b:1", "nonsense", "a\x1b[2J/b:1", "[::1]:1/a/b:1"):
        yield Try(f"pull {name!r}", ("pull", name, "--output", "made/b"), (2, 3, 4))
