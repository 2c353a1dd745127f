"""The torch-free part of edgeres as one file that a host's Python runs: nothing is installed there.

The file is a zip application (:mod:`zipapp`), made from the code that runs here, so both ends are
the same version. The same code gives the same bytes: entries are sorted, have no time and are not
compressed. It travels like any other file, by its hash.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import edgeres
from edgeres.system.files import write_atomic

NAME = "edgeres.pyz"
PACKAGES = ("backends", "benchmarking", "data", "devices", "evaluation", "graph", "system", "tasks")
"""What loads, runs, times and answers. They import torch nowhere and, for this, neither ONNX nor
SciPy nor what draws the command line."""

_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can say
_MAIN = b"""\
import os
import sys

if sys.version_info < (3, 11):
    print(
        'edgeres-answer: '
        '{"error": {"id": "backend-missing", "exit_code": 4, "message": "Python is %d.%d there.", '
        '"hint": "edgeres needs Python 3.11 or newer; name it with --remote-python."}}'
        % sys.version_info[:2]
    )
    sys.exit(4)
sys.path[0] = os.path.abspath(sys.path[0])  # child processes get it, wherever they start

from edgeres.devices.program import main

sys.exit(main(sys.argv[1:]))
"""


def runtime_archive() -> bytes:
    """The zip application as bytes; equal for equal code."""
    root = Path(edgeres.__file__).parent
    files = list(root.glob("*.py"))
    for package in PACKAGES:
        files += (root / package).rglob("*.py")
    content = {f"edgeres/{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}
    content["__main__.py"] = _MAIN
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(content.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def write_runtime(folder: Path) -> Path:
    """Writes the zip application into a folder.

    Raises:
        StorageError: It cannot be written.
    """
    path = folder / NAME
    write_atomic(path, runtime_archive())
    return path
