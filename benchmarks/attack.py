"""Tries what makes a command or a program hang, crash or lie, and counts what it answers.

    python benchmarks/attack.py --out benchmarks/results/attack.json

Each try is one process of its own, in a folder with a good file of each kind and hostile ones
beside them (`attack_files.py`), among servers that do what they like (`attack_parties.py`). What is
right is in `attack_try.py`. The result file holds every try with what it expects and what it was
answered.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import attack_bundles
import attack_code
import attack_commands
import attack_content
import attack_events
import attack_files
import attack_parties
import attack_targets
import attack_tasks
import attack_try
from attack_try import Answer, Try

PLAIN: dict[str, Callable[[], Iterator[Try]]] = {
    "special files": attack_commands.special_files,
    "foreign content": attack_commands.foreign_content,
    "outputs": attack_commands.outputs,
    "streams": attack_commands.streams,
    "addresses": attack_commands.addresses,
    "registries": attack_parties.registries,
    "hosts": attack_parties.hosts,
    "sessions": attack_bundles.sessions,
    "signals": attack_events.signals,
    "missing packages": attack_events.missing_packages,
    "telemetry": attack_events.telemetry,
    "usage": attack_events.usage,
}
"""Kind to its tries."""
WITH_FILES: dict[str, Callable[[Path], Iterator[Try]]] = {
    "recipes": attack_content.recipes,
    "checkpoints": attack_content.checkpoints,
    "networks": attack_content.networks,
    "data": attack_content.data,
    "bundles": attack_bundles.bundles,
    "sidecars": attack_bundles.sidecars,
    "images": attack_bundles.images,
    "tables": attack_targets.tables,
    "tensors": attack_targets.tensors,
    "sounds": attack_targets.sounds,
    "tasks": attack_tasks.tasks,
    "python sets": attack_code.python_sets,
    "metrics": attack_code.metrics,
    "modules": attack_code.modules,
}
"""Kind to its tries, which first write what they try into the folder."""


def tries(folder: Path, kind: str) -> list[Try]:
    """All tries of a kind; writes their files."""
    made = PLAIN[kind]() if kind in PLAIN else WITH_FILES[kind](folder)
    return [replace(one, kind=kind) for one in made]


def attack(
    chosen: Sequence[Try], folder: Path, places: Mapping[str, str] | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Makes tries; gives kind to counts.

    Args:
        chosen: The tries.
        folder: With the files.
        places: Name of a server to its address.
        jobs: Tries at once.
    """
    answers: list[Answer] = []
    with ThreadPoolExecutor(jobs) as pool:
        for answer in pool.map(lambda one: attack_try.attempt(one, folder, places), chosen):
            answers.append(answer)
            if answer.wrong:
                print(f"{answer.kind}, {answer.name}: {answer.wrong}", file=sys.stderr)
    if canary := list(folder.rglob(attack_content.CANARY)):
        raise SystemExit(f"foreign code ran: {canary}")
    return {
        kind: summary([one for one in answers if one.kind == kind])
        for kind in dict.fromkeys(one.kind for one in chosen)
    }


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """What came of the tries of one kind."""
    return {
        "tries": len(answers),
        "wrong": sum(bool(answer.wrong) for answer in answers),
        "slowest_s": max(answer.seconds for answer in answers),
        "answered_wrongly": {one.name: vars(one) for one in answers if one.wrong},
        "answers": {
            one.name: f"expected {' or '.join(map(str, one.expected))}, got {one.code}"
            for one in answers
        },
    }


def merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What came of a kind whose tries were made in two goes; the later answer to a try counts."""
    answers = {**earlier["answers"], **later["answers"]}
    kept = {
        name: told
        for name, told in earlier["answered_wrongly"].items()
        if name not in later["answers"]
    }
    wrong = {**kept, **later["answered_wrongly"]}
    return {
        "tries": len(answers),
        "wrong": len(wrong),
        "slowest_s": max(earlier["slowest_s"], later["slowest_s"]),
        "answered_wrongly": wrong,
        "answers": answers,
    }


def whole(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The counts over all kinds, then the kinds."""
    return {
        "tries": sum(one["tries"] for one in kinds.values()),
        "wrong": sum(one["wrong"] for one in kinds.values()),
        "slowest_s": max((one["slowest_s"] for one in kinds.values()), default=0.0),
        "kinds": dict(sorted(kinds.items())),
    }


def main() -> None:
    """Parses arguments, attacks, prints the counts; exit 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    known = sorted({*PLAIN, *WITH_FILES})
    parser.add_argument("--kind", action="append", choices=known, help="all where left out")
    parser.add_argument("--only", action="append", help="tries whose name has this in it")
    parser.add_argument("--jobs", type=int, default=2, help="tries at once")
    parser.add_argument("--out", type=Path, help="kept there: what is not tried now")
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else what nohup started passes it on
    out = arguments.out.absolute() if arguments.out else None
    kinds = json.loads(out.read_text())["kinds"] if out and out.is_file() else {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name).resolve()
        attack_files.make_place(folder)
        places = stack.enter_context(attack_parties.others(folder))
        os.environ["DOCKER_CONFIG"] = name  # no login of whoever runs this
        for kind in arguments.kind or known:
            parts = arguments.only or [""]
            made = tries(folder, kind)
            chosen = [one for one in made if any(part in one.name for part in parts)]
            for found in attack(chosen, folder, places, arguments.jobs).values():
                kinds[kind] = merged(kinds[kind], found) if kind in kinds else found
            if out:
                out.write_text(json.dumps(whole(kinds), indent=1) + "\n")
    told = {kind: {**one, "answers": "..."} for kind, one in kinds.items()}
    print(json.dumps(whole(told), indent=1))
    sys.exit(1 if whole(kinds)["wrong"] else 0)


if __name__ == "__main__":
    main()
