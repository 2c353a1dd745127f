"""Some tries of the attack program, and that it sees what it looks for."""

from __future__ import annotations

import json
import os
import time
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
def place(attack, tmp_path_factory) -> Path:
    if (reason := get_backend("onnxruntime").missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("attack")
    attack.attack_files.make_place(folder, whole=False)
    return folder


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantize_per_tensor):UserWarning")
def test_some_tries_are_answered_rightly(attack, place) -> None:
    kinds = ("special files", "foreign content", "addresses")
    chosen = [one for kind in kinds for one in attack.tries(place, kind) if one.name in SOME]
    assert {one.name for one in chosen} == set(SOME)
    found = attack.whole(attack.attack(chosen, place))
    assert [one["answered_wrongly"] for one in found["kinds"].values()] == [{}] * len(kinds)
    assert (found["tries"], found["wrong"]) == (len(SOME), 0)


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantize_per_tensor):UserWarning")
def test_there_are_over_500_tries_and_none_twice(attack, place) -> None:
    (place / "whole.edgeres").write_bytes((place / "bundle.edgeres").read_bytes())
    kinds = {*attack.PLAIN, *attack.WITH_FILES}
    made = [(kind, one.name) for kind in kinds for one in attack.tries(place, kind)]
    assert len(made) == len(set(made)) >= 500


@pytest.mark.parametrize(
    ("code", "text", "wrong"),
    [
        (3, "error: x", ""),
        (3, "Traceback (most recent", "a traceback"),
        (5, "error: x. This is a bug of edgeres;", "a bug of edgeres"),
        (5, "error: x", "exit code 5"),
        (3, "error: \x1b[2J", "characters that act"),
        (3, "error: x\nerror: y", "2 lines"),
        (3, "nothing", "does not say 'error: '"),
    ],
)
def test_wrong_answers_are_seen(attack, code, text, wrong) -> None:
    says = "error: " if text == "nothing" else ""
    told = attack.attack_try.judge(attack.Try("x", (), (3,), says=says), code, text)
    assert wrong in told
    assert bool(told) == bool(wrong)


def test_the_later_answer_to_a_try_counts(attack) -> None:
    def answered(name: str, code: int, wrong: str):
        return attack.summary([attack.Answer("k", name, (0,), code, 1.0, wrong, "")])

    found = attack.merged(answered("a", 1, "exit code 1"), answered("b", 1, "exit code 1"))
    assert (found["tries"], found["wrong"]) == (2, 2)
    found = attack.merged(found, answered("a", 0, ""))
    assert (found["tries"], found["wrong"]) == (2, 1)
    assert found["answers"]["a"] == "expected 0, got 0"


def test_a_hang_is_seen_and_ended(attack, tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo")
    one = attack.Try("x", (), (0,), seconds=1.0, code="open('fifo')")
    found = attack.attack_try.attempt(one, tmp_path)
    assert found.wrong == "it hangs"
    assert json.dumps(vars(found))


def test_a_process_that_stays_behind_is_seen_and_ended(attack, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(attack.attack_try, "_ORPHAN_S", 0.5)
    code = (
        "import subprocess as s, sys; n = s.DEVNULL\n"
        "s.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=n, stderr=n,"
        " start_new_session=True)"
    )
    found = attack.attack_try.attempt(attack.Try("x", (), (0,), code=code), tmp_path)
    assert found.wrong == "1 processes stay behind"


def test_what_is_sent_and_left_is_seen(attack, tmp_path) -> None:
    speaks = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    speaks += "s.connect(('127.0.0.1', 9))"
    leaves = "import os; open(os.environ['HOME'] + '/id', 'w')"
    for code, wrong in ((speaks, "it speaks to others"), (leaves, "it leaves files: ['id']")):
        one = attack.Try("x", (), (0,), code=code, watched=True)
        try:
            assert wrong in attack.attack_try.attempt(one, tmp_path).wrong
        except SystemExit as missing:
            pytest.skip(str(missing))


def test_a_signal_is_sent_in_time(attack, tmp_path) -> None:
    begin = time.monotonic()
    one = attack.Try("x", (), (-15,), code="import time; time.sleep(60)", end_with=15, after=0.5)
    found = attack.attack_try.attempt(one, tmp_path)
    assert (found.code, found.wrong) == (-15, "")
    assert time.monotonic() - begin < 50
