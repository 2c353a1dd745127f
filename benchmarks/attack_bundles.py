"""Tries of `attack.py` on bundles, sidecars and images, and on programs that open a `Session`."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attack_try import Try

BUNDLE = "whole.edgeres"
PROGRAM = """\
import sys
import numpy as np
import edgeres
from edgeres.errors import EdgeResError

bundle, image = "whole.edgeres", "cat.png"
try:
{body}
except EdgeResError as error:
    print(f"error: {{error}}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def bundles(folder: Path) -> Iterator[Try]:
    """A real bundle that was cut, changed, lengthened, or holds what it must not."""
    whole = (folder / BUNDLE).read_bytes()
    made = {f"cut at {share} %": whole[: len(whole) * share // 100] for share in range(0, 100, 10)}
    for share in range(5, 100, 10):
        place = len(whole) * share // 100
        changed = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        made[f"a bit at {share} %"] = changed
    made |= {
        "something behind": whole + b"more",
        "something before": b"more" + whole,
        "twice": whole + whole,
        "reversed": whole[::-1],
        "a JPEG": b"\xff\xd8\xff" + whole[3:],
        "an empty ZIP": _archive({}),
        "a path outside": _archive({"../evil": b"x", "manifest.json": b"{}"}),
        "an absolute path": _archive({"/tmp/evil": b"x", "manifest.json": b"{}"}),
        "a path of another system": _archive({"..\\evil": b"x", "manifest.json": b"{}"}),
        "a name that acts": _archive({"\x1b[2J\u202e": b"x", "manifest.json": b"{}"}),
        "a bomb": _archive({"manifest.json": bytes(64 << 20)}),
        "a manifest of deep JSON": _archive({"manifest.json": b"[" * 100_000}),
        "65,000 entries": _archive({f"{n}": b"" for n in range(65_000)}),
    }
    for number, (name, content) in enumerate(made.items()):
        path = folder / f"hostile-{number}.edgeres"
        path.write_bytes(content)
        bit = name.startswith("a bit")  # in a file that `run` does not need it is not looked at
        yield Try(f"a bundle: {name}", ("run", path.name, "cat.png"), (0, 3) if bit else (3,))
        if bit or number % 4 == 0:
            words = ("push", path.name, "127.0.0.1:1/a/b:1", "--plain-http")
            yield Try(f"push of a bundle: {name}", words, (3,))


def _archive(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sidecars(folder: Path) -> Iterator[Try]:
    """Sidecars of a good engine without a key, with another type, with another truth."""
    good = json.loads((folder / "engine.onnx.engine.json").read_text())
    file = good["files"]["engine.onnx"]
    edits: dict[str, dict[str, Any]] = {f"{key} is null": {key: None} for key in good}
    edits |= {f"{key} is a number": {key: 10**30} for key in good}
    edits |= {
        "another schema": {"schema": 99},
        "another hash": {"files": {"engine.onnx": {**file, "sha256": "0" * 64}}},
        "another size": {"files": {"engine.onnx": {**file, "size_bytes": 1}}},
        "a size below 0": {"files": {"engine.onnx": {**file, "size_bytes": -1}}},
        "a file outside": {"files": {**good["files"], "../../../../etc/passwd": file}},
        "an absolute file": {"files": {**good["files"], "/etc/passwd": file}},
        "a FIFO as a file": {"files": {**good["files"], "fifo": file}},
        "no file": {"files": {}},
        "a backend outside": {"backend": "../../etc"},
        "a backend that acts": {"backend": "\x1b[2J\u202e"},
        "a device of 10^20": {"device": f"cuda:{10**20}"},
        "shapes of texts": {"shapes": {"image": "x"}},
        "shapes turned": {"shapes": {"image": [[9, 1, 28, 28], [1, 1, 28, 28], [1, 1, 28, 28]]}},
    }
    ok = {"another schema": (3,), "a device of 10^20": (0, 2, 3, 4), "shapes turned": (0, 3)}
    for number, (name, edit) in enumerate(edits.items()):
        engine = folder / f"engine-{number}.onnx"
        engine.write_bytes((folder / "engine.onnx").read_bytes())
        text = json.dumps({**good, **edit}).replace('"engine.onnx"', f'"{engine.name}"')
        engine.with_name(f"{engine.name}.engine.json").write_text(text)
        optional = name.partition(" ")[0] in ("options", "shapes") and name.endswith("null")
        codes = ok.get(name, (0, 3) if optional else (3,))
        yield Try(f"a sidecar: {name}", ("inspect", engine.name), codes)


def images(folder: Path) -> Iterator[Try]:
    """Images for a good bundle: those that are none, and those that are odd."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)

    def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
        return buffer.getvalue()

    png = saved("PNG")
    huge = png[:16] + struct.pack(">II", 100_000, 100_000) + png[24:]
    made = {
        "nothing.png": b"",
        "text.jpg": b"not an image\n" * 50,
        "half.png": png[: len(png) // 2],
        "half.jpg": saved("JPEG")[:300],
        "100,000 pixels wide.png": huge,
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "a\x1b[2J\u202e.png": b"junk",
        "program.png": b"\x7fELF" + bytes(500),
    }
    good = {
        "cmyk.jpg": saved("JPEG", "CMYK"),
        "alpha.png": saved("PNG", "RGBA"),
        "palette.gif": saved("GIF", "P"),
        "one.png": saved("PNG", "1"),
    }
    pixels = pixels[:, :1].repeat(500, 0)
    made["tall.png"] = saved("PNG")
    for name, content in {**made, **good}.items():
        (folder / name).write_bytes(content)
        shown = name.encode("unicode_escape").decode()
        codes = (0,) if name in good else (3,)
        yield Try(f"an image: {shown}", ("run", BUNDLE, name, "--trust"), codes)
    for name in ("nothing", "/etc", "/proc/self/mem", "-", "https://example.org/x.png"):
        yield Try(f"an image: {name}", ("run", BUNDLE, "--trust", "--", name), (2, 3))


def sessions() -> Iterator[Try]:
    """Programs that open a bundle and do what no program should."""
    good = "s = edgeres.Session(bundle)\n"
    zeros = "x = np.zeros((1, 1, 28, 28), np.float32)\n"
    late = "from concurrent.futures import ThreadPoolExecutor as Pool\n"
    bodies: dict[str, tuple[str, tuple[int, ...]]] = {
        "used after its end": (good + zeros + "s.close(); s.infer(x)", (2,)),
        "closed twice": (good + "s.close(); s.close()", (0,)),
        "classify after its end": (good + "s.close(); s.classify([image])", (2,)),
        "a stream that is begun, then its end": (
            good + "t = s.stream([image] * 99); next(t); s.close(); list(t)", (2,)),
        "pickled": (good + "import pickle; pickle.dumps(s)", (2,)),
        "copied": (good + "import copy; copy.deepcopy(s)", (2,)),
        "raw pixels": (good + zeros + "s.infer(x + 200)", (3,)),
        "bytes": (good + zeros + "s.infer(x.astype(np.uint8) + 200)", (3,)),
        "NaN": (good + zeros + "s.infer(x * np.nan)", (3,)),
        "Inf": (good + zeros + "s.infer(x + np.inf)", (3,)),
        "three axes": (good + zeros + "s.infer(x[0])", (3,)),
        "another size": (good + "s.infer(np.zeros((1, 1, 30, 30), np.float32))", (3,)),
        "other channels": (good + "s.infer(np.zeros((1, 3, 28, 28), np.float32))", (3,)),
        "no image": (good + "assert s.classify([]) == []", (0,)),
        "an empty array": (good + zeros + "s.infer(x[:0])", (3,)),
        "a list of lists": (good + "s.infer([[1.0]])", (3,)),
        "a text for a list": (good + "s.classify(image)", (2,)),
        "a number for an image": (good + "s.classify([3])", (2, 3)),
        "None for an image": (good + "s.classify([None])", (2, 3)),
        "an image of floats": (good + "s.classify([np.zeros((28, 28))])", (3,)),
        "an image of four axes": (good + "s.classify([np.zeros((1, 28, 28, 3), np.uint8)])", (3,)),
        "an image that is not there": (good + "s.classify(['nothing.png'])", (3,)),
        "no class": (good + "s.classify([image], top=0)", (2,)),
        "more classes than there are": (good + "s.classify([image], top=999)", (0,)),
        "a batch of 0": ("edgeres.Session(bundle, batch_size=0)", (2,)),
        "a pool of 0": ("edgeres.Session(bundle, pool=0)", (2,)),
        "threads below 0": ("edgeres.Session(bundle, threads=-1)", (2,)),
        "an unknown target": ("edgeres.Session(bundle, target='toaster')", (2, 3, 4)),
        "an unknown device": ("edgeres.Session(bundle, device='toaster')", (2, 3, 4)),
        "a GPU that is not there": ("edgeres.Session(bundle, device='cuda:99')", (2, 3, 4)),
        "no bundle": ("edgeres.Session('nothing')", (3,)),
        "a folder": ("edgeres.Session('folder')", (3,)),
        "a FIFO": ("edgeres.Session('fifo')", (3,)),
        "an empty name": ("edgeres.Session('')", (2, 3)),
        "a key that is none": ("edgeres.Session(bundle, key='junk')", (2, 3)),
        "closed by another thread": (
            good + zeros + late + "with Pool(8) as p:\n"
            "    ends = [p.submit(s.infer, x) for _ in range(400)]\n"
            "    p.submit(s.close)\n"
            "[end.result() for end in ends]", (0, 2)),
        "opened 40 times": (
            "for _ in range(40):\n    edgeres.Session(bundle, self_test=False)", (0,)),
        "forked": (
            good + zeros + "import os\nif os.fork() == 0:\n    s.infer(x)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))", (2,)),
        "in processes": (
            good + "import multiprocessing as m\n"
            "with m.get_context('fork').Pool(1) as p:\n    p.map(s.classify, [[image]])", (2,)),
        "in an event loop that is cancelled": (
            good + zeros + "import asyncio\nasync def main():\n"
            "    task = asyncio.ensure_future(s.infer_async(x))\n"
            "    await asyncio.sleep(0)\n    task.cancel()\n"
            "    await asyncio.gather(task, return_exceptions=True)\n"
            "asyncio.run(main()); s.close()", (0,)),
    }  # fmt: skip
    for name, (body, codes) in bodies.items():
        code = PROGRAM.format(body="\n".join(f"    {line}" for line in body.splitlines()))
        yield Try(f"a session: {name}", (), codes, code=code)


def makers() -> dict[str, Callable[[Path], Iterator[Try]]]:
    """What of this file writes hostile files first, by kind."""
    return {"bundles": bundles, "sidecars": sidecars, "images": images}
