"""Sixteen threads open, use and close sessions of one bundle for a minute.

    python benchmarks/session_stress.py --seconds 60 --out benchmarks/results/session_stress.json

A few sessions are shared: a thread may use one that another closes just then. Every answer must be
the right one or "the session is closed", nothing may hang, and no file may stay open. Exit 1
otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import edgeres
from edgeres.errors import UsageError

THREADS, SLOTS = 16, 4
_ENDS_S = 30.0
"""Time that a call may go on after the end; longer is a hang."""


def stress(bundle: Path, images: Sequence[Path], seconds: float) -> Counter[str]:
    """Counts of what the threads did.

    Args:
        bundle: The bundle.
        images: Images that it classifies.
        seconds: How long.

    Raises:
        AssertionError: An answer was wrong.
        TimeoutError: A call does not end.
    """
    end = time.monotonic() + seconds
    slots: list[edgeres.Session | None] = [None] * SLOTS
    with edgeres.Session(bundle, self_test=False) as one:
        expected = [answers[0] for answers in one.classify(list(images))]

    def work(number: int) -> Counter[str]:
        done: Counter[str] = Counter()
        slot, turn = number % SLOTS, 0
        while time.monotonic() < end:
            found, turn = slots[slot], turn + 1
            try:
                if found is None or (number < SLOTS and turn % 5 == 0):
                    slots[slot] = edgeres.Session(bundle, self_test=False, pool=1 + number % 2)
                    done["opened"] += 1
                    if found is not None:
                        found.close()
                        done["closed"] += 1
                else:
                    got = [answers[0] for answers in found.classify(list(images))]
                    done["answered"] += 1
                    if got != expected:
                        raise AssertionError(f"expected {expected}, got {got}")
            except UsageError as error:
                if error.message != "the session is closed.":
                    raise
                done["told that it is closed"] += 1
        return done

    total: Counter[str] = Counter()
    working: list[Future[Counter[str]]] = [Future() for _ in range(THREADS)]

    def run(number: int) -> None:
        try:
            working[number].set_result(work(number))
        except BaseException as error:  # raised where the outcome is asked for
            working[number].set_exception(error)

    for number in range(THREADS):  # daemons: one that hangs must not keep this from saying so
        threading.Thread(target=run, args=(number,), daemon=True).start()
    for outcome in working:
        total += outcome.result(max(end - time.monotonic(), 0.0) + _ENDS_S)
    for found in slots:
        if found is not None:
            found.close()
    return total


def open_files() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def main() -> None:
    """Parses arguments, makes a bundle, stresses it; exit 1 where something stays open."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    import attack_files

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        attack_files.make_place(folder)
        bundle, images = folder / "whole.edgeres", [folder / "cat.png"] * 3
        stress(bundle, images, 3.0)  # what is opened once and kept
        files, threads = open_files(), threading.active_count()
        begin = time.monotonic()
        counts = stress(bundle, images, arguments.seconds)
        result = {
            "threads": THREADS,
            "seconds": round(time.monotonic() - begin, 1),
            **counts,
            "wrong answers": 0,
            "hangs": 0,
            "files left open": open_files() - files,
            "threads left": threading.active_count() - threads,
        }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["files left open"] > 0 or result["threads left"] > 0 else 0)


if __name__ == "__main__":
    main()
