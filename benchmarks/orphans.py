"""Kills commands while they work, and counts what stays behind: processes and folders.

    python benchmarks/orphans.py --kills 50 --out benchmarks/results/orphans.json

`convert`, `run`, `benchmark` and `tune` take turns; each signal (SIGKILL, SIGHUP) is sent so many
times, at moments drawn over the time that the command takes, seeded. Five seconds later no process
of it may run: the children end with their parent. After SIGHUP no temporary folder may be left
either; those of killed ones go with the next command. Exit 1 where something stayed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import attack_files
from attack_try import MAIN, MARK, processes

SECONDS = 5.0
COMMANDS = {
    "convert": ("convert", "recipe.yaml", "--output", "out"),
    "run": ("run", "whole.edgeres", *["cat.png"] * 5000),
    "benchmark": ("benchmark", "engine.onnx", "--seconds", "2"),
    "tune": ("tune", "recipe.yaml", "--trials", "2", "--output", "tuned"),
}
SIGNALS = (signal.SIGKILL, signal.SIGHUP)


def start(
    words: tuple[str, ...], folder: Path, temporary: Path, mark: str
) -> subprocess.Popen[str]:
    """A command in a session of its own, whose processes carry a mark."""
    paths = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, MARK: mark, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def kill(name: str, number: signal.Signals, after: float, folder: Path) -> Counter[str]:
    """Kills one command; counts what came of it.

    Args:
        name: The command.
        number: The signal.
        after: Seconds after which it gets it.
        folder: With the files of `attack_files.py`.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place)
        process = start(COMMANDS[name], folder, temporary, mark)
        time.sleep(after)
        children = max(len(processes(mark)) - 1, 0)
        process.send_signal(number)
        process.wait(60)
        limit = time.monotonic() + SECONDS
        while (alive := processes(mark)) and time.monotonic() < limit:
            time.sleep(0.05)
        late = time.monotonic() - limit + SECONDS
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        left = [path for path in temporary.iterdir() if path.name.startswith("edgeres-")]
    at_work = process.returncode in (-number, 128 + number)
    print(
        f"{number.name} {name} after {after:.1f} s: {process.returncode}, {children} children, "
        f"{len(alive)} alive {late:.2f} s later, {len(left)} folders",
        file=sys.stderr,
    )
    return Counter(
        {
            "kills": 1,
            "killed at work": int(at_work),
            "killed with children": int(children > 0 and at_work),
            "orphans": len(alive),
            "folders left": len(left),
        }
    )


def whole_seconds(folder: Path) -> dict[str, float]:
    """How long each command takes if nobody kills it."""
    found = {}
    for name, words in COMMANDS.items():
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            code = start(words, folder, Path(place), "whole").wait(600)
        if code not in (0, 1):  # 1: times are unstable, or a gate of an untrained network failed
            raise SystemExit(f"{name} ended with {code}")
        found[name] = time.monotonic() - begin
    return found


def main() -> None:
    """Parses arguments, kills, prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50, help="of each signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else what nohup started passes it on
    found = {number.name: dict[str, Counter[str]]() for number in SIGNALS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        attack_files.make_place(folder)
        whole = whole_seconds(folder)
        for turn in range(arguments.kills):
            for number in SIGNALS:
                command = list(COMMANDS)[turn % len(COMMANDS)]
                chance = random.Random(f"{arguments.seed} {turn} {number}")
                counts = kill(command, number, chance.uniform(0.3, whole[command]), folder)
                found[number.name].setdefault(command, Counter()).update(counts)
    totals = {name: sum(commands.values(), Counter()) for name, commands in found.items()}
    bad = sum(counts["orphans"] for counts in totals.values()) + totals["SIGHUP"]["folders left"]
    result = {
        "seed": arguments.seed,
        "seconds_after": SECONDS,
        "whole_s": {name: round(seconds, 2) for name, seconds in whole.items()},
        "totals": {name: dict(counts) for name, counts in totals.items()},
        "orphans": sum(counts["orphans"] for counts in totals.values()),
        "commands": found,
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
