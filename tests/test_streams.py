"""Output that cannot be written: nobody reads, or the disk behind it is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["--help", "--version", "doctor", "inspect nothing --json"]
MAIN = "from edgeres.cli import main; main()"


def run(words: str, stdout: int, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words.split()],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_has_gone_is_no_failed_gate(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(words, writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr.strip()) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_behind_stdout_is_one_line(words: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run(words, full)
    finally:
        os.close(full)
    assert done.returncode == 6
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: what is printed cannot be written: No")


def test_a_closed_stderr_changes_no_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", MAIN, "inspect", "nothing"]
    done = subprocess.run(command, stderr=writing, stdout=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 3
