"""Runs one function in a child process under a time and a memory limit.

Native parsers and compilers crash, hang or swallow all memory on a model that nobody here made.
Such work is done in a child, and the parent always reports: with the function's result, with the
EdgeRes error that the function raised, or with a ``StageError`` that says how the child ended.

Arguments and results travel as JSON, never as pickle, so nothing that comes out of a hostile file
can run code in the parent. The child's own standard output is kept apart: what native libraries
print goes to its standard error, and the last line of that goes into the message of a crash.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, TypeAlias

from edgeres import errors
from edgeres.errors import EdgeResError, StageError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from edgeres.system.child import main; main()"
_MESSAGE_LIMIT = 600
# Each of these reserves address space per thread, which a limit on address space counts.
_SMALL_ADDRESS_SPACE = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


def run_limited(
    function: str,
    arguments: Mapping[str, JsonValue],
    *,
    seconds: float,
    memory_bytes: int | None,
) -> JsonValue:
    """Calls a function in a child process and returns what it returns.

    Args:
        function: ``package.module:function``; it is imported in the child only.
        arguments: Keyword arguments, JSON values only (paths as strings).
        seconds: Wall-clock limit; the child and all it started are killed after that.
        memory_bytes: Limit on the child's address space (``RLIMIT_AS``); ``None`` for no limit,
            which GPU drivers need. Without effect on systems that have no such limit.

    Raises:
        EdgeResError: The error that the function raised, of the same class.
        StageError: The child crashed, ran out of time or memory, or raised any other exception.
    """
    request = json.dumps(
        {"function": function, "arguments": dict(arguments), "memory_bytes": memory_bytes}
    )
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env={**os.environ, **_SMALL_ADDRESS_SPACE},
            start_new_session=True,
        )
        with process:
            try:
                answer, _ = process.communicate(request.encode(), timeout=seconds)
            except subprocess.TimeoutExpired:
                raise StageError(
                    f"{function} did not end within its limit of {seconds:g} s and was stopped.",
                    hint="Give it more time, or suspect the model.",
                ) from None
            finally:
                kill_group(process)
        return read_answer(function, answer, process.returncode, memory_bytes, printed)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the child's session: the child if it still runs, and whatever it left running."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def read_answer(
    function: str,
    answer: bytes,
    exit_code: int,
    memory_bytes: int | None,
    printed: IO[bytes],
) -> JsonValue:
    """Turns what a child wrote and how it ended into a result or an exception.

    Args:
        function: What the child did, for messages.
        answer: What it answered.
        exit_code: As ``Popen.returncode``.
        memory_bytes: The limit that it had.
        printed: What it and its native libraries printed.

    Raises:
        EdgeResError: As :func:`run_limited`.
    """
    try:
        reply = json.loads(answer) if exit_code == 0 else None
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise StageError(
            f"{function} crashed in its child process: {_how_it_ended(exit_code)}"
            f"{_last_line(printed)}.",
            hint=f"Memory limit was {_size(memory_bytes)}; the model may be damaged or hostile.",
        )
    if "result" in reply:
        result: JsonValue = reply["result"]
        return result
    if reply["class"] == "MemoryError":
        raise StageError(
            f"{function} needs more memory than its limit of {_size(memory_bytes)}: "
            f"{reply['message']}.",
            hint="Raise the limit if the model is trusted.",
        )
    kind = getattr(errors, reply["class"], None)
    if isinstance(kind, type) and issubclass(kind, EdgeResError):
        raise kind(reply["message"], hint=reply["hint"])
    raise StageError(f"{function} failed: {reply['class']}: {reply['message']}")


def _how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


def _last_line(printed: IO[bytes]) -> str:
    printed.seek(0, os.SEEK_END)
    printed.seek(max(0, printed.tell() - 4096))
    lines = printed.read().decode(errors="replace").strip().splitlines()
    return f" ({lines[-1].strip()[:_MESSAGE_LIMIT]})" if lines else ""


def _size(memory_bytes: int | None) -> str:
    return "none" if memory_bytes is None else f"{memory_bytes / 2**30:.3g} GiB"


def main() -> None:
    """The child's side: one request on standard input, one answer on standard output."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    limit(request["memory_bytes"])
    reply = call(request["function"], request["arguments"])
    with os.fdopen(answer_to, "w") as stream:
        json.dump(reply, stream)
    sys.stdout.flush()
    # Native libraries may hang or crash while they are torn down; the answer is already out.
    os._exit(0)


def limit(memory_bytes: int | None) -> None:
    """Bounds this process: its address space, and no core file when it crashes."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        allowed = math.inf if hard == resource.RLIM_INFINITY else hard
        limit = int(min(memory_bytes, allowed))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def find(function: str) -> Callable[..., JsonValue]:
    """Imports ``package.module:function``."""
    module, _, name = function.partition(":")
    found: Callable[..., JsonValue] = getattr(importlib.import_module(module), name)
    return found


def call(function: str, arguments: Mapping[str, object]) -> dict[str, JsonValue]:
    """Calls a function in the child; the reply tells :func:`read_answer` how that went."""
    try:
        return {"result": find(function)(**arguments)}
    except EdgeResError as error:
        return {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:  # the parent must hear of any failure, whatever it is
        message = " ".join(str(error).split())[:_MESSAGE_LIMIT]
        out_of_memory = isinstance(error, MemoryError) or "bad_alloc" in message
        kind = "MemoryError" if out_of_memory else type(error).__name__
        return {"class": kind, "message": message or "no message", "hint": ""}
