"""Python code that makes a network: what it may do, and one line for all that goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeres.errors import EdgeResError, ModelError, StageError, UsageError
from edgeres.modules.bring import SECONDS, bring_module
from edgeres.modules.factory import made_by_code
from edgeres.modules.fill import fill
from edgeres.modules.spec import ModuleSpec, code_spec, file_spec, is_code

BODIES = {
    "raises": (
        "def build():\n    return 1 / 0",
        "net.py:build failed at line 2: ZeroDivisionError",
    ),
    "ends": ("import sys\ndef build():\n    sys.exit(3)", "at line 3: it ended the process"),
    "untold": (
        "class E(Exception):\n    def __str__(self): raise ValueError\ndef build():\n    raise E",
        "failed at line 4: E: E",
    ),
    "none": ("def build():\n    pass", "to return a torch.nn.Module, got a NoneType"),
    "class": ("import torch\ndef build():\n    return torch.nn.ReLU", "the class ReLU"),
    "weights": ("def build():\n    return {}", "got a dict"),
    "argument": ("def build(depth):\n    return depth", "needs the arguments depth"),
    "missing": ("def make():\n    pass", "has no function 'build'"),
    "variable": ("build = 3", "has no function 'build'"),
    "import": ("import nothing_of_this_name\ndef build(): pass", "No module named 'nothing_of"),
    "at import": ("raise RuntimeError('no\\nway')", "cannot be imported at line 1: .*no way"),
    "cuda": (
        "import torch\ndef build():\n    raise RuntimeError('No CUDA GPUs are available')",
        "No CUDA GPUs",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_code_does_wrong_is_one_line(name: str, tmp_path: Path, monkeypatch) -> None:
    body, message = BODIES[name]
    monkeypatch.setattr("sys.path", ["."])
    monkeypatch.setattr("sys.argv", ["x"])
    (tmp_path / "net.py").write_text(body)
    with pytest.raises(ModelError, match=message) as caught:
        made_by_code(ModuleSpec("factory", tmp_path / "net.py", "build"))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_hints_say_what_to_do(tmp_path: Path) -> None:
    for name, hint in (("cuda", "map_location='cpu'"), ("import", "Install nothing_of_this_name")):
        (tmp_path / "net.py").write_text(BODIES[name][0])
        with pytest.raises(ModelError) as caught:
            made_by_code(ModuleSpec("factory", tmp_path / "net.py", "build"))
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("net.py:build", True),
        ("C:\\a\\net.PY:build", True),
        ("net.py", True),
        ("net.python", False),
        ("resnet18", False),
        ("folder.py:x/net.onnx", False),
    ],
)
def test_code_is_known_by_its_name(text: str, code: bool) -> None:
    assert is_code(text) is code


def test_a_specification_names_a_function_and_files_that_exist(code: Path) -> None:
    assert code_spec(f"{code}:build", None).shown == "net.py:build"
    with pytest.raises(UsageError, match="not the function"):
        code_spec(str(code), None)
    with pytest.raises(ModelError, match="no such file"):
        code_spec(f"{code.parent / 'other.py'}:build", None)
    with pytest.raises(ModelError, match=r"w\.pth: no such file"):
        code_spec(f"{code}:build", str(code.parent / "w.pth"))


def test_the_hash_follows_imports_of_ones_own(code: Path) -> None:
    (code.parent / "part.py").write_text("A = 1")
    (code.parent / "beside.py").write_text("B = 1")
    code.write_text("from part import A\n" + code.read_text())
    spec = code_spec(f"{code}:build", None)
    first = spec.sha256()
    (code.parent / "beside.py").write_text("B = 2")
    assert spec.sha256() == first
    (code.parent / "part.py").write_text("A = 2")
    assert spec.sha256() != first
    code.write_text("def broken(:")
    with pytest.raises(ModelError, match="no Python that can be read"):
        spec.sha256()


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("module.", ""), ("", "net."), ("a.b.", "")]
)
def test_weights_fit_whatever_stands_before_their_names(
    before: str, after: str, tmp_path: Path
) -> None:
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    module = torch.nn.ModuleDict({after.rstrip(".") or "all": inner}) if after else inner
    state = {before + n: torch.full_like(t, 2) for n, t in inner.state_dict().items()}
    state["criterion.weight"] = torch.ones(4)
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    notes = fill(module, tmp_path / "w.ckpt", "net.py:build")
    assert float(inner[0].weight.detach().mean()) == 2
    assert notes == ["parameters of nothing in net.py:build are left out: criterion.weight."]


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    wrong = {
        "1 missing: 0.bias": {n: t for n, t in state.items() if n != "0.bias"},
        r"1 of another shape: 1\.bias \(5,\) instead of \(4,\)": {**state, "1.bias": torch.ones(5)},
        r"1 unknown: 1\.gamma": {**state, "1.gamma": torch.ones(4)},
        r"'0\.bias' .* NaN": {**state, "0.bias": torch.full((4,), float("nan"))},
    }
    for message, content in wrong.items():
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=message):
            fill(module, tmp_path / "w.pt", "net.py:build")


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import time\nprint('busy')\ntime.sleep(600)\n")
    spec = ModuleSpec("factory", tmp_path / "net.py", "build")
    with pytest.raises(StageError, match=r"net\.py:build did not end within its limit of 0\.5 s"):
        bring_module(spec, tmp_path / "x.onnx", said={}, image=(8, 8), seconds=0.5)
    assert SECONDS > 60


def test_a_process_that_ends_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import os\nprint('last words')\nos._exit(3)\n")
    with pytest.raises(EdgeResError, match=r"net\.py:build crashed .*exit code 3"):
        bring_module(
            ModuleSpec("factory", tmp_path / "net.py", "build"),
            tmp_path / "x.onnx",
            said={},
            image=(8, 8),
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kinds_of_files_are_known_by_their_content(tmp_path: Path) -> None:
    module = torch.nn.Conv2d(3, 4, 3)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    torch.jit.script(module).save(tmp_path / "script.pt")
    (tmp_path / "net.keras").write_bytes(b"")
    kinds = {p.name: getattr(file_spec(p), "kind", None) for p in tmp_path.iterdir()}
    assert kinds == {"weights.pt": None, "script.pt": "torchscript", "net.keras": "keras"}
