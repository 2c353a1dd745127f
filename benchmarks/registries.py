"""How long `pull` waits for registries that do wrong, and how much memory it takes.

    python benchmarks/registries.py --out benchmarks/results/registries.json

Each registry of `tests/bundling/registry_server.py` gets one `edgeres pull`, in a process of its
own: its exit code, seconds and peak resident memory count. Then a registry sends bytes without end
instead of a layer, and a layer of 1 GiB is pushed. Exit 1 where one took over 15 s or 200 MB, or
ended otherwise than with one line and exit code 3 or 4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import attack_parties
import fuzz
from attack_try import MAIN

SECONDS, MEGABYTES = 15.0, 200.0
LAYER_BYTES = 1 << 30
UPLOAD = """
import sys
from pathlib import Path
from edgeres.bundling.oci import open_registry, upload
reference, path, digest = sys.argv[1:]
with open_registry(reference, True) as (client, container):
    upload(client, container, Path(path), {"digest": digest, "size": Path(path).stat().st_size})
"""


def measured(code: str, words: Sequence[str]) -> dict[str, Any]:
    """Exit code, seconds, peak megabytes (10^6 bytes) and lines on stderr of a Python program."""
    # A shell between: Linux counts the memory of who starts a process as its peak until it runs.
    command = ["sh", "-c", 'exec "$0" -c "$@"', sys.executable, code, *words]
    peak, ended = 0, threading.Event()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    begin = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.02):
                peak = max(peak, _peak_bytes(process.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        told = process.communicate(timeout=300)[1]
        ended.set()
        watching.join()
    return {
        "code": process.returncode,
        "seconds": round(time.monotonic() - begin, 2),
        "peak_mb": round(peak / 1e6, 1),
        "lines": len(told.splitlines()),
    }


def _peak_bytes(pid: int) -> int:
    """Highest resident memory of a process so far; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) << 10 if lines else 0


def pulls(folder: Path) -> dict[str, dict[str, Any]]:
    """What a pull from each registry costs, by what the registry does."""
    registry = attack_parties.load(attack_parties.TESTS / "bundling" / "registry_server.py")
    found = {}
    for name in attack_parties.REGISTRIES:
        with registry.running() as server:
            server.wrong = getattr(registry, name)
            words = ("pull", f"{server.host}/a/b:1", "--output", str(folder / "b"), "--plain-http")
            found[name] = measured(MAIN, words)
        print(name, found[name], file=sys.stderr)
    with registry.running() as server:
        (folder / "net.edgeres").write_bytes(fuzz._bundles()[0])
        place = f"{server.host}/a/b:1"
        push = measured(MAIN, ("push", str(folder / "net.edgeres"), place, "--plain-http"))
        if push["code"] != 0:
            raise SystemExit("a good registry took no bundle")
        server.wrong = lambda handler: "/blobs/" in handler.path and registry.endless_body(handler)
        words = ("pull", place, "--output", str(folder / "b"), "--plain-http")
        found["a layer without end"] = measured(MAIN, words)
    return found


def push_of_a_big_layer(folder: Path) -> dict[str, Any]:
    """What bringing a layer of 1 GiB costs."""
    registry = attack_parties.load(attack_parties.TESTS / "bundling" / "registry_server.py")
    layer = folder / "layer"
    with layer.open("wb") as file:
        file.truncate(LAYER_BYTES)
    with layer.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with registry.running() as server:
        found = measured(UPLOAD, (f"{server.host}/a/b:1", str(layer), digest))
        if list(server.blobs) != [digest]:
            raise SystemExit("the layer did not arrive")
    return found


def main() -> None:
    """Parses arguments, measures, prints; exit 1 where a limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["DOCKER_CONFIG"] = name  # no login of whoever runs this
        pulled, pushed = pulls(Path(name)), push_of_a_big_layer(Path(name))
    good = pushed["code"] == 0 and pushed["peak_mb"] <= MEGABYTES
    for one in pulled.values():
        good &= one["seconds"] <= SECONDS and one["peak_mb"] <= MEGABYTES
        good &= one["code"] in (3, 4) and one["lines"] == 1
    result = {
        "limits": {"seconds": SECONDS, "megabytes": MEGABYTES},
        "slowest_s": max(one["seconds"] for one in pulled.values()),
        "peak_mb": max(one["peak_mb"] for one in [pushed, *pulled.values()]),
        "kept": good,
        "pull": pulled,
        "push of a layer of 1 GiB": pushed,
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
