"""Has the code of a stage with a revision number changed, and did somebody decide what that means?

    python scripts/stage_code.py                  what changed; keeps what a new number covers
    python scripts/stage_code.py --same-results   keeps all: the change gives equal results

Results of training stay valid until their number in ``edgeres/system/stage_code.py`` rises. So that
nobody has to remember to raise it, ``tests/stage_code.json`` keeps a hash of each definition that
such a stage reaches inside edgeres, found by names in the syntax tree (no docstrings, no comments),
and a test fails when one differs. What only tells, times or stores is left out.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "tests" / "stage_code.json"
STAGES: Mapping[str, tuple[str, ...]] = {
    "prune": ("edgeres.stages.network:prune",),
    "qat": ("edgeres.stages.int8:qat",),
}
APART = (
    "edgeres.system.assets",
    "edgeres.backends",  # an engine's versions and place are in its key
    "edgeres.cli.console",
    "edgeres.system.container_limits",
    "edgeres.data.arrays",  # these find images, whose content is an input
    "edgeres.data.bad_images",
    "edgeres.data.fashion_mnist",
    "edgeres.data.filelist",
    "edgeres.data.files",
    "edgeres.data.hashes",
    "edgeres.data.idx",
    "edgeres.data.idx_source",
    "edgeres.data.imagefolder",
    "edgeres.data.npz",
    "edgeres.data.source",
    "edgeres.data.types",
    "edgeres.system.environment",
    "edgeres.errors",
    "edgeres.exporting",  # of a stage of its own
    "edgeres.system.files",
    "edgeres.layer_latency",  # its table is an input of pruning
    "edgeres.models.names",  # these read what comes from elsewhere, which is done before
    "edgeres.models.unwrap",
    "edgeres.models.weights_file",
    "edgeres.system.progress",
    "edgeres.backends.target",
    "edgeres.layer_latency.device",
)
"""Modules and packages that cannot change what a training gives, or are in its inputs."""


@dataclass(frozen=True)
class Module:
    """One source file: its top-level definitions, and which name is imported from where."""

    definitions: Mapping[str, tuple[ast.stmt, ...]]
    imports: Mapping[str, tuple[str, str]]


@functools.cache
def modules() -> dict[str, Module]:
    """All modules of edgeres by name."""
    found = {}
    for file in sorted((ROOT / "edgeres").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = _module(ast.parse(file.read_text(encoding="utf-8")))
    return found


def reached(roots: tuple[str, ...], apart: tuple[str, ...] = APART) -> dict[str, str]:
    """Hash of every definition that ``module:name`` roots reach, by ``module:name``."""
    known = modules()
    waiting, found = list(roots), dict[str, str]()
    while waiting:
        place = waiting.pop()
        module, _, name = place.partition(":")
        left_out = any(module == one or module.startswith(f"{one}.") for one in apart)
        if place in found or left_out or module not in known:
            continue
        if name in known[module].definitions:
            nodes = known[module].definitions[name]
            found[place] = _sha256(nodes)
            waiting += [ref for node in nodes for ref in _references(node, module)]
        elif name in known[module].imports:
            waiting.append(":".join(known[module].imports[name]))
    return dict(sorted(found.items()))


def differences(pinned: Mapping[str, Any], stage: str) -> list[str]:
    """Definitions of a stage that are not as they were kept."""
    before, now = pinned.get(stage, {}).get("code", {}), reached(STAGES[stage])
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _module(tree: ast.Module) -> Module:
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    for node in (node for body in bodies for node in body):
        if isinstance(node, ast.ImportFrom):
            imports |= _imported(node)
        for name in _defined(node):
            definitions.setdefault(name, []).append(node)
    return Module({name: tuple(nodes) for name, nodes in definitions.items()}, imports)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    leaves = (leaf for target in targets for leaf in ast.walk(target))
    return [leaf.id for leaf in leaves if isinstance(leaf, ast.Name)]


def _imported(node: ast.ImportFrom) -> dict[str, tuple[str, str]]:
    if not (node.module or "").startswith("edgeres"):
        return {}
    return {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}


def _references(node: ast.stmt, module: str) -> Iterator[str]:
    """What a definition names: its module's own names, imports, and ``"module:name"`` texts."""
    here = modules()[module]
    local = dict(here.imports)
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom):
            local |= _imported(part)
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if part.id in local:
                yield ":".join(local[part.id])
            elif part.id in here.definitions:
                yield f"{module}:{part.id}"
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            source, name = local.get(part.value.id, ("", ""))
            if f"{source}.{name}" in modules():  # an imported module
                yield f"{source}.{name}:{part.attr}"
        elif isinstance(part, ast.Constant):
            text = str(part.value)
            if ":" in text and text.partition(":")[0] in modules():
                yield text


def _sha256(nodes: tuple[ast.stmt, ...]) -> str:
    return hashlib.sha256(repr([_canonical(node) for node in nodes]).encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    """A syntax tree as plain tuples: no places, no docstrings, nothing that is empty."""
    if isinstance(value, ast.AST):
        fields = ((name, _canonical(part)) for name, part in ast.iter_fields(value))
        return (type(value).__name__, *((n, part) for n, part in fields if part not in (None, [])))
    if isinstance(value, list):
        return [_canonical(part) for part in value if not _is_text(part)]
    return value


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def main() -> None:
    """Says what changed, and keeps what was decided."""
    from edgeres.system.stage_code import REVISIONS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--same-results", action="store_true", help="the results stay equal")
    same = parser.parse_args().same_results
    pinned = json.loads(PINS.read_text()) if PINS.exists() else {}
    undecided = False
    for stage in STAGES:
        changed = differences(pinned, stage)
        raised = REVISIONS[stage] != pinned.get(stage, {}).get("revision")
        if changed and not raised and not same:
            undecided = True
            print(f"{stage}: not as revision {REVISIONS[stage]} was kept:")
            print("".join(f"    {name}\n" for name in changed), end="")
            continue
        pinned[stage] = {"revision": REVISIONS[stage], "code": reached(STAGES[stage])}
    PINS.write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n")
    if undecided:
        sys.exit(
            "Raise the number in edgeres/system/stage_code.py if results change, "
            "or give --same-results."
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
