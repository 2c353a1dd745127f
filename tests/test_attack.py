"""Some tries of the attack program, and that it sees what it looks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.backends import get_backend

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "attack.py"
SOME = (
    "a FIFO as npz", "a FIFO as key", "/dev/zero as labels", "a recipe of 50,000 brackets",
    "a checkpoint of sparse", "a checkpoint of meta", "a sidecar: deep-inside",
    "a bundle: deep-e", "identity: key-garbage",
)  # fmt: skip


@pytest.fixture(scope="module")
def attack(load_program):
    return load_program(PROGRAM)


@pytest.fixture(scope="module")
def place(attack, load_program, tmp_path_factory) -> Path:
    if (reason := get_backend("onnxruntime").missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("attack")
    files = load_program(PROGRAM.with_name("attack_files.py"))
    programs = (load_program(PROGRAM.with_name(f"{name}.py")) for name in ("kills", "fuzz"))
    files.make_place(folder, *programs)
    return folder


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantize_per_tensor):UserWarning")
def test_some_tries_are_answered_rightly(attack, place) -> None:
    chosen = [one for one in attack.tries() if one.name in SOME]
    assert {one.name for one in chosen} == set(SOME)
    found = attack.attack(chosen, place)
    assert found["answered_wrongly"] == []
    assert found["tries"] == len(SOME)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantize_per_tensor):UserWarning")
def test_all_tries_are_answered_rightly(attack, place) -> None:
    assert attack.attack(attack.tries(), place)["answered_wrongly"] == []


def test_names_of_tries_are_told_apart(attack) -> None:
    names = [one.name for one in attack.tries()]
    assert len(names) == len(set(names)) > 200


@pytest.mark.parametrize(
    ("code", "text", "wrong"),
    [
        (3, "error: x", ""),
        (3, "Traceback (most recent", "a traceback"),
        (5, "error: x. This is a bug of edgeres;", "a bug of edgeres"),
        (5, "error: x", "exit code 5"),
        (3, "error: \x1b[2J", "characters that act"),
        (3, "error: x\nerror: y", "2 lines"),
    ],
)
def test_wrong_answers_are_seen(attack, code, text, wrong) -> None:
    told = attack._wrong(attack.Try("x", (), (3,)), code, text)
    assert wrong in told
    assert bool(told) == bool(wrong)


def test_a_hang_is_seen_and_ended(attack, tmp_path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    program = tmp_path / "hang.py"
    program.write_text("open('fifo')")
    one = attack.Try("x", (), (0,), seconds=1.0)
    found = attack.attempt(one, tmp_path, f"exec(open({str(program)!r}).read())")
    assert found.wrong == "it hangs"
    assert json.dumps(vars(found))
