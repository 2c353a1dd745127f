"""What the package promises as a whole: its public names, what it imports, where torch may be."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgeres

PACKAGE = Path(edgeres.__file__).parent
HEAVY = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
PUBLIC = {
    "ArtefactError",
    "BackendMissingError",
    "DataError",
    "Dataset",
    "EdgeResError",
    "ExportSettings",
    "FinetuneSettings",
    "GateError",
    "Limits",
    "MixedPrecisionSettings",
    "ModelError",
    "Preprocess",
    "PreprocessBlock",
    "PruneSettings",
    "QatSettings",
    "QuantizeBlock",
    "QuantizeSettings",
    "Recipe",
    "RecipeError",
    "Report",
    "Session",
    "SparseSettings",
    "StageError",
    "StorageError",
    "TrainSettings",
    "TuneSettings",
    "UsageError",
    "__version__",
    "benchmark",
    "build",
    "bundle",
    "calibrate",
    "compare",
    "convert",
    "doctor",
    "export",
    "inspect",
    "load_recipe",
    "open_dataset",
    "prune",
    "quantize",
    "sensitivity",
    "train",
    "tune",
    "validate",
}


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_says_which_pythons_it_is_for():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    minors = {int(line.removeprefix(prefix)) for line in project["classifiers"] if prefix in line}
    assert minors == {11, 12, 13, 14}
    assert project["requires-python"] == f">=3.{min(minors)}"


def test_public_names():
    assert set(edgeres.__all__) == PUBLIC == set(dir(edgeres))


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_public_names_stay_what_they_are_after_every_module_is_loaded(name):
    import edgeres.pipeline.convert
    import edgeres.stages.network

    assert callable(getattr(edgeres, name))
    assert getattr(edgeres, name).__doc__


def test_a_program_needs_the_public_names_alone():
    """What `make test` has mypy check strictly is a program that a user may write."""
    program = Path(__file__).with_name("user_program.py")
    imported = re.findall(r"^(?:from|import) (\S+)", program.read_text(), re.MULTILINE)
    assert {name for name in imported if name.startswith("edgeres")} == {"edgeres"}
    assert "tests/user_program.py" in (PACKAGE.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("convert", {"source": None}),
        ("validate", {"dataset": None, "preprocess": edgeres.Preprocess()}),
        ("benchmark", {}),
        ("bundle", {}),
        ("inspect", {}),
    ],
)
def test_paths_may_be_text(name, given, tmp_path):
    missing = str(tmp_path / "missing" / "engine.onnx")
    if name == "convert":
        given = {"source": edgeres.load_recipe(None, {"model.source": missing}), "output": missing}
        with pytest.raises(edgeres.EdgeResError):
            edgeres.convert(**given)
        return
    first = [missing] if name == "benchmark" else missing
    with pytest.raises(edgeres.EdgeResError, match="engine"):
        getattr(edgeres, name)(first, **given)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nothing"):
        _ = edgeres.nothing


@pytest.mark.parametrize(
    "code",
    [
        "import edgeres",
        "import edgeres.cli",
        "import edgeres.pipeline.convert",
        "from edgeres.backends import backend_names, get_backend; "
        "[get_backend(name) for name in backend_names() if name != 'pytorch']",
    ],
)
def test_imports_are_light(code):
    heavy = _python(f"import sys; {code}; print(*(m for m in {HEAVY!r} if m in sys.modules))")
    assert heavy.strip() == ""


def test_help_loads_nothing_that_takes_time():
    slow = (*HEAVY, "numpy", "scipy", "onnx", "onnx_ir", "pydantic", "PIL", "safetensors")
    heavy = _python(
        "import sys; sys.argv = ['edgeres', '--help']; sys.stdout = sys.stderr\n"
        "from edgeres.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(*(m for m in {slow!r} if m in sys.modules), file=sys.__stdout__)"
    )
    assert heavy.strip() == ""


def test_torch_is_imported_only_where_it_belongs():
    allowed = {"models", "modules", "training", "pruning", "exporting"}
    wrong = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) torch\b", file.read_text(), re.MULTILINE)
        and file.relative_to(PACKAGE).parts[0] not in allowed
        and file.parent.name != "pytorch"
    ]
    assert wrong == []


def test_backends_are_named_only_in_their_folder():
    # Recipes, help texts and messages name targets to people; code must not ask which one it has.
    pattern = re.compile(r"""(==|!=|\bin\b)\s*[({\[]?\s*["'](onnxruntime|openvino|tensorrt)["']""")
    wrong = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] != "backends" and pattern.search(file.read_text())
    ]
    assert wrong == []


def test_every_command_has_help():
    from typer.testing import CliRunner

    from edgeres.cli import app

    runner = CliRunner()
    names = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
    assert {"convert", "train", "prune", "export", "quantize", "build"} <= set(names)
    assert {"validate", "benchmark", "inspect", "compare", "doctor"} <= set(names)
    assert {"bundle", "run"} <= set(names)
    for name in names:
        result = runner.invoke(app, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output
