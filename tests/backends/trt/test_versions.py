"""One code base for four versions: every TensorRT name that the code touches exists in each.

The lists in ``tests/backends/tensorrt_api`` were read from the real bindings of TensorRT 8.6.1,
10.13.3, 11.4.0 and TensorRT for RTX 1.7.1. Two checks stand on them: the source is read for every
attribute of the variables that hold TensorRT's objects (see ``tensorrt/api.py``), and the build
and the runner really run against stand-ins that know the listed members and no others
(``trt_standin/``).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgeres.backends.tensorrt

LISTS = Path(__file__).parents[1] / "tensorrt_api"
SOURCES = sorted(Path(edgeres.backends.tensorrt.__file__).parent.glob("*.py"))

CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "builder_config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "cuda_engine": "ICudaEngine",
    "execution": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "timing_cache": "ITimingCache",
    "tensor": "ITensor",
    "network_layer": "ILayer",
}
# Members of classes that the lists leave out, the same in all four versions' documentation.
UNLISTED = {
    "ILogger": {"Severity"},
    "LayerInformationFormat": {"JSON"},
    "TensorIOMode": {"INPUT"},
    "LayerType": {"QUANTIZE"},
}
# Files in which a name of the table stands for something else.
OTHER_MEANING = {"graph.py": {"tensor"}, "fp16.py": {"tensor"}}
OTHER_MEANING["layerlist.py"] = OTHER_MEANING["dlpack.py"] = {"tensor"}


@dataclass(frozen=True)
class Api:
    """Members that one version's bindings have."""

    version: str
    module: frozenset[str]
    members: dict[str, frozenset[str]]


def read_api(path: Path) -> Api:
    version, *lines = path.read_text().splitlines()
    members, module = {}, frozenset[str]()
    for line in lines:
        match = re.fullmatch(r"(?:== )?(\w+) (None|\[.*\])", line)
        if match:
            members[match.group(1)] = frozenset(ast.literal_eval(match.group(2)) or ())
        elif line.startswith("["):
            module = frozenset(ast.literal_eval(line))
    return Api(version, module, members)


APIS = [read_api(path) for path in sorted(LISTS.glob("*.txt"))]


@dataclass(frozen=True)
class Use:
    """One attribute of a TensorRT object in the source; ``owner`` is a class or ``module``."""

    owner: str
    member: str
    line: int
    guarded: bool


def uses_of(source: str, other_meaning: frozenset[str] = frozenset()) -> list[Use]:
    """Every TensorRT name in a source text.

    A use is guarded if the same function asks ``hasattr`` for it, or for the class it belongs to,
    or if it is reached with ``getattr`` and a name that is no constant.
    """
    found = []
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inner = {
        child
        for function in functions
        for child in ast.walk(function)
        if isinstance(child, ast.FunctionDef) and child is not function
    }
    for function in functions:
        if function in inner:
            continue
        asked = _asked(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute):
                continue
            owner = _owner(node.value, other_meaning)
            if owner is not None:
                guarded = (owner, node.attr) in asked or ("module", owner) in asked
                found.append(Use(owner, node.attr, node.lineno, guarded))
    return found


def _owner(value: ast.expr, other_meaning: frozenset[str]) -> str | None:
    """What an expression holds: ``module``, a class of the module, or nothing of TensorRT's."""
    if isinstance(value, ast.Name) and value.id not in other_meaning:
        if value.id == "module":
            return "module"
        if value.id == "creation":
            return "NetworkDefinitionCreationFlag"
        return CLASS_OF.get(value.id)
    if isinstance(value, ast.Attribute):
        if value.attr == "module" and isinstance(value.value, ast.Name):
            return "module"
        if _owner(value.value, other_meaning) == "module":
            return value.attr
    return None


def _asked(function: ast.FunctionDef) -> set[tuple[str, str]]:
    asked = set()
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "hasattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            owner = _owner(node.args[0], frozenset())
            if owner is not None:
                asked.add((owner, str(node.args[1].value)))
    return asked


def missing(api: Api, uses: list[Use]) -> list[str]:
    """Uses that would fail with this version."""
    failures = []
    for use in uses:
        if use.guarded:
            continue
        if use.owner == "module":
            known = api.module
        else:
            known = UNLISTED.get(use.owner) or api.members.get(use.owner, frozenset())
        if use.member not in known and not use.member.startswith("__"):
            failures.append(f"{use.owner}.{use.member} (line {use.line})")
    return failures


def uses_in(path: Path) -> list[Use]:
    return uses_of(path.read_text(), frozenset(OTHER_MEANING.get(path.name, ())))


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_name_exists_or_is_guarded(api: Api, path: Path) -> None:
    assert missing(api, uses_in(path)) == []


def test_the_lists_and_the_reader_see_something() -> None:
    assert [api.version.split(".")[0] for api in APIS] == ["10", "11", "8", "1"]
    uses = [use for path in SOURCES for use in uses_in(path)]
    assert {use.owner for use in uses} >= {"module", *CLASS_OF.values()} - {"ITensor"}
    assert len(uses) > 60
    assert any(use.guarded for use in uses)


def planted(line: str, before: str = "") -> list[str]:
    source = f"def build(module, builder_config, runtime):\n    {before or 'pass'}\n    {line}\n"
    return [api.version for api in APIS if missing(api, uses_of(source))]


@pytest.mark.parametrize(
    ("line", "fails"),
    [
        ("builder_config.set_flag(module.BuilderFlag.INT8)", {"11", "1"}),
        ("builder_config.set_flag(module.BuilderFlag.STRONGLY_TYPED)", {"8", "10", "11", "1"}),
        ("builder_config.int8_calibrator = None", {"11", "1"}),
        ("builder_config.max_workspace_size = 1", {"10", "11", "1"}),
        ("builder_config.set_compute_capability(None, 0)", {"8", "10", "11"}),
        ("x = module.IProgressMonitor", {"8"}),
        ("x = module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", {"11", "1"}),
        ("runtime.get_engine_validity(b'')", {"8", "10", "11"}),
        ("builder_config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, 1)", set()),
    ],
)
def test_a_planted_name_fails_where_it_does_not_exist(line: str, fails: set[str]) -> None:
    assert {version.split(".")[0] for version in planted(line)} == fails


def test_a_guard_counts_only_for_its_own_name() -> None:
    int8 = "builder_config.set_flag(module.BuilderFlag.INT8)"
    assert planted(int8, "hasattr(module.BuilderFlag, 'INT8')") == []
    assert planted(int8, "hasattr(module.BuilderFlag, 'FP16')") != []
