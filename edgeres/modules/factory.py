"""Runs Python code that makes a network. Called in a child process only: it is anybody's code."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import torch

from edgeres.errors import EdgeResError, ModelError, one_line
from edgeres.modules.spec import ModuleSpec

_MODULE = "edgeres_factory"
_LISTED = 8


def made_by_code(spec: ModuleSpec) -> torch.nn.Module:
    """Imports a file and calls its function; prints of the code go to standard error.

    Raises:
        ModelError: In one line: the code cannot be imported, has no such function, fails, ends the
            process, or returns something else than a module.
    """
    path = spec.path.resolve()
    sys.path.insert(0, str(path.parent))  # as for a program that is started there
    sys.argv = [str(path)]
    code = importlib.util.spec_from_file_location(_MODULE, path)
    if code is None or code.loader is None:
        raise ModelError(f"{spec.path} cannot be imported.", hint="Give a Python file.")
    module = importlib.util.module_from_spec(code)
    sys.modules[_MODULE] = module  # classes that are looked up by their module's name
    try:
        code.loader.exec_module(module)
    except BaseException as error:
        raise _failed(f"{spec.path.name} cannot be imported", error, path) from error
    function = getattr(module, spec.function, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise ModelError(
            f"{spec.path.name} has no function {spec.function!r}.",
            hint=f"It has {', '.join(names[:_LISTED]) or 'none'}.",
        )
    _check_arguments(function, spec)
    try:
        made = function()
    except BaseException as error:
        raise _failed(f"{spec.shown} failed", error, path) from error
    if isinstance(made, torch.nn.Module):
        return made
    kind = f"the class {made.__name__}" if inspect.isclass(made) else f"a {type(made).__name__}"
    raise ModelError(
        f"Expected {spec.shown} to return a torch.nn.Module, got {kind}.",
        hint=f"Return an instance: return {made.__name__}()."
        if inspect.isclass(made)
        else "Return the network itself; give its weights with --weights.",
    )


def _check_arguments(function: object, spec: ModuleSpec) -> None:
    try:
        needed = [
            name
            for name, parameter in inspect.signature(function).parameters.items()  # type: ignore[arg-type]
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):  # written in C
        return
    if needed:
        raise ModelError(
            f"{spec.shown} needs the arguments {', '.join(needed)}; it is called without any.",
            hint=f"Write a function that gives them: def build(): return {spec.function}(...).",
        )


def _failed(what: str, error: BaseException, path: Path) -> EdgeResError:
    """One line: what the code raised, and the last line of the file that was being run."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    where = f" at line {line}" if line else ""
    if isinstance(error, SystemExit):
        return ModelError(
            f"{what}{where}: it ended the process (sys.exit).",
            hint='Put what is not for import under `if __name__ == "__main__":`.',
        )
    if isinstance(error, MemoryError):
        return ModelError(f"{what}{where}: it needs more memory than there is.")
    if isinstance(error, ModuleNotFoundError):
        hint = f"Install {error.name} beside edgeres, or put it into the folder of {path.name}."
    elif any(maker in one_line(error).lower() for maker in ("cuda", "nvidia")):
        hint = "Networks are exported on the CPU: build it there, and load with map_location='cpu'."
    else:
        hint = f"Call the function alone, in Python, in the folder of {path.name}."
    return ModelError(f"{what}{where}: {type(error).__name__}: {one_line(error)}.", hint=hint)
