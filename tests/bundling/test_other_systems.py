"""macOS and Windows: what runs a bundle there imports no module that only POSIX or Linux has.

A child takes away what those systems lack, after the libraries are imported, which know their
system themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, os, signal, sys
import filelock, numpy, onnx, onnxruntime, PIL.Image, psutil, pydantic, ruamel.yaml, typer
import requests
import rich.console, rich.progress, rich.table, typer.testing
import asyncio, concurrent.futures, ctypes, logging.handlers, multiprocessing, platform, shutil
import sqlite3, subprocess, sysconfig, tempfile, zipfile, zoneinfo
from pathlib import Path

system, bundle, image = sys.argv[1:]
sysconfig.get_config_vars()
lacking = {
    "darwin": ["posixshmem", "spwd"],
    "win32": ["fcntl", "resource", "pwd", "grp", "termios", "tty", "curses", "readline"],
}[system]
sys.modules |= dict.fromkeys(lacking)
unknown = {
    "darwin": [(os, "sched_getaffinity"), (os, "sched_setaffinity")],
    "win32": [
        *((os, name) for name in ("killpg", "setsid", "fork", "getuid", "sysconf")),
        *((os, name) for name in ("sched_getaffinity", "O_DIRECTORY", "O_NOFOLLOW")),
        *((signal, name) for name in ("SIGHUP", "SIGKILL", "SIGALRM")),
    ],
}[system]
for module, name in unknown:
    delattr(module, name)
sys.platform = system

import edgeres

root = Path(edgeres.__file__).parent
# With torch:
away = {"training", "pruning", "models", "modules", "exporting", "pytorch", "__main__.py"}
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).parts
    if not away & set(parts):
        importlib.import_module(".".join(["edgeres", *parts]).removesuffix(".py"))
assert not {"torch", *lacking} & {name for name, module in sys.modules.items() if module}

with edgeres.Session(bundle, isolate=True) as session:
    print(session.classify([PIL.Image.open(image)])[0][0].label)
"""


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_a_bundle_runs_there(
    system: str, bundle_file: Path, images: list[Path], tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("this is one of them")
    command = [sys.executable, "-c", PROGRAM, system, str(bundle_file), str(images[1])]
    # A place of its own: what holds a folder there is another lock than on this system, so a run
    # beside it would take its folders for those of a dead one.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Trouser"
