"""Tests that compute INT8 run again without VNNI, in one process and with workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.system.environment import describe_environment

from .int8_sums import RUN, write_sums

OWN_RUN = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("both_cpus", {plugin!r})
both_cpus = sys.modules["both_cpus"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(both_cpus)

def pytest_addoption(parser):
    parser.addoption("--native-only", action="store_true")

def pytest_configure(config):
    config.addinivalue_line("markers", "any_cpu(why): x")
    config.pluginmanager.register(both_cpus.BothCpus(config))
"""
OWN_TESTS = """
import subprocess, sys
import pytest

RUN = {run!r}

def sums():
    done = subprocess.run([sys.executable, "-c", RUN, {model!r}], capture_output=True, text=True)
    return eval(done.stdout)

@pytest.fixture(scope="module")
def by_fixture():
    return sums()

def test_plain(): assert True
def test_first_user(by_fixture): assert by_fixture[0] > 60
def test_second_user(by_fixture): assert by_fixture[1] > 60
def test_by_itself(): assert sums()[0] > 60
@pytest.mark.any_cpu("only its shape counts")
def test_excused(): assert len(sums()) == 2
"""


def run_own_tests(
    folder: Path, model: Path, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    plugin = Path(__file__).with_name("both_cpus.py")
    (folder / "conftest.py").write_text(OWN_RUN.format(plugin=str(plugin)))
    tests = OWN_TESTS.format(run=RUN["onnxruntime"], model=str(model))
    (folder / "test_own.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *options],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_what_computes_int8_runs_again_and_a_failure_there_fails_the_run(
    tmp_path, without_vnni, workers
) -> None:
    """Tests are chosen by what they, their children and their fixtures open; nobody marks them."""
    if not describe_environment(()).int8_dot_products:
        pytest.skip("this CPU has no VNNI, so there is no second run")
    folder = tmp_path / "suite"
    folder.mkdir()
    done = run_own_tests(folder, write_sums(tmp_path), *workers)
    first, _, again = done.stdout.partition("INT8 again, without VNNI")
    assert "INT8: on this CPU with VNNI, then again on it as one without" in first
    assert first.count("PASSED") == 5
    assert not workers or ("[gw0]" in first and "[gw1]" in first)
    for name in ("test_first_user", "test_second_user", "test_by_itself"):
        assert f"FAILED test_own.py::{name}" in again
    assert "test_plain" not in again
    assert "INT8: 3 tests that run it, 1 more where any CPU will do, again without VNNI" in again
    assert done.returncode == 1


def test_where_nothing_can_be_hidden_it_is_said_and_only_ci_fails(tmp_path) -> None:
    if not describe_environment(()).int8_dot_products:
        pytest.skip("this CPU has no VNNI, so there is nothing to hide")
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "bin").mkdir()
    told = "INT8: on this CPU with VNNI only, not as one without it: there is no cc"
    for setting, code in (("", 0), ("true", 1)):
        done = run_own_tests(folder, write_sums(tmp_path), PATH=str(folder / "bin"), CI=setting)
        assert done.stdout.count(told) == 2  # in the header and at the end
        assert done.returncode == code
