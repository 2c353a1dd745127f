"""The emulated Arm: `python scripts/arm64` makes it once, these tests run programs in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them are slow, and none is for a second CPU without VNNI: it has its own."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.arm64)
            item.add_marker(pytest.mark.any_cpu("runs on emulated Arm CPUs"))


@pytest.fixture(scope="session")
def emulated() -> Iterator[ModuleType]:
    """The module that runs programs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "arm64"))
        import emulated

        if (reason := emulated.missing(emulated.default_folder())) is not None:
            pytest.skip(reason)
        yield emulated
    for name in ("emulated", "cpus"):
        sys.modules.pop(name, None)


Arm = Callable[..., Any]


@pytest.fixture(scope="session")
def arm(emulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """``arm(CPU, ARGUMENTS...)`` runs Python there; gives what it did.

    With ``read=True`` it must succeed, and the JSON of its last line is the answer.
    """
    place = tmp_path_factory.mktemp("arm64")

    def run(cpu: str, *arguments: object, read: bool = False) -> Any:
        done = emulated.run_python(
            emulated.default_folder(), cpu, [str(each) for each in arguments], cwd=place
        )
        if not read:
            return done
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
