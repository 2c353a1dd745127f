"""Which TensorRT is imported, and what is said where none can be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edgeres.backends.tensorrt.api import load_trt
from edgeres.errors import BackendMissingError

NAMES = ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``importable("tensorrt_bindings")`` makes these names import, and none of the others."""

    def put(*names: str) -> None:
        for name in NAMES:
            module = SimpleNamespace(__version__=f"1.2.3 of {name}") if name in names else None
            monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.mark.parametrize(
    ("names", "flavor", "loaded"),
    [
        (NAMES, "tensorrt", "tensorrt"),
        (NAMES[1:], "tensorrt", "tensorrt_bindings"),
        (NAMES[2:], "tensorrt_rtx", "tensorrt_rtx"),
        (NAMES[3:], "tensorrt_rtx", "tensorrt_rtx_bindings"),
    ],
)
def test_the_first_that_imports(
    importable: Callable[..., None], names: tuple[str, ...], flavor: str, loaded: str
) -> None:
    importable(*names)
    trt = load_trt()
    assert (trt.flavor, trt.version) == (flavor, f"1.2.3 of {loaded}")
    assert trt.is_rtx == (flavor == "tensorrt_rtx")


def test_only_the_flavor_that_is_asked_for(importable: Callable[..., None]) -> None:
    importable("tensorrt", "tensorrt_rtx_bindings")
    assert load_trt("tensorrt_rtx").version.endswith("tensorrt_rtx_bindings")
    importable("tensorrt")
    with pytest.raises(BackendMissingError, match="TensorRT for RTX is not installed here"):
        load_trt("tensorrt_rtx")


def test_a_broken_installation_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str, *arguments: Any) -> Any:
        if name == "tensorrt":
            raise OSError("libnvinfer.so.10: cannot open shared object file")
        if name == "tensorrt_rtx":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        if name in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BackendMissingError) as caught:
        load_trt()
    assert "tensorrt: libnvinfer.so.10: cannot open" in caught.value.message
    assert "tensorrt_rtx: No module named 'numpy'" in caught.value.message
    assert "bindings" not in caught.value.message
    assert "pip install" in caught.value.hint
