"""A short run of the fuzzing program, and that it sees what it looks for."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from edgeres.errors import ModelError

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz(load_program):
    return load_program(PROGRAM)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_damaged_files_are_read_or_refused(fuzz):
    found = fuzz.fuzz(300, seed=1)
    totals = fuzz.totals(found)
    assert totals["inputs"] == 300
    assert totals["hangs"] == totals["unforeseen"] == totals["stray_files"] == 0
    assert all(counts["refused"] > 10 for counts in found.values())


def test_damaged_texts_are_read_or_refused(fuzz, load_program):
    texts = load_program(PROGRAM.with_name("fuzz_texts.py"))
    found = fuzz.fuzz(900, seed=1, chosen=texts.kinds)
    totals = fuzz.totals(found)
    assert len(found) == 9
    assert totals["hangs"] == totals["unforeseen"] == totals["stray_files"] == 0
    assert all(counts.get("refused", 0) > 0 for name, counts in found.items() if name != "labels")


@pytest.mark.parametrize("kind", ["recipe", "checkpoint", "bundle", "idx", "image", "onnx"])
def test_good_files_of_every_kind_get_past_the_first_check(fuzz, kind, tmp_path):
    # Damage is only worth something on files that are read, or refused for what they mean.
    chosen = next(item for item in fuzz.kinds() if item.name == kind)
    outcomes = {fuzz.run_case(chosen, seed, tmp_path) for seed in chosen.seeds}
    assert outcomes <= {"read", "refused"}
    assert "read" in outcomes or kind == "recipe"


def test_what_must_not_happen_is_counted(fuzz, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 3)

    def stray(path):
        Path("stray").write_text("x")

    def fail(path):
        raise KeyError("x")

    def hang(path):
        time.sleep(60)

    def crash(path):
        import ctypes

        ctypes.string_at(0)

    def kinds():
        return tuple(
            fuzz.Kind(read.__name__, (b"seed",), ".x", read, forked=read is crash)
            for read in (stray, fail, hang, crash)
        )

    totals = fuzz.totals(fuzz.fuzz(4, seed=0, chosen=kinds))
    assert totals["hangs"] == 1
    assert totals["unforeseen"] == 1
    assert totals["child_ends"] == 1
    assert totals["stray_files"] >= 1


def test_the_same_seed_gives_the_same_damage(fuzz):
    import random

    data = bytes(range(256))
    first = [fuzz.mutate(data, random.Random(f"0 {n}")) for n in range(50)]
    assert first == [fuzz.mutate(data, random.Random(f"0 {n}")) for n in range(50)]
    assert len(set(first)) > 45


def test_a_run_that_was_stopped_goes_on(fuzz, monkeypatch, tmp_path):
    def kinds():
        return tuple(fuzz.Kind(name, (b"seed",), ".x", Path.read_bytes) for name in ("a", "b"))

    monkeypatch.setattr(fuzz.fuzz, "__defaults__", (kinds,))
    monkeypatch.setattr(fuzz, "STEP", 4)
    out = tmp_path / "fuzz.json"
    numbers = []
    mutate = fuzz.mutate

    def run(inputs: int) -> dict:
        monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs", str(inputs), "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            fuzz.main()
        assert ended.value.code == 0
        return json.loads(out.read_text())

    def counted(data, chance):
        numbers.append(chance.random())
        return mutate(data, chance)

    monkeypatch.setattr(fuzz, "mutate", counted)
    assert run(6)["inputs"] == 6
    result = run(11)
    assert result["totals"]["inputs"] == result["inputs"] == 11
    assert result["kinds"]["a"]["read"] == 6
    assert len(numbers) == len(set(numbers)) == 11  # none twice


def test_a_name_that_is_no_text_is_refused(fuzz, tmp_path):
    # Found by the program (seed 0, input 3443): protobuf gives bytes for text that is not UTF-8.
    onnx = next(kind for kind in fuzz.kinds() if kind.name == "onnx")
    damaged = onnx.seeds[1].replace(b"weights.bin", b"weights\xff\xffin")
    assert damaged != onnx.seeds[1]
    (tmp_path / "case.onnx").write_bytes(damaged)
    with pytest.raises(ModelError):
        onnx.read(tmp_path / "case.onnx")
