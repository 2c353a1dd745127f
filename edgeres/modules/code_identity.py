"""What Python code is made of: the hash of a file and of all that it imports, without running it.

Files of one's own are read, and their imports followed; of installed packages the version counts.
Code that imports by a computed name, or reads other files, is not seen through.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from edgeres.errors import ModelError, one_line
from edgeres.system.files import file_sha256
from edgeres.system.store import json_sha256

_MOST_FILES = 2000
_ALWAYS = ("torch", "torchvision", "timm")


def code_identity(path: Path) -> str:
    """SHA-256 over a Python file, the files of one's own that it imports, and versions of packages.

    Raises:
        ModelError: A file is no Python, or too many are imported.
    """
    waiting, files, packages = [path.resolve()], dict[str, str](), set[str](_ALWAYS)
    while waiting:
        file = waiting.pop()
        if str(file) in files:
            continue
        if len(files) == _MOST_FILES:
            raise ModelError(
                f"{path} imports more than {_MOST_FILES} files that are no installed package.",
                hint="Put the network's code into a folder of its own.",
            )
        files[str(file)] = file_sha256(file)
        for name, level in _imports(file):
            found = _own_files(name, level, file, path.resolve().parent)
            waiting += found
            if not found and not level:
                packages.add(name.partition(".")[0])
    versions = {name: _version(name) for name in sorted(packages)}
    inside = path.resolve().parent
    named = sorted((_relative(file, inside), sha256) for file, sha256 in files.items())
    return json_sha256({"files": named, "versions": {k: v for k, v in versions.items() if v}})


def _relative(file: str, folder: Path) -> str:
    path = Path(file)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """Names that a file imports, with the number of dots before them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise ModelError(
            f"{file} is no Python that can be read: {one_line(error)}.", hint="Correct the file."
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield base, node.level
            for alias in node.names:  # each may be a module
                yield f"{base}.{alias.name}".lstrip("."), node.level


def _own_files(name: str, level: int, file: Path, root: Path) -> list[Path]:
    """The files of one's own behind an import: beside the code, or in a folder put on the path."""
    parts = [part for part in name.split(".") if part]
    if level:
        folder = file.parent
        for _ in range(level - 1):
            folder = folder.parent
        return _below(folder, parts)
    if parts and parts[0] in sys.stdlib_module_names:
        return []
    found = _below(root, parts)
    return found or _editable(parts)


def _below(folder: Path, parts: list[str]) -> list[Path]:
    found = []
    for end in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:end])
        for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
            if file.is_file():
                found.append(file)
    if not parts and (folder / "__init__.py").is_file():
        found.append(folder / "__init__.py")
    return found


def _editable(parts: list[str]) -> list[Path]:
    """Files of a package that is on the path without being installed, or in place."""
    if not parts:
        return []
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    origin = Path(spec.origin).resolve()
    installed = {Path(place).resolve() for place in sysconfig.get_paths().values()}
    inside = any(origin.is_relative_to(place) for place in installed)
    if inside or "site-packages" in origin.parts or "dist-packages" in origin.parts:
        return []
    return _below(origin.parent.parent if origin.name == "__init__.py" else origin.parent, parts)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""
