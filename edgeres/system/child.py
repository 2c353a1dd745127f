"""Runs one function in a child process under a time and a memory limit.

Native parsers and compilers crash, hang or swallow all memory on a model that nobody here made.
Such work is done in a child, and the parent always reports: with the function's result, with the
EdgeRes error that the function raised, or with a ``StageError`` that says how the child ended.

The parent sends the call as pickle, by the names of the function's module and its own. The answer
is JSON, never pickle, so nothing that comes out of a hostile file can run code in the parent. The
child's own standard output is kept apart: what native libraries print goes to its standard error,
and the last line of that goes into the message of a crash.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, ParamSpec, TypeAlias, TypeVar

from edgeres import errors
from edgeres.errors import EdgeResError, StageError
from edgeres.system.foreign_json import parse_json
from edgeres.system.lifeline import end_with_parent, limit_cpu_time

P = ParamSpec("P")
T = TypeVar("T")
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from edgeres.system.child import main; main()"
_MESSAGE_LIMIT = 600
_LOOK_S = 0.05  # between two looks at the memory of a child
_BOUNDS_MEMORY = sys.platform == "linux"
# Each of these reserves address space per thread, which a limit on address space counts.
_SMALL_ADDRESS_SPACE = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


def run_limited(
    function: Callable[P, T], *, seconds: float, memory_bytes: int | None, what: str = ""
) -> Callable[P, T]:
    """A function of a module as one that does its work in a child process.

    Args:
        function: What to call there. Its arguments must be picklable, its result JSON: what comes
            back of a tuple is a list.
        seconds: Wall-clock limit; the child and all it started are killed after that. It also ends
            when this process does, however that ends.
        memory_bytes: Limit on the child's address space (``RLIMIT_AS``), or on its resident memory
            where the system bounds no address space (macOS, Windows); ``None`` for no limit, which
            GPU drivers need.
        what: What the child does, for messages; the function's name where empty.

    Returns:
        The function to call. It raises an ``EdgeResError`` that the function raised as one of the
        same class, and a ``StageError`` where the child crashed, ran out of time or memory, or
        raised any other exception.
    """
    what = what or name_of(function)

    def call_there(*args: P.args, **kwargs: P.kwargs) -> T:
        limits = pickle.dumps((os.getpid(), memory_bytes, seconds))
        request = limits + pickle.dumps(partial(function, *args, **kwargs))
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
                watch = _Watch(process, None if _BOUNDS_MEMORY else memory_bytes)
                try:
                    answer, _ = process.communicate(request, timeout=seconds)
                except subprocess.TimeoutExpired:
                    raise StageError(
                        f"{what} did not end within its limit of {seconds:g} s and was stopped.",
                        hint="Give it more time, or suspect the model.",
                    ) from None
                finally:
                    watch.over.set()
                    kill_group(process)
            if watch.exceeded:
                raise _out_of_memory(what, memory_bytes, "it was stopped")
            result: T = read_answer(what, answer, process.returncode, memory_bytes, printed)
            return result

    return call_there


def name_of(function: Callable[..., object]) -> str:
    """``package.module:function``, as messages name what a child did."""
    return f"{function.__module__}:{function.__qualname__}"


class _Watch:
    """Ends a child that takes more memory than it may, on a system that does not do that."""

    def __init__(self, process: subprocess.Popen[bytes], memory_bytes: int | None) -> None:
        self.over = threading.Event()
        self.exceeded = False
        if memory_bytes is not None:
            threading.Thread(target=self._look, args=(process, memory_bytes), daemon=True).start()

    def _look(self, process: subprocess.Popen[bytes], memory_bytes: int) -> None:
        import psutil

        with suppress(psutil.Error):  # it has ended
            child = psutil.Process(process.pid)
            while not self.over.wait(_LOOK_S):
                if child.memory_info().rss > memory_bytes:
                    self.exceeded = True
                    child.kill()


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Ends the child's session: the child if it still runs, and whatever it left running."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return
    import psutil

    with suppress(psutil.Error):  # Windows knows no sessions; what runs below a live child is known
        child = psutil.Process(process.pid)
        for each in (*child.children(recursive=True), child):
            each.kill()


def read_answer(
    function: str,
    answer: bytes,
    exit_code: int,
    memory_bytes: int | None,
    printed: IO[bytes],
) -> Any:
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
        reply = parse_json(answer) if exit_code == 0 else None
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise StageError(
            f"{function} crashed in its child process: {_how_it_ended(exit_code)}"
            f"{_last_line(printed)}.",
            hint=f"Memory limit was {_size(memory_bytes)}; the model may be damaged or hostile.",
        )
    if "result" in reply:
        return reply["result"]
    if reply["class"] == "MemoryError":
        raise _out_of_memory(function, memory_bytes, reply["message"])
    kind = getattr(errors, reply["class"], None)
    if isinstance(kind, type) and issubclass(kind, EdgeResError):
        raise kind(reply["message"], hint=reply["hint"])
    raise StageError(f"{function} failed: {reply['class']}: {reply['message']}")


def _out_of_memory(function: str, memory_bytes: int | None, how: str) -> StageError:
    return StageError(
        f"{function} needs more memory than its limit of {_size(memory_bytes)}: {how}.",
        hint="Raise the limit if the model is trusted.",
    )


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
    parent, memory_bytes, seconds = pickle.load(sys.stdin.buffer)
    end_with_parent(parent)
    limit(memory_bytes)
    limit_cpu_time(seconds)
    reply = call(received(sys.stdin.buffer))
    with os.fdopen(answer_to, "w") as stream:
        json.dump(reply, stream)
    sys.stdout.flush()
    # Native libraries may hang or crash while they are torn down; the answer is already out.
    os._exit(0)


def limit(memory_bytes: int | None) -> None:
    """Bounds this process: its address space, and no core file when it crashes."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent watches
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None and _BOUNDS_MEMORY:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        allowed = math.inf if hard == resource.RLIM_INFINITY else hard
        limit = int(min(memory_bytes, allowed))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def received(stream: IO[bytes]) -> Callable[..., JsonValue]:
    """The call that the parent sent; one that cannot be imported fails when it is made."""
    try:
        found: Callable[..., JsonValue] = pickle.load(stream)
    except Exception as error:
        failure = error

        def found(**_: object) -> JsonValue:
            raise failure

    return found


def call(function: Callable[..., JsonValue], **more: object) -> dict[str, JsonValue]:
    """Calls a function in the child; the reply tells :func:`read_answer` how that went."""
    try:
        return {"result": function(**more)}
    except EdgeResError as error:
        return {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:  # the parent must hear of any failure, whatever it is
        message = " ".join(str(error).split())[:_MESSAGE_LIMIT]
        out_of_memory = isinstance(error, MemoryError) or "bad_alloc" in message
        kind = "MemoryError" if out_of_memory else type(error).__name__
        return {"class": kind, "message": message or "no message", "hint": ""}
