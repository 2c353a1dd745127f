"""Which edgeres runs here, as a hash: workers of another one would give other answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import edgeres


def _code_sha256() -> str:
    root = Path(edgeres.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


CODE_SHA256 = _code_sha256()
"""SHA-256 over the package's Python files, taken when this process began to use them: what is
changed on the disk later is not what it runs."""
