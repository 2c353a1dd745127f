"""No change of the code leaves an older result in use unless somebody decided that it may."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeres.data.source import training_fingerprint
from edgeres.system import stage_code
from edgeres.system.assets import asset_folder, asset_path
from edgeres.system.stage_code import LIBRARIES, NOT_OF_STAGES, REVISIONS, made_by, source_files
from edgeres.system.store import MANIFEST, content_key

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(load_program) -> ModuleType:
    return load_program(ROOT / "scripts" / "stage_code.py")


def test_code_of_trained_results_is_as_it_was_kept(program):
    pinned = json.loads(program.PINS.read_text())
    assert set(pinned) == set(REVISIONS) == set(program.STAGES)
    for stage, number in REVISIONS.items():
        changed = program.differences(pinned, stage)
        assert (changed, number) == ([], pinned[stage]["revision"]), (
            f"the code of {stage!r} changed: {', '.join(changed)}. If its results change, raise "
            f"REVISIONS[{stage!r}] in edgeres/system/stage_code.py and run "
            "scripts/stage_code.py; if not, run scripts/stage_code.py --same-results."
        )


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ("def step():\n    return tool()\n", "def step():\n    return 1 + tool()\n", True),
        ("LIMIT = 3\n", "LIMIT = 4\n", True),
        ("def unused():\n    pass\n", "def unused():\n    return 1\n", False),
        ('"""What it does."""', '"""What it really does."""', False),
        ("return tool()", "return tool()  # at last", False),
        ("return tool()", "return (\n        tool()\n    )", False),
    ],
)
def test_what_is_reached_is_seen_and_nothing_else(program, monkeypatch, before, after, seen):
    text = (
        "from edgeres.b import tool\nLIMIT = 3\n"
        "def step():\n    return tool()\n"
        'class Root:\n    """What it does."""\n    def run(self):\n        return step() < LIMIT\n'
        "def unused():\n    pass\n"
    )
    other = program._module(ast.parse("def tool():\n    return 2\n"))

    def hashes(source: str) -> dict[str, str]:
        known = {"edgeres.a": program._module(ast.parse(source)), "edgeres.b": other}
        monkeypatch.setattr(program, "modules", lambda: known)
        found: dict[str, str] = program.reached(("edgeres.a:Root",), ())
        return found

    assert before in text
    first = hashes(text)
    assert list(first) == ["edgeres.a:LIMIT", "edgeres.a:Root", "edgeres.a:step", "edgeres.b:tool"]
    assert (hashes(text.replace(before, after)) != first) is seen


def test_training_code_is_among_what_is_kept(program):
    """The reach is by names, so what is called by other means must not be lost without a word."""
    kept = json.loads(program.PINS.read_text())
    pruning, qat = kept["prune"]["code"], kept["qat"]["code"]
    for name in (
        "edgeres.pruning.recover:prune_and_finetune", "edgeres.training.loop:fit",
        "edgeres.training.epoch:train_epoch", "edgeres.pruning.importance:taylor_hessian",
        "edgeres.recipe.prune:PruneSettings", "edgeres.data.preprocess:Preprocess",
        "edgeres.models.resnet:ResNet",
    ):  # fmt: skip
        assert name in pruning, name
    for name in ("edgeres.training.qat:train_quantized", "edgeres.training.loop:fit"):
        assert name in qat, name


def test_stages_keyed_by_the_code_reach_no_folder_that_their_hash_leaves_out(program):
    """Each `produce` of a stage, followed by names."""
    found = {}
    for name, module in program.modules().items():
        for nodes in module.definitions.values():
            for call in (part for node in nodes for part in ast.walk(node)):
                stage = _stage_of(call)
                if stage and stage not in REVISIONS:
                    body = _producer(call, nodes)
                    refs = tuple(set(program._references(body, name)))
                    found[stage] = program.reached(
                        refs, ("edgeres.pipeline.run", "edgeres.pipeline.networks")
                    )
    assert {"build", "calibrate", "quantize", "evaluate", "inspect", "load"} <= set(found)
    for stage, reach in found.items():
        assert reach, stage
        left_out = [place for place in reach if place.split(".")[1] in NOT_OF_STAGES]
        assert left_out == [], f"{stage}: {left_out[:5]}"


def _stage_of(node: ast.AST) -> str:
    """Name of the stage that a call of ``run.stage`` is of; empty for another node."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        first = node.args[0]
        if node.func.attr == "stage" and isinstance(first, ast.Constant):
            return str(first.value)
    return ""


def _producer(call: Any, nodes: tuple[ast.stmt, ...]) -> Any:
    given = next(word.value for word in call.keywords if word.arg == "produce")
    if not isinstance(given, ast.Name):
        return given
    inside = (part for node in nodes for part in ast.walk(node))
    return next(p for p in inside if isinstance(p, ast.FunctionDef) and p.name == given.id)


def test_a_key_holds_code_and_libraries(monkeypatch):
    here = content_key("calibrate", {"a": "1"}, {})
    assert set(made_by("calibrate")["versions"]) == set(LIBRARIES)
    monkeypatch.setattr(stage_code, "code_sha256", lambda: "another")
    changed = content_key("calibrate", {"a": "1"}, {})
    monkeypatch.undo()
    monkeypatch.setattr(stage_code, "package_versions", lambda names: {"numpy": "3"})
    assert len({here, changed, content_key("calibrate", {"a": "1"}, {})}) == 3


def test_a_number_that_rises_is_another_key(monkeypatch):
    before = content_key("prune", {}, {})
    monkeypatch.setattr(stage_code, "code_sha256", lambda: "another")
    assert content_key("prune", {}, {}) == before
    monkeypatch.setattr(stage_code, "REVISIONS", {**REVISIONS, "prune": REVISIONS["prune"] + 1})
    assert content_key("prune", {}, {}) != before


def test_the_hash_is_of_the_source_that_runs(monkeypatch):
    files = {file.relative_to(ROOT / "edgeres").as_posix() for file in source_files()}
    assert {"system/store.py", "quantization/quantize.py"} <= files
    assert "backends/onnxruntime/backend.py" in files
    assert not [name for name in files if name.startswith(("cli/", "report/"))]
    before = stage_code.code_sha256.__wrapped__()
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: real(self) + (b" " if self.name == "qdq.py" else b"")
    )
    assert stage_code.code_sha256.__wrapped__() != before


def test_the_shipped_pruning_is_found_whatever_the_code_around_it(monkeypatch, tmp_path):
    """A first run must not fine-tune for an hour: the default recipe's pruning comes with edgeres.

    Only what decides a pruning may be in its key: a change elsewhere must not make it stale.
    """
    pytest.importorskip("torch", reason="torch is not installed")
    from edgeres.pipeline.find_source import find_source
    from edgeres.pipeline.recipe_file import load_recipe
    from edgeres.pipeline.source import CHECKPOINT, FACTS, ModelFacts, choose_preprocess
    from edgeres.pipeline.source import load_source as load

    monkeypatch.setattr(stage_code, "code_sha256", lambda: "another version of all the rest")
    monkeypatch.setattr(stage_code, "package_versions", lambda names: {"numpy": "another"})
    recipe = load_recipe(None, {})
    load(find_source(recipe.model), tmp_path)
    facts = ModelFacts.load(tmp_path / FACTS)
    assert recipe.prune is not None
    assert recipe.data.train is not None
    key = content_key(
        "prune",
        {
            "checkpoint": hashlib.sha256((tmp_path / CHECKPOINT).read_bytes()).hexdigest(),
            "train_data": training_fingerprint(recipe.data.train),
        },
        {
            "prune": recipe.prune.key(),
            "preprocess": choose_preprocess(recipe.preprocess, facts).to_dict(),
        },
    )
    shipped = asset_folder("recipes") / "stages" / f"prune-{key[:16]}"
    assert json.loads((shipped / MANIFEST).read_text())["key"] == key
    assert asset_path("recipes", f"stages/{shipped.name}/{CHECKPOINT}").is_file()
