"""The launcher really hides the newer instruction sets, and changes nothing else of a program."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.backends import get_backend
from edgeres.system.environment import describe_environment

from .int8_sums import PRODUCTS, RUN, python, write_sums

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "without_vnni.py"
NEW_CPU = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni amx_int8 gfni fma\n"


@pytest.mark.parametrize("name", sorted(RUN))
def test_sums_are_exact_here_and_saturate_under_it(name, tmp_path, without_vnni) -> None:
    if (reason := get_backend(name).missing()) is not None:
        pytest.skip(reason)

    def sums(environment=None) -> list[float]:
        done = python(RUN[name], write_sums(tmp_path), environment=environment)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    # 16 bits hold 32767 of 2 * 255 * 127 = 64770.
    clipped = pytest.approx([PRODUCTS * 32767 / 64770] * 2, rel=0.01)
    assert sums(without_vnni) == clipped
    if describe_environment(()).int8_dot_products:
        assert sums() == pytest.approx([PRODUCTS] * 2, rel=0.01)


def test_no_process_under_it_sees_newer_instruction_sets(without_vnni) -> None:
    code = (
        "import json, subprocess\n"
        "from edgeres.system.environment import describe_environment\n"
        "shown = subprocess.run(['cat', '/proc/cpuinfo'], capture_output=True, text=True).stdout\n"
        "told = describe_environment(())\n"
        "print(json.dumps([told.cpu, told.isa, told.int8_dot_products, shown]))\n"
    )
    done = python(code, environment=without_vnni)
    assert done.returncode == 0, done.stderr
    cpu, isa, dot_products, shown = json.loads(done.stdout)
    here = describe_environment(())
    assert cpu == here.cpu
    assert isa == [name for name in here.isa if not name.startswith(("avx512", "avx_vnni", "amx"))]
    assert "avx2" in isa
    assert not dot_products
    assert not [word for word in shown.split() if "vnni" in word or "avx512" in word]


@pytest.mark.parametrize("engine", sorted(RUN))
@pytest.mark.parametrize("first", [True, False])
def test_a_crash_is_a_crash_that_faulthandler_describes(engine, first, without_vnni) -> None:
    if (reason := get_backend(engine).missing()) is not None:
        pytest.skip(reason)
    lines = ["import faulthandler; faulthandler.enable()", f"import {engine}"]
    code = "\n".join([*(lines if first else lines[::-1]), "import ctypes; ctypes.string_at(0)"])
    done = python(code, environment=without_vnni)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    deep = python(
        code.replace("ctypes.string_at(0)", "faulthandler._stack_overflow()"),
        environment=without_vnni,
    )
    assert (deep.returncode, "Segmentation fault" in deep.stderr) == (-signal.SIGSEGV, True)
    without = python(code.replace("faulthandler.enable()", "pass"), environment=without_vnni)
    assert without.returncode == -signal.SIGSEGV
    assert without.stderr == ""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL", "SIGABRT", "SIGTERM"])
def test_signals_that_are_sent_do_what_they_do(name, without_vnni) -> None:
    sent = f"os.kill(os.getpid(), signal.{name})"
    done = python(f"import os, signal; {sent}; print('alive')", environment=without_vnni)
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "")
    code = f"""
import os, signal
got = []
signal.signal(signal.{name}, lambda number, _: got.append(number))
import onnxruntime  # asks for the CPU after the program's own handler is there
for _ in range(2):
    {sent}
signal.signal(signal.{name}, signal.SIG_IGN)
{sent}
import openvino; openvino.Core()
print(len(got), flush=True)
signal.signal(signal.{name}, signal.SIG_DFL)
{sent}
"""
    for engine in RUN:
        if (reason := get_backend(engine).missing()) is not None:
            pytest.skip(reason)
    done = python(code, environment=without_vnni)
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "2\n")


@pytest.fixture
def program(load_program, monkeypatch, tmp_path):
    """The launcher as a module, on a machine with a new CPU and an empty folder for its files."""
    module = load_program(PROGRAM)
    monkeypatch.delenv("WITHOUT_VNNI_CPUINFO", raising=False)
    monkeypatch.setattr(module, "_cpuinfo", lambda: NEW_CPU)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    return module


def test_what_is_missing_is_named(program, monkeypatch, tmp_path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    for name, does in (("cc", "exit 1"), ("objdump", "exit 0")):
        with pytest.raises(program.CannotHideError, match=f"there is no {name}: apt-get install"):
            program.environment()
        (tools / name).write_text(f"#!/bin/sh\necho no header signal.h >&2\n{does}\n")
        (tools / name).chmod(0o755)
    with pytest.raises(program.CannotHideError, match=r"cc .*without_vnni.c.*: no header signal.h"):
        program.environment()
    assert [path.name for path in tmp_path.iterdir()] == ["tools"]  # nothing half made


def test_a_cpu_with_nothing_to_hide_is_left_as_it_is(program, monkeypatch) -> None:
    old = "flags\t\t: fpu avx2 fma\n"
    monkeypatch.setattr(program, "_cpuinfo", lambda: old)
    monkeypatch.setenv("PATH", "")  # and needs no compiler
    assert program.environment() == dict(program.os.environ)


def test_another_architecture_is_refused(program, monkeypatch) -> None:
    monkeypatch.setattr(program, "_cpuinfo", lambda: "Features\t: fp asimd asimddp i8mm\n")
    with pytest.raises(program.CannotHideError, match="no x86-64 CPU with AVX2"):
        program.environment()


def test_libraries_that_somebody_else_left_are_not_loaded(program, monkeypatch, tmp_path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cc", "objdump"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(program, "_packages", lambda: [tools])
    monkeypatch.setattr(program, "_make", lambda folder, *_: folder.mkdir())
    here = program.os.getuid()
    planted = Path(program.environment()["WITHOUT_VNNI_CPUINFO"]).parent
    planted.rename(str(planted).replace(f"vnni-{here}-", f"vnni-{here + 1}-"))
    monkeypatch.setattr(program.os, "getuid", lambda: here + 1)
    with pytest.raises(program.CannotHideError, match="is somebody else's"):
        program.environment()


def test_the_copies_of_before_are_found_again_whatever_the_clock_rate(
    program, monkeypatch, tmp_path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cc", "objdump"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(program, "_packages", lambda: [tools])
    monkeypatch.setattr(program, "_make", lambda folder, *_: folder.mkdir())
    made = []
    for rate in ("2596.144", "3100.000"):
        monkeypatch.setattr(program, "_cpuinfo", lambda rate=rate: f"{NEW_CPU}cpu MHz\t: {rate}\n")
        made.append(program.environment()["WITHOUT_VNNI_CPUINFO"])
    assert made[0] == made[1]


def test_under_itself_it_changes_nothing(program, monkeypatch) -> None:
    monkeypatch.setenv("WITHOUT_VNNI_CPUINFO", "there")
    assert program.hidden()
    assert program.environment() == dict(program.os.environ)


def test_the_command_ends_as_it_ends(without_vnni) -> None:
    def launched(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PROGRAM), *command],
            capture_output=True,
            text=True,
            check=False,
        )

    seen = launched("sh", "-c", "echo $WITHOUT_VNNI_CPUINFO; exit 7")
    assert seen.returncode == 7
    assert seen.stdout.strip() == without_vnni.get("WITHOUT_VNNI_CPUINFO", "")
    assert launched("sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV
    absent = launched("no-such-command")
    assert absent.returncode == 2
    assert absent.stderr == "without_vnni.py: no-such-command: No such file or directory\n"
    assert launched().returncode == 2
    assert "python benchmarks/without_vnni.py edgeres" in launched("--help").stdout


needs_compiler = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("cc") or not shutil.which("objdump"),
    reason="needs x86-64, a C compiler and objdump",
)


@needs_compiler
def test_nothing_is_hidden_silently(program, monkeypatch, tmp_path) -> None:
    """An objdump that lists instructions in another way must not give engines that see VNNI."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "engine.so").write_bytes(b"\x7fELF no code of ours: \x0f\xa2")
    monkeypatch.setenv("PATH", f"{_objdump(tmp_path, 'true')}:{os.environ['PATH']}")
    with pytest.raises(program.CannotHideError, match="finds no CPUID"):
        program._make(tmp_path / "made", [tmp_path / "package"], "flags : avx2\n")


@needs_compiler
def test_listings_with_blanks_at_their_ends_are_read(program, monkeypatch, tmp_path) -> None:
    """Older binutils write them."""
    source, library = tmp_path / "asks.c", tmp_path / "asks.so"
    source.write_text('void asks(void) { __asm__("cpuid" ::: "eax", "ebx", "ecx", "edx"); }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    before = library.read_bytes().count(program.TRAP)
    folder = _objdump(tmp_path, f"{shutil.which('objdump')} \"$@\" | sed 's/cpuid$/cpuid  /'")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert program._trap(library) == 1
    assert library.read_bytes().count(program.TRAP) == before + 1


def _objdump(folder: Path, body: str) -> Path:
    """A folder with an objdump of this body."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "objdump"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return script.parent


@needs_compiler
def test_an_interpreter_without_engines_is_refused(program, monkeypatch) -> None:
    monkeypatch.setattr(program, "_packages", list)
    with pytest.raises(program.CannotHideError, match="has none of onnxruntime, openvino"):
        program.environment()


@needs_compiler
@pytest.mark.parametrize("name", ["a:b", "a b"])
def test_a_folder_that_the_loader_would_split_is_refused(
    program, monkeypatch, tmp_path, name
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(program.tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(program.CannotHideError, match="holds a colon or a blank"):
        program.environment()
