"""An engine is built anew as it was built before, apart from what belonged to that machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, ShapeRange
from edgeres.bundling import rebuild
from edgeres.bundling.rebuild import rebuild_engine


def test_options_and_shapes_are_those_of_the_build(tmp_path: Path, monkeypatch) -> None:
    seen: list[BuildConfig] = []
    monkeypatch.setattr(rebuild, "build_isolated", lambda *given: seen.append(given[-1]))

    def extract(name: str, place: Path) -> Path:
        (place / name).write_bytes(b"")
        return place / name

    ends = {"image": ShapeRange((1, 3), (4, 3), (8, 3))}
    options = {
        "rest": "float32",
        "max_batch": "8",
        "timing_cache": "timing.bin",
        "flavor": "tensorrt_rtx",
        "compute_capabilities": "8.6",
    }
    entry = SimpleNamespace(backend="tensorrt", qdq="net.onnx", options=options, shapes=ends)
    config = BuildConfig("cuda:1", threads=2)
    bundle = SimpleNamespace(extract=extract)
    rebuild_engine(bundle, entry, get_backend("tensorrt"), tmp_path, config)
    kept = {"rest": "float32", "max_batch": "8"}
    assert seen == [BuildConfig("cuda:1", threads=2, options=kept, shapes=ends)]
