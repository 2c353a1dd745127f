"""Every test that computes INT8 runs a second time, on this CPU as one without VNNI.

INT8 sums saturate on CPUs without VNNI and their kernels are others, so a test can pass on one kind
and fail on the other. On a CPU with VNNI this plugin sees which tests open an INT8 engine, by
themselves, in a child process or in a fixture that they use (``int8_watch``), and runs these again
at the end, in one child process under ``benchmarks/without_vnni.py``. Nothing is marked by hand, so
no test can be forgotten. A CPU without VNNI has only its own kind: VNNI cannot be made up.

With ``-n`` (pytest-xdist) each worker watches its own tests and tells the process that started it
which it chose; that one makes the second run, with as many workers.

``--native-only`` leaves the second run out. Where it does not matter what engines compute, and the
time does, tests stand in ``ANY_CPU`` or say so with ``@pytest.mark.any_cpu("why")``; their number
is told. Where the second kind cannot be had, the header says why, and with ``CI`` in the
environment the run fails, for nobody reads headers there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeres
from edgeres.system.environment import describe_environment

LAUNCHER = Path(__file__).parents[1] / "benchmarks" / "without_vnni.py"
WATCH = Path(__file__).parent / "int8_watch"
SEEN = "EDGERES_INT8_SEEN"
TOLD = "int8_chosen"
#: Tests that move, time, search or break engines; what these compute is the matter of others. They
#: are not run again, or `make test` would take half as long again.
ANY_CPU = (
    "tests/backends/trt/",
    "tests/backends/trt_standin/",
    "tests/benchmarking/",
    "tests/bundling/",
    "tests/caches/",
    "tests/devices/",
    "tests/convert/test_bad_input.py",
    "tests/convert/test_commands.py",
    "tests/convert/test_extending.py",
    "tests/convert/test_foreign_onnx.py",
    "tests/convert/test_gates.py",
    "tests/convert/test_interruption.py",
    "tests/convert/test_pages.py",
    "tests/convert/test_precision.py",
    "tests/convert/test_quantize.py",
    "tests/convert/test_open_models.py",
    "tests/convert/test_relatives.py",
    "tests/convert/test_run_again.py",
    "tests/layer_latency/",
    "tests/quantization/test_lint.py",
    "tests/quantization/test_table.py",
    "tests/report/",
    "tests/test_engine_quirks.py",  # runs itself without VNNI
    "tests/pipeline/",
    "tests/stages/",
    "tests/system/",
    "tests/training/test_qat_stage.py",
    "tests/tuning/",
    "tests/test_faults.py",
)
#: A hang of the second run must not become a hang of the first.
LIMIT_S = 1800


def load_program(file: Path) -> ModuleType:
    """A program of ``benchmarks/`` or ``scripts/``, or the watch, as a module."""
    spec = importlib.util.spec_from_file_location(f"edgeres_program_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class CannotRunError(Exception):
    """This machine cannot be shown as one without VNNI; the text says why."""


def older_cpu() -> dict[str, str]:
    """Environment of a child process that sees this CPU without VNNI and runs this very edgeres.

    Raises:
        CannotRunError: The CPU has VNNI, and it cannot be hidden here.
    """
    launcher = load_program(LAUNCHER)
    try:
        variables: dict[str, str] = launcher.environment()
    except (launcher.CannotHideError, OSError) as error:
        raise CannotRunError(str(error)) from error
    ours = str(Path(edgeres.__file__).parents[1])
    there = variables.get("PYTHONPATH")
    return {**variables, "PYTHONPATH": os.pathsep.join([there, ours] if there else [ours])}


class BothCpus:
    """The plugin: watches a run, and runs what computed INT8 again."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._vnni = describe_environment(()).int8_dot_products
        self._reason = "--native-only" if config.getoption("native_only") else ""
        self._fixtures: set[tuple[str, str]] = set()
        self._chosen: list[str] = []
        self._excused = 0
        self._ran = ""
        self._output = ""
        self._seen: Path | None = None
        self._workers = int(config.getoption("numprocesses", None) or 0)
        if self._wanted:
            self._prepare()

    @property
    def _wanted(self) -> bool:
        return self._vnni and not self._reason and not self._config.option.collectonly

    def _prepare(self) -> None:
        launcher = load_program(LAUNCHER)
        try:
            launcher.to_hide()  # the copies are made when they are needed: half a minute
        except launcher.CannotHideError as error:
            self._reason = str(error)
            return
        if self._workers:
            return
        folder = tempfile.mkdtemp(prefix="edgeres-int8-")
        self._seen = Path(folder) / "seen"
        self._seen.touch()
        os.environ[SEEN] = str(self._seen)
        paths = [str(WATCH), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        load_program(WATCH / "sitecustomize.py")  # which watches this process as well

    def pytest_report_header(self) -> str:
        """Which kinds of CPU this run is about."""
        if not self._vnni:
            return "INT8: on this CPU, which has no VNNI; one with VNNI is not at hand"
        if self._reason:
            return f"INT8: on this CPU with VNNI only, not as one without it: {self._reason}"
        return "INT8: on this CPU with VNNI, then again on it as one without"

    def _count(self) -> int:
        return 0 if self._seen is None else self._seen.stat().st_size

    def _fail_in_ci(self, session: pytest.Session) -> None:
        asked_for = self._config.getoption("native_only") or self._config.option.collectonly
        if self._vnni and not asked_for and os.environ.get("CI"):
            session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Notes fixtures that open an INT8 engine: whoever uses one is chosen."""
        before = self._count()
        result = yield
        if self._count() > before:
            self._fixtures.add((fixturedef.argname, fixturedef.baseid))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Chooses a test that opens an INT8 engine, or whose fixtures did, now or earlier."""
        before = self._count()
        result = yield
        names = set(getattr(item, "fixturenames", ()))
        of_fixture = any(
            name in names and item.nodeid.startswith(base) for name, base in self._fixtures
        )
        if of_fixture or self._count() > before:
            if item.get_closest_marker("any_cpu") or item.nodeid.startswith(ANY_CPU):
                self._excused += 1
            else:
                self._chosen.append(item.nodeid)
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended: what it chose."""
        chosen, excused = getattr(node, "workeroutput", {}).get(TOLD, ([], 0))
        self._chosen += chosen
        self._excused += excused

    @pytest.hookimpl(wrapper=True, trylast=True)  # once the workers are gone
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """The second run, unless the first was broken off."""
        result = yield
        if self._reason:
            self._fail_in_ci(session)
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[TOLD] = (self._chosen, self._excused)
            return result
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if self._chosen and ended and not session.shouldstop and not session.shouldfail:
            self._run_again(session)
        return result

    def _command(self, chosen: Path) -> list[str]:
        chosen.write_text("".join(f"{nodeid}\n" for nodeid in self._chosen))
        command = [sys.executable, "-m", "pytest", f"@{chosen}", "-p", "no:cacheprovider", "-q"]
        command += ["-m", self._config.option.markexpr]
        if self._workers:
            command += ["-n", str(self._workers), "--dist", self._config.option.dist]
        if (slowest := self._config.option.durations) is not None:
            command += ["--durations", str(slowest)]
        return command

    def _run_again(self, session: pytest.Session) -> None:
        began = time.monotonic()
        paths = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
        if str(WATCH) in paths:
            paths.remove(str(WATCH))  # what runs now is not watched any more
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        try:
            environment = {k: v for k, v in older_cpu().items() if k != SEEN}
        except CannotRunError as error:
            self._reason = str(error)
            self._fail_in_ci(session)
            return
        with tempfile.TemporaryDirectory(prefix="edgeres-int8-") as folder:
            code = self._second(self._command(Path(folder) / "chosen"), environment)
        lines = self._output.strip().splitlines()
        last = lines[-1].strip("= ") if lines else "no output"
        self._ran = f"{last} ({time.monotonic() - began:.0f} s)"
        if code:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._ran = f"FAILED, {self._ran}"

    def _second(self, command: list[str], environment: dict[str, str]) -> int:
        try:
            done = subprocess.run(
                command,
                cwd=self._config.rootpath,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired as error:
            self._output = str(error)
            return -1
        self._output = done.stdout
        return done.returncode

    def pytest_unconfigure(self) -> None:
        """Removes the notes."""
        if self._seen is not None:
            shutil.rmtree(self._seen.parent, ignore_errors=True)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What ran on which kind, and the second run's own words where it failed."""
        if self._ran.startswith("FAILED") or self._config.option.durations is not None:
            terminalreporter.section("INT8 again, without VNNI")
            terminalreporter.write_line(self._output)
        if self._ran:
            excused = f", {self._excused} more where any CPU will do" if self._excused else ""
            terminalreporter.write_line(
                f"INT8: {len(self._chosen)} tests that run it{excused}, again without VNNI: "
                f"{self._ran}",
                red=self._ran.startswith("FAILED"),
            )
        else:
            terminalreporter.write_line(self.pytest_report_header())
