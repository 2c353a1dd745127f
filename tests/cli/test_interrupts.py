"""A kernel that never returns keeps the first signal waiting; the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

#: Native code that gives no way to a handler, and lets other threads run: some minutes of hashing.
#: The other thread gets to run once that code lets it.
HANGS = """
import hashlib, sys, threading
from edgeres.cli.interrupts import end_by_signals
end_by_signals()
go = threading.Lock()
go.acquire()
def tell():
    go.acquire()
    print("ready", flush=True)
threading.Thread(target=tell, daemon=True).start()
sys.setswitchinterval(1000)
go.release()
hashlib.pbkdf2_hmac("sha256", b"p", b"s", 400_000_000)
"""
TIDIES = """
import time
from edgeres.cli.interrupts import end_by_signals
end_by_signals()
try:
    print("ready", flush=True)  # here: a signal between it and "try" would leave without a word
    for _ in range(600):  # short ones: a signal just before a long one would not end it
        time.sleep(0.1)
finally:
    time.sleep(0.5)  # takes a while, so that a hasty end would show
    print("tidied", flush=True)
"""


def heed() -> None:
    """A shell or nohup that runs the tests makes its children ignore these."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def started() -> Iterator[object]:
    """Starts programs that have said "ready", and ends them whatever happens."""
    programs: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=heed,  # noqa: PLW1509 - no threads are at work here
        )  # fmt: skip
        programs.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        return program

    yield start
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_second_signal_ends_native_code_at_once(started, number: str, code: int) -> None:
    program = started(HANGS)
    program.send_signal(getattr(signal, number))
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(timeout=0.6)
    program.send_signal(getattr(signal, number))
    assert program.wait(timeout=60) == code


@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP"])
def test_the_first_signal_tidies_up_even_where_two_come_at_once(started, second: str) -> None:
    program = started(TIDIES)
    program.send_signal(signal.SIGSTOP)  # both wait for it then, however busy the machine is
    for number in (signal.SIGINT, getattr(signal, second)):
        program.send_signal(number)
    program.send_signal(signal.SIGCONT)
    out, _ = program.communicate(timeout=60)
    assert out == "tidied\n"


def test_a_signal_that_is_ignored_stays_so(started) -> None:
    program = started(f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN){TIDIES}")
    for _ in range(2):
        program.send_signal(signal.SIGHUP)
        time.sleep(0.4)
    assert program.poll() is None
