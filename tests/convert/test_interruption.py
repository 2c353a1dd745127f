"""A run that a signal ends over an earlier output."""

import signal
import subprocess
import sys
import time

import pytest

from .conftest import hashes, invoke


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGHUP, 129),
    ],
)
def test_an_interrupted_run_leaves_no_half_file(own_copy, number, code):
    before = hashes(own_copy / "out")
    command = [
        sys.executable, "-c", "from edgeres.cli import main; main()", "convert",
        own_copy / "recipe.yaml", "--output", own_copy / "out", "--no-cache",
    ]  # fmt: skip

    def heed() -> None:
        """A shell or nohup that runs the tests makes its children ignore these."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,  # noqa: PLW1509 - no threads are at work here
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip().startswith("load"):
                break
        time.sleep(0.5)
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(60) == code
    assert hashes(own_copy / "out") == before
    assert list((own_copy / "out" / ".stages").glob(".*")) == []
    again = invoke("convert", own_copy / "recipe.yaml", "--output", own_copy / "out")
    assert again.exit_code == 0, again.output
