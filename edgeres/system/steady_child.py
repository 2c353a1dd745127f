"""Runs one function in a child process whose memory lies alike each time.

Some compilers order things by the addresses of their objects, so what they write differs from run
to run. Two things make those addresses equal. The child runs without address randomization and
with a stack of fixed size; and the function runs in a thread, to which the C library gives an arena
of its own: it is empty, whatever the environment, the paths and the imports left in the main
thread's. What the function imports goes into that arena, and the search for it along ``sys.path``
leaves traces there; so it hands the compiler's work to another one (:func:`in_own_arena`). The
length of the path of its current folder, which the caller makes, counts too.

Requests, answers, errors and crashes are those of :mod:`edgeres.system.child`; there is no time
limit. The child ends when its parent does, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate

from edgeres.errors import StageError
from edgeres.system.child import P, T, call, kill_group, limit, read_answer, received
from edgeres.system.lifeline import end_with_parent
from edgeres.system.progress import ProgressCallback

BUILD_SECONDS = 6 * 3600.0

# What holds for a program that a process executes, not for the process itself: personality(2), and
# the limit on the stack, which moves what lies below it and is the size of every thread's.
_WINDOWS = sys.platform == "win32"  # has neither
_ADDR_NO_RANDOMIZE, _ASK = 0x0040000, 0xFFFFFFFF
_FIRST = (
    "import os, sys; from ctypes import CDLL; from resource import *; "
    "hard = getrlimit(RLIMIT_STACK)[1]; wanted = 8 << 20; "
    "setrlimit(RLIMIT_STACK, (wanted if hard < 0 else min(wanted, hard), hard)); "
    "ask = getattr(CDLL(None), 'personality', lambda value: 0); "
    f"ask(ask({_ASK}) | {_ADDR_NO_RANDOMIZE}); "
    "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
)
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[1:]; from edgeres.system.steady_child import main; main()"
)
# Of Python's own variables those that say where its files are; others change its use of memory.
_PYTHON = ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
# glibc's cache would hand a thread again what it freed for others, which lies outside its arena.
# And sets would have another order in each run.
_STEADY = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0", "PYTHONHASHSEED": "0"}


def run_steady(
    function: Callable[Concatenate[ProgressCallback, P], T],
    *,
    folder: Path,
    what: str,
    progress: ProgressCallback | None = None,
    seconds: float = BUILD_SECONDS,
) -> Callable[P, T]:
    """A function of a module as one that does its work in a steady child process.

    Args:
        function: What to call there; see :func:`edgeres.system.child.run_limited`. Its first
            argument is to be called with (done, known) steps.
        folder: The child's current folder.
        what: What the child does, for the message of a crash.
        progress: Called here with what the child tells.
        seconds: Wall-clock limit; the child is killed after that.

    Returns:
        The function to call, without that argument. It raises what ``run_limited`` says.
    """

    def call_there(*args: P.args, **kwargs: P.kwargs) -> T:
        request = pickle.dumps(os.getpid()) + pickle.dumps(partial(_told, function, args, kwargs))
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  # "" is this folder
        kept = {
            name: text
            for name, text in os.environ.items()
            if name in _PYTHON or not name.startswith(("MALLOC_", "PYTHON"))
        }
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                [sys.executable, "-c", *([] if _WINDOWS else [_FIRST]), _BOOTSTRAP, *paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                cwd=folder,
                env={**kept, **_STEADY},
                start_new_session=True,
            )
            with process:
                assert process.stdin is not None
                assert process.stdout is not None
                answer = b""
                late = threading.Event()
                timer = threading.Timer(seconds, _stop, (process, late))
                timer.daemon = True
                timer.start()
                try:
                    with suppress(BrokenPipeError):  # how the child ended says more
                        process.stdin.write(request)
                        process.stdin.flush()
                    for answer in process.stdout:
                        if answer.endswith(b"]\n") and progress is not None:
                            progress(*json.loads(answer))
                    process.wait()
                finally:
                    timer.cancel()
                    kill_group(process)
            if late.is_set():
                raise StageError(
                    f"{what} did not end within its limit of {seconds:g} s and was stopped.",
                    hint="Suspect the model, or the load of this machine.",
                )
            result: T = read_answer(what, answer, process.returncode, None, printed)
            return result

    return call_there


def _stop(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    kill_group(process)


def _told(
    function: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tell: ProgressCallback,
) -> T:
    return function(tell, *args, **kwargs)


def addresses_are_fixed() -> bool:
    """Whether this process runs without address randomization; containers may forbid that."""
    ask = None if _WINDOWS else getattr(ctypes.CDLL(None), "personality", None)
    return ask is not None and bool(ask(_ASK) & _ADDR_NO_RANDOMIZE)


def in_own_arena(function: Callable[[], T]) -> T:
    """Calls a function in a new thread, whose memory holds nothing that came before.

    Returns:
        What the function returns; what it raises comes out of this one.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def main() -> None:
    """The child's side: one request on standard input, its steps and the answer on the output."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    limit(None)
    end_with_parent(pickle.load(sys.stdin.buffer))
    asked = received(sys.stdin.buffer)  # what the import leaves behind belongs to this thread

    def tell(done: int, known: int) -> None:
        with suppress(BrokenPipeError):  # the parent has ended, and so will this process
            stream.write(f"[{done}, {known}]\n")

    def work() -> None:
        try:
            stream.write(json.dumps(call(asked, tell=tell)))
            stream.flush()
        finally:
            # Native libraries may hang or crash while they are torn down; the answer is out.
            os._exit(0)

    threading.Thread(target=work).start()
    sys.stdin.buffer.read()  # comes back when the parent has closed its end, by will or by death
    os._exit(1)
