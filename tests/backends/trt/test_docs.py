"""The table of claims in docs/tensorrt.md: each row has a kind of proof, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "tensorrt.md"
READ = {
    "release notes of 11.4.1, migration guide for Jetson",
    'NVIDIA\'s "Working with DLA" of 8.6, 10 and 11.4.1',
}
KINDS = {"built here", "stand-in", "source read", "hardware"}


def rows() -> list[tuple[str, str, str]]:
    if not PAGE.is_file():
        pytest.skip("needs a checkout")
    section = PAGE.read_text(encoding="utf-8").split("## Each claim and its proof")[1]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [(row[0], row[1], row[2]) for row in cells[1:]]


def test_each_claim_has_a_proof_of_a_known_kind() -> None:
    found = rows()
    assert len(found) > 30
    assert {kind for _, kind, _ in found} == KINDS
    for claim, kind, proof in found:
        assert proof, claim
        assert claim.startswith("**") == (kind == "hardware"), claim


def test_each_test_of_tensorrt_proves_a_claim() -> None:
    backends = REPOSITORY / "tests" / "backends"
    named = " ".join(proof for _, _, proof in rows())
    tests = {
        f"{f.parent.name}/{f.name}"
        for d in ("trt", "trt_standin")
        for f in backends.glob(f"{d}/test_*.py")
    }
    hardware = {"trt/test_gpu.py", "trt/test_docs.py"}  # run as a folder, and this file
    assert {name for name in tests - hardware if f"`{name}`" not in named} == set()


def test_each_file_that_is_named_is_there() -> None:
    for claim, kind, proof in rows():
        named = re.findall(r"`([\w./]+\.(?:py|txt))`", proof)
        assert named or kind == "hardware" or "by hand" in proof or proof in READ, claim
        for name in named:
            assert (REPOSITORY / "tests" / "backends" / name).is_file(), (claim, name)
