"""Every block of code in the documents runs, or says why it does not."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from .blocks import Block, blocks_of
from .conftest import Run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: blocks_of(page) for page in PAGES}
CASES = [
    pytest.param(page, slow, id=page.stem, marks=[pytest.mark.slow] if slow else [])
    for page, blocks in BLOCKS.items()
    for slow in (False, True)
    if any(block.kind == "run" and block.slow == slow for block in blocks)
]


def _told(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_every_block_says_how_it_is_tested() -> None:
    assert sum(map(len, BLOCKS.values())) > 40
    problems = [
        f"{_told(block)} {problem}"
        for blocks in BLOCKS.values()
        for block in blocks
        if (problem := block.problem())
    ]
    assert problems == []


def test_what_another_test_runs_is_read_by_it() -> None:
    others = [b for blocks in BLOCKS.values() for b in blocks if b.kind == "run by"]
    assert others
    for block in others:
        test = ROOT / block.reason
        assert test.is_file(), _told(block)
        assert block.page.name in test.read_text(), f"{block.reason} does not read {_told(block)}"


@pytest.mark.any_cpu("how commands are called, not what INT8 engines answer")
@pytest.mark.parametrize(("page", "slow"), CASES)
def test_blocks_run(page: Path, slow: bool, run: Run, place: Path) -> None:
    """Those of one document one after the other: later ones use what earlier ones made."""
    for block in BLOCKS[page]:
        if block.kind != "run" or (block.slow and not slow):
            continue
        code = block.shell
        if block.language == "python":
            code = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        done = run(code, place)
        said = f"{_told(block)}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == block.exit_code, said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```\nls\n```", "has no language"),
        ("```sh\nls\n```", "says neither"),
        ("words\n\n```python\n1\n```", "says neither"),
        ("<!-- not run -->\n```sh\nls\n```", "does not say why"),
        ("<!-- not run: long -->\n```sh\nls\n```", "does not say why"),
        ("<!-- run: now -->\n```sh\nls\n```", "a way that is not known"),
        ("<!-- run: exit 1 -->\n```sh\nls\n```", "a way that is not known"),
        ("```fish\nls\n```", "no test knows"),
        ("<!-- run -->\n```text\nls\n```", "is no code"),
        ("<!-- not run: needs a GPU -->\n```sh\nls\n```", ""),
        ("<!-- run -->\n```console\n$ ls\n```", ""),
    ],
)
def test_a_block_without_a_reason_is_found(tmp_path: Path, text: str, problem: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{text}\n")
    (block,) = blocks_of(page)
    assert problem in block.problem()
    assert bool(block.problem()) == bool(problem)


def test_commands_of_a_console_are_those_behind_its_prompt(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```console\n$ a \\\n    b\nsaid\n$ c\n```\n")
    (block,) = blocks_of(page)
    assert block.shell == "a \\\n    b\nc\n"
