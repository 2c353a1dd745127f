"""Commands are called as a shell would; what they call in the library is noted, not done."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edgeres.cli import app


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def note(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """``note("module.function", result)``: replaces it; gives what it was called with."""

    def replace(name: str, result: Any = None) -> SimpleNamespace:
        seen = SimpleNamespace(args=None, options=None, calls=0)

        def stand_in(*args: Any, **options: Any) -> Any:
            seen.args, seen.options = args, options
            seen.calls += 1
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(name, stand_in)
        return seen

    return replace
