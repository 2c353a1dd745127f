"""The place that `attack.py` works in: a good file of each kind, and hostile ones beside it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import kills
import numpy as np

FIFO = "fifo"
ENDINGS = (".pt", ".safetensors", ".onnx", ".yaml", ".npz", ".edgeres", ".txt", ".gz", ".json", "")
DEEP = 50_000
KEY = "OPENSSH PRIVATE KEY"


def make_place(folder: Path, *, whole: bool = True) -> None:
    """Writes everything into a folder.

    Args:
        folder: Where to.
        whole: Whether a run and a bundle of it are made, which takes some seconds.
    """
    from edgeres.backends import get_backend
    from edgeres.backends.base import BuildConfig

    kills.workplace(folder)
    get_backend("onnxruntime").build(folder / "net.onnx", folder / "engine.onnx", BuildConfig())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 28, 28), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(200) % 10)
    (folder / "bundle.edgeres").write_bytes(fuzz._bundles()[0])
    (folder / "net.safetensors").write_bytes(fuzz._checkpoints()[1])
    (folder / "folder").mkdir()
    (folder / "made").mkdir()
    for ending in ENDINGS:
        os.mkfifo(folder / f"{FIFO}{ending}")
    (folder / "deep.yaml").write_text("[" * DEEP)
    (folder / "deep.json").write_text("[" * DEEP)
    (folder / "empty").write_bytes(b"")
    (folder / "junk").write_bytes(rng.bytes(2000))
    (folder / "keys.yaml").write_text(json.dumps({"a\x1b[2J\u202e": 1}))
    _checkpoints(folder)
    _sidecars(folder)
    _bundles(folder)
    _lists(folder)
    if whole:
        _run(folder, images[0])


def _run(folder: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """A run, a bundle of it, and an image for the bundle."""
    from PIL import Image

    import edgeres
    from edgeres.bundling.make import bundle

    edgeres.convert(edgeres.load_recipe(folder / "recipe.yaml"), folder / "run")
    bundle(folder / "run", folder / "whole.edgeres")
    Image.fromarray(pixels).save(folder / "cat.png")


def _checkpoints(folder: Path) -> None:
    """Tensors that no network holds as they are."""
    with contextlib.suppress(ImportError):
        import torch

        odd: dict[str, Any] = {
            "sparse.pt": {"fc.weight": torch.eye(3).to_sparse()},
            "csr.pt": {"fc.weight": torch.eye(3).to_sparse_csr()},
            "meta.pt": {"fc.weight": torch.ones(3, device="meta")},
            "quantized.pt": {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
            "complex.pt": {"fc.weight": torch.ones(3, dtype=torch.complex64)},
            "numbers.pt": {"fc.weight": 3, 4: "x"},
            "list.pt": [1, 2],
            "names.pt": {"fc\x1b[2J\u202e.weight": torch.ones(3)},
        }
        nested: Any = torch.ones(1)
        for _ in range(200):
            nested = {"state_dict": nested}
        for name, content in (odd | {"nested.pt": nested}).items():
            torch.save(content, folder / name)


def _sidecars(folder: Path) -> None:
    """Copies of the engine with another sidecar each."""
    good = json.loads((folder / "engine.onnx.engine.json").read_text())
    texts: dict[str, str] = {
        "deep": "[" * DEEP,
        "deep-inside": json.dumps(good)[:-1]
        + ', "options": '
        + '{"a":' * DEEP
        + "1"
        + "}" * DEEP
        + "}",
        "empty": "",
        "list": "[]",
        "null": json.dumps(dict.fromkeys(good)),
        "nan": json.dumps({**good, "schema": float("nan")}),
        "long": json.dumps({**good, "device": "x" * 1_000_000}),
        "acts": json.dumps({**good, "backend": "onnx\x1b[2J\u202eruntime"}),
        "batch": json.dumps({**good, "shapes": {"image": [[-1, 1, 28, 28]] * 3}}),
        "huge": json.dumps({**good, "shapes": {"image": [[10**30, 1, 28, 28]] * 3}}),
    }
    for name, text in texts.items():
        engine = folder / f"sidecar-{name}.onnx"
        engine.write_bytes((folder / "engine.onnx").read_bytes())
        named = text.replace('"engine.onnx"', f'"{engine.name}"')
        engine.with_name(f"{engine.name}.engine.json").write_text(named)


def _bundles(folder: Path) -> None:
    """Whole bundles whose manifest or sidecar makes no sense; their hashes hold."""
    from edgeres.bundling.archive import MANIFEST, Archive

    (folder / "good").write_bytes(fuzz._bundles()[0])
    with Archive(folder / "good") as archive:
        manifest = json.loads(archive.read(MANIFEST, limit=1 << 20))
        files = {n: archive.read(n, limit=1 << 20) for n in archive.sizes if n != MANIFEST}
    edits: dict[str, Callable[[Any], object]] = {
        "no-samples": lambda m: m.update(samples=[]),
        "no-classes": lambda m: m.update(class_names=[]),
        "acts": lambda m: m.update(name="n\x1b[2J\u202e", class_names=["\x1b[2J", "\u202e"]),
        "no-shape": lambda m: m["engines"]["null"].update(shapes={"x": {"min": [-1]}}),
        "number": lambda m: m["engines"]["null"].update(proven={"verdict": 3, "reason": []}),
        "device": lambda m: m["engines"]["null"].update(device="cuda:99999999999999999999"),
        "backend": lambda m: m["engines"]["null"].update(backend="../../etc"),
    }
    for name, edit in edits.items():
        changed = json.loads(json.dumps(manifest))
        edit(changed)
        write_bundle(folder / f"bundle-{name}.edgeres", json.dumps(changed).encode(), files)
    inner = {
        "deep": "[" * DEEP,
        "empty": "",
        "null": "null",
    }
    for name, text in inner.items():
        for file in ("e/m.engine.json", "x.json"):
            content = {**files, file: text.encode()}
            write_bundle(
                folder / f"bundle-{name}-{file[0]}.edgeres", json.dumps(manifest).encode(), content
            )
    write_bundle(folder / "bundle-deep.edgeres", b"[" * DEEP, files)


def write_bundle(path: Path, manifest: bytes, files: dict[str, bytes]) -> None:
    """A bundle whose manifest has the hashes of these files, where it is one."""
    import hashlib

    from edgeres.bundling.archive import write_archive

    with contextlib.suppress(ValueError, RecursionError):
        raw = json.loads(manifest)
        raw["files"] = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for name, content in files.items()
        }
        manifest = json.dumps(raw).encode()
    write_archive(path, manifest, dict(files))


def _lists(folder: Path) -> None:
    """Lists of images, labels, hosts."""
    texts = {
        "list-acts.txt": "a\x1b[2J\u202e.png 0\n",
        "list-fifo.txt": f"{FIFO}.png 0\n" * 3,
        "list-deep.txt": "/".join(["a"] * 3000) + " 0\n",
        "list-long.txt": "a" * 300 + ".png 0\n",
        "list-null.txt": "a\0b.png 0\n",
        "known-junk": "not a line of keys\n",
        "known-acts": "host ssh-ed25519 \x1b[2J\u202e\n",
        "key-garbage": f"-----BEGIN {KEY}-----\nx\n-----END {KEY}-----\n",
        "fleet-deep.yaml": "devices: " + "[" * DEEP,
        "fleet-odd.yaml": "devices: {a: {address: 3}, b: {address: local, threads: -1}}\n",
        "fleet-acts.yaml": 'devices: {"a\\e[2J": {address: "ssh://\\u202e"}}\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    os.mkfifo(folder / f"{FIFO}.png")
