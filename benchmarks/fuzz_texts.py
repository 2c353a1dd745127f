"""More kinds for `fuzz.py`: texts and JSON from elsewhere, damaged within a whole file around them.

    python benchmarks/fuzz_texts.py --inputs 20000 --seed 0

A sidecar whose engine is whole, a manifest of a bundle, the JSON inside a bundle whose hashes hold,
what an SSH host and a registry answer, a list of images, class names, and a file of known hosts.
Counts and options are those of `fuzz.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import attack_parties
import fuzz
from attack_files import write_bundle

from edgeres.bundling.archive import MANIFEST
from edgeres.bundling.session import Session
from edgeres.data.samples import scores_from_json

SCORES = b'{"scores": [[0.25, 0.75]]}'
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1K0BOlRgdPbDu4lZ0VXYvOEv3bRzWJb0W7nXv3sYvF"


def kinds() -> tuple[Any, ...]:
    """The kinds, as ``fuzz.kinds`` gives them."""
    from edgeres.backends.sidecar import read_engine, sidecar_path
    from edgeres.bundling.manifest import parse_manifest
    from edgeres.data.filelist import open_list
    from edgeres.data.label_file import read_labels
    from edgeres.devices.framing import framed
    from edgeres.devices.host_answer import check_benchmark, read_answer

    def sidecar(path: Path) -> None:
        engine = path.with_name("engine")
        engine.write_bytes(b"engine")
        beside = sidecar_path(engine)
        beside.write_bytes(path.read_bytes())
        try:
            read_engine(engine)
        finally:
            engine.unlink()
            beside.unlink()

    def answer(path: Path) -> None:
        content = read_answer(path.read_bytes(), "host")
        if content is not None:
            check_benchmark(content, ["e"], "host")

    record = _record(hashlib.sha256(b"engine").hexdigest(), "engine", 6)
    times = {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    part = {"backend": "b", "device": "cpu", "latency_ms": times, "doubts": [],
            "peak_memory_bytes": 5}  # fmt: skip
    good = {"environment": {"cpu": "c", "threads": 1}, "stable": True, "engines": {"e": part}}
    error = {"error": {"id": "bad-data", "message": "odd", "hint": "none"}}
    bundle = fuzz._bundles()[0]
    manifest = bundle[bundle.index(b"{") : bundle.index(b"PK", bundle.index(b"{"))]
    made = [
        fuzz.Kind("sidecar", (json.dumps(record).encode(),), ".json", sidecar),
        fuzz.Kind(
            "manifest", (manifest,), ".json", lambda path: parse_manifest(path.read_bytes(), path)
        ),
        fuzz.Kind("answer", (framed(good).encode(), framed(error).encode()), ".txt", answer),
        fuzz.Kind("list", (b"a.png 0\nb.png 1\n",), ".txt", lambda p: open_list(p, None, "train")),
        fuzz.Kind("labels", ("cat\ndog\nT-Shirt é\n".encode(),), ".txt", read_labels),
    ]
    if importlib.util.find_spec("asyncssh") is not None:
        made.append(fuzz.Kind("known_hosts", (f"h,1.2.3.4 {KEY}\n".encode(),), ".txt", _hosts))
    if importlib.util.find_spec("oras") is not None:
        made.append(_registry(bundle))
    return (
        *made,
        _sidecar_in(bundle),
        fuzz.Kind("scores in a bundle", (SCORES,), ".json", _scores),
    )


def _scores(path: Path) -> None:
    scores_from_json(path.read_bytes(), "scores", samples=1)


def _registry(bundle: bytes) -> Any:
    """What a registry says of a bundle that is there."""
    from edgeres.bundling.registry import pull, push

    module = attack_parties.load(attack_parties.TESTS / "bundling" / "registry_server.py")
    server = module.Registry()
    threading.Thread(target=server.serve_forever, daemon=True).start()  # it ends with the program
    place = f"{server.host}/a/b:1"
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "b"
        whole.write_bytes(bundle)
        push(whole, place, plain_http=True)
    (manifest,) = {server.manifests["1"]}

    def read(path: Path) -> None:
        server.manifests["1"] = path.read_bytes()
        with tempfile.TemporaryDirectory() as name:
            pull(place, Path(name) / "b", plain_http=True)

    return fuzz.Kind("registry", (manifest,), ".json", read)


def _sidecar_in(bundle: bytes) -> Any:
    """The sidecar of the engine inside a bundle that is whole otherwise."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = files.pop(MANIFEST)
    sidecar, engine = "e/m.engine.json", files["e/m"]

    def read(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            changed = Path(folder) / "b"
            write_bundle(changed, manifest, {**files, sidecar: path.read_bytes()})
            Session(changed).close()

    good = _record(hashlib.sha256(engine).hexdigest(), "m", len(engine))
    return fuzz.Kind("sidecar in a bundle", (json.dumps(good).encode(),), ".json", read)


def _record(sha256: str, name: str, size_bytes: int) -> dict[str, Any]:
    """A sidecar of an engine of one file."""
    return {
        "schema": 1, "backend": "null", "device": "cpu", "source_sha256": "0" * 64,
        "versions": {"x": "1"}, "options": {"a": "b"}, "shapes": {"x": [[1, 2], [1, 2], [3, 2]]},
        "files": {name: {"sha256": sha256, "size_bytes": size_bytes}},
    }  # fmt: skip


def _hosts(path: Path) -> None:
    from edgeres.devices.address import SshDevice
    from edgeres.devices.ssh_login import read_known_hosts

    read_known_hosts(SshDevice("h", known_hosts=path))


def main() -> None:
    """Parses arguments, fuzzes, prints the counts; exit 1 where a count that must be 0 is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = fuzz.fuzz(arguments.inputs, arguments.seed, kinds)
    result = {"seed": arguments.seed, "totals": fuzz.totals(found), "kinds": found}
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    bad = result["totals"]
    sys.exit(1 if bad["hangs"] or bad["unforeseen"] or bad["stray_files"] else 0)


if __name__ == "__main__":
    main()
