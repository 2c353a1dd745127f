#!/usr/bin/env python
"""Draws which folder of edgeres imports which, from the imports themselves.

    python scripts/architecture.py           writes docs/architecture.svg
    python scripts/architecture.py --text    prints the folders from the ground up

`FLOORS` is the order of the folders: each may import those before it and none behind it.
`tests/test_architecture.py` holds that.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgeres"
#: Folders from the ground up.
FLOORS = (
    "system",
    "graph",
    "data",
    "calibrators",
    "exporting",
    "models",
    "modules",
    "backends",
    "recipe",
    "benchmarking",
    "tasks",
    "quantization",
    "evaluation",
    "layer_latency",
    "training",
    "pruning",
    "devices",
    "report",
    "bundling",
    "stages",
    "pipeline",
    "tuning",
    "cli",
)
#: Modules that belong to no folder: every floor may import them.
GROUND = ("errors", "version", "sqnr")


def modules() -> dict[str, Path]:
    """File of each module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Iterable[str]) -> set[str]:
    """Modules of edgeres that a file imports, at the top or inside a function.

    What only type checkers read does not count.
    """
    tree = ast.parse(path.read_text())
    found = set()
    for node in _running(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in known}


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _running(child)


def graph() -> dict[str, set[str]]:
    """Each module with those that it imports; the package itself hands out names, so not it."""
    known = modules()
    return {
        name: imports(path, known) - {"edgeres"}
        for name, path in known.items()
        if name not in ("edgeres", "edgeres.__main__")
    }


def folder(module: str) -> str:
    """The folder of a module, or the name of a loose module."""
    return module.split(".")[1]


def between_folders(of_modules: Mapping[str, set[str]]) -> dict[tuple[str, str], int]:
    """Number of imports from one folder into another."""
    counts: dict[tuple[str, str], int] = {}
    for module, imported in of_modules.items():
        for other in imported:
            pair = (folder(module), folder(other))
            if pair[0] != pair[1] and not set(pair) & set(GROUND):
                counts[pair] = counts.get(pair, 0) + 1
    return counts


def levels(of_modules: Mapping[str, set[str]]) -> dict[str, int]:
    """Floor of each folder: one above the highest that it imports.

    Raises:
        ValueError: Folders import each other in a circle.
    """
    below: dict[str, set[str]] = {folder(module): set() for module in of_modules}
    for upper, lower in between_folders(of_modules):
        below[upper].add(lower)
    found: dict[str, int] = {}
    while len(found) < len(below):
        ready = [name for name in below if name not in found and below[name] <= set(found)]
        if not ready:
            raise ValueError(f"a circle among {sorted(set(below) - set(found))}")
        for name in ready:
            found[name] = 1 + max((found[other] for other in below[name]), default=-1)
    return found


def circles(of_modules: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or not."""
    left = {name: set(imported) for name, imported in of_modules.items()}
    while True:
        free = {name for name, imported in left.items() if not imported & set(left)}
        if not free:
            return sorted(left)
        left = {name: imported for name, imported in left.items() if name not in free}


def draw(of_modules: Mapping[str, set[str]]) -> str:
    """The picture as SVG: a row a floor, an arrow from each folder to those that it imports."""
    where: dict[str, tuple[float, float]] = {}
    by_level: dict[int, list[str]] = {}
    for name, level in levels(of_modules).items():
        if name not in GROUND:
            by_level.setdefault(level, []).append(name)
    rows = sorted(by_level)
    width, height = 860, 70 * len(rows) + 20
    for row, level in enumerate(rows):
        names = sorted(by_level[level])
        for column, name in enumerate(names):
            x = width * (column + 1) / (len(names) + 1)
            where[name] = (x + (40 if row % 2 else -40), height - 70 * row - 45)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for (upper, lower), count in sorted(between_folders(of_modules).items()):
        (x1, y1), (x2, y2) = where[upper], where[lower]
        strength = 0.12 + min(count, 20) / 40
        parts.append(
            f'<path d="M{x1:.0f} {y1 + 14:.0f} L{x2:.0f} {y2 - 14:.0f}" fill="none" '
            f'stroke="#36567f" stroke-opacity="{strength:.2f}"><title>{upper} imports {lower}: '
            f"{count}</title></path>"
        )
    for name, (x, y) in where.items():
        parts.append(
            f'<rect x="{x - 62:.0f}" y="{y - 14:.0f}" width="124" height="28" rx="4" '
            f'fill="#eaf0f8" stroke="#36567f"/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Writes the picture or prints the floors."""
    parser = argparse.ArgumentParser(description="Draws the folders of edgeres and their imports.")
    parser.add_argument("--text", action="store_true", help="Print the floors instead.")
    arguments = parser.parse_args()
    of_modules = graph()
    if not arguments.text:
        (ROOT / "docs" / "architecture.svg").write_text(draw(of_modules))
        return
    found = levels(of_modules)
    for level in sorted(set(found.values())):
        print(level, " ".join(sorted(name for name in found if found[name] == level)))


if __name__ == "__main__":
    main()
