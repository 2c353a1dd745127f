"""One try of `attack.py`: what is run, what is right, and how the answer is judged.

Right is one of the exit codes that the try names, within its time, with at most one line of error,
no traceback, no word of a bug of edgeres, no character that acts on a terminal, and no process that
stays behind.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 90.0
MAIN = "from edgeres.cli import main; main()"
MARK = "EDGERES_ATTACK"
_ORPHAN_S = 5.0
_PLACE = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True)
class Try:
    """One command or program.

    Attributes:
        name: What is tried.
        words: The command line after ``edgeres``. ``<name>`` stands for the address of a server,
            ``made/`` for a folder of this try alone.
        codes: Exit codes that are right; a signal that ends it counts as minus its number.
        kind: What sort of try it is.
        seconds: Time within which it must answer.
        stdout: Where its output goes; ``closed`` is a pipe that nobody reads.
        environment: Variables besides the usual ones.
        code: The Python program that gets the words.
        says: Text that the answer must hold.
        end_with: A signal that it gets ``after`` seconds.
        after: Seconds until the signal.
        watched: Whether nothing may be looked up or sent, nor a file be left at home.
    """

    name: str
    words: Sequence[str]
    codes: Sequence[int] = (2, 3)
    seconds: float = SECONDS
    stdout: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    code: str = MAIN
    says: str = ""
    end_with: int = 0
    after: float = 0.0
    watched: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of a try; ``wrong`` is empty where it was answered rightly."""

    kind: str
    name: str
    expected: Sequence[int]
    code: int
    seconds: float
    wrong: str
    told: str


def attempt(one: Try, folder: Path, places: Mapping[str, str] | None = None) -> Answer:
    """Makes one try and judges what it answers.

    Args:
        one: The try.
        folder: Where it runs.
        places: Name of a server to its address.
    """
    mark, known = uuid.uuid4().hex, places or {}
    own = [word.replace("made/", f"made/{mark[:8]}-") for word in one.words]
    words = [_PLACE.sub(lambda found: known.get(found[1], found[0]), word) for word in own]
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        home = Path(name)
        # What the runtimes read of the environment is that of a user, whatever runs this.
        silent = {"ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"}
        environment = {key: text for key, text in os.environ.items() if key not in silent}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), MARK: mark, **one.environment}
        command = [sys.executable, "-c", one.code, *words]
        if one.watched:
            environment |= {"HOME": name, "TMPDIR": name}
            command = [*_strace(home / "trace"), *command]
        code, text, seconds, late = _run(one, command, folder, environment)
        wrong = "it hangs" if late else judge(one, code, text)
        wrong = wrong or _left_behind(mark) or (_watched(home) if one.watched else "")
    for place in (folder / "made").glob(f"{mark[:8]}-*"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    told = text[-600:]
    return Answer(one.kind, one.name, tuple(one.codes), code, round(seconds, 2), wrong, told)


def _run(
    one: Try, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, str, float, bool]:
    """Exit code, all that was printed, seconds, and whether time ran out."""
    reading, writing = os.pipe()
    if one.stdout == "closed":
        os.close(reading)
    elif one.stdout:
        os.close(writing)
        writing = os.open(one.stdout, os.O_WRONLY)
    begin = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=writing if one.stdout else subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(writing)
        timer = threading.Timer(one.after, process.send_signal, (one.end_with,))
        if one.end_with:
            timer.start()
        try:
            out, told = process.communicate(timeout=one.seconds)
            late = False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, told = process.communicate()
            late = True
        timer.cancel()
    if one.stdout != "closed":
        os.close(reading)
    text = (out or b"").decode(errors="replace") + told.decode(errors="replace")
    return process.returncode, text, time.monotonic() - begin, late


def judge(one: Try, code: int, text: str) -> str:
    """What is wrong with an answer; empty where nothing is."""
    errors = sum(line.startswith("error: ") for line in text.splitlines())
    acting = sorted(
        {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"}
    )
    rules = (
        ("Traceback" not in text and "Exception ignored" not in text, "a traceback"),
        ("bug of edgeres" not in text, "it calls it a bug of edgeres"),
        (code in one.codes, f"exit code {code}, not one of {list(one.codes)}"),
        (one.says in text, f"it does not say {one.says!r}"),
        (not acting, f"characters that act: {acting}"),
        (errors <= 1, f"{errors} lines of error"),
    )
    return next((told for holds, told in rules if not holds), "")


def _left_behind(mark: str) -> str:
    """Which process of a try still runs after some seconds; empty where none does."""
    limit = time.monotonic() + _ORPHAN_S
    while running := processes(mark):
        if time.monotonic() > limit:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return f"{len(running)} processes stay behind"
        time.sleep(0.05)
    return ""


def processes(mark: str) -> list[int]:
    """Processes that run with a mark in their environment."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ended = (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not ended and wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _strace(trace: Path) -> list[str]:
    """Words before a command that write its look-ups and connections into a file.

    Raises:
        SystemExit: There is no strace here.
    """
    program = shutil.which("strace")
    if program is None:
        raise SystemExit("strace is not installed: apt-get install strace")
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return [program, "-f", "-qq", "-o", str(trace), "-e", calls]


def _watched(home: Path) -> str:
    """What a command looked up, sent or left at home; empty where nothing."""
    trace = home / "trace"
    sent = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    left = [path.name for path in home.rglob("*") if path.is_file() and path != trace]
    if sent:
        return f"it speaks to others: {sent[0][:200]}"
    return f"it leaves files: {left[:5]}" if left else ""
