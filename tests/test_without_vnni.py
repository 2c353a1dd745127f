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

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.system.environment import describe_environment

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "without_vnni.py"
NEW_CPU = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni amx_int8 gfni fma\n"
PRODUCTS = 64
RUN = {
    "onnxruntime": """
import onnxruntime, numpy, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {x.name: numpy.ones(x.shape, "float32") for x in session.get_inputs()}
print([float(y.max()) for y in session.run(None, feeds)])
""",
    "openvino": """
import openvino, numpy, sys
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
found = model({x.any_name: numpy.ones(tuple(x.shape), "float32") for x in model.inputs})
print([float(found[y].max()) for y in model.outputs])
""",
}


def python(code: str, *arguments: object, environment=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution and a Gemm of 64 products 255 * 127 in INT8, whose right sums are 64."""
    constants = {
        "x_scale": np.float32(1 / 255),
        "x_zero": np.uint8(0),
        "w_scale": np.full(16, 1 / 127, np.float32),
        "w_zero": np.zeros(16, np.int8),
        "y_scale": np.float32(PRODUCTS / 250),
        "conv_w": np.full((16, PRODUCTS, 1, 1), 127, np.int8),
        "gemm_w": np.full((16, PRODUCTS), 127, np.int8),
    }
    nodes, inputs, outputs = [], [], []
    for name, op, more, tail in (
        ("conv", "Conv", {}, [4, 4]),
        ("gemm", "Gemm", {"transB": 1}, []),
    ):
        x, y = f"{name}_x", f"{name}_y"
        inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, PRODUCTS, *tail]))
        outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 16, *tail]))
        of_x, of_w, of_y = ["x_scale", "x_zero"], ["w_scale", "w_zero"], ["y_scale", "x_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [x, *of_x], [f"{x}q"]),
            helper.make_node("DequantizeLinear", [f"{x}q", *of_x], [f"{x}f"]),
            helper.make_node("DequantizeLinear", [f"{name}_w", *of_w], [f"{name}_wf"], axis=0),
            helper.make_node(op, [f"{x}f", f"{name}_wf"], [f"{name}_sum"], name, **more),
            helper.make_node("QuantizeLinear", [f"{name}_sum", *of_y], [f"{y}q"]),
            helper.make_node("DequantizeLinear", [f"{y}q", *of_y], [y]),
        ]
    values = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "sums", inputs, outputs, values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, tmp_path / "sums.onnx")
    return tmp_path / "sums.onnx"


@pytest.mark.parametrize("name", sorted(RUN))
def test_sums_are_exact_here_and_saturate_under_it(name, model, without_vnni) -> None:
    if (reason := get_backend(name).missing()) is not None:
        pytest.skip(reason)

    def sums(environment=None) -> list[float]:
        done = python(RUN[name], model, environment=environment)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    # 16 bits hold 32767 of 2 * 255 * 127 = 64770.
    clipped = pytest.approx([PRODUCTS * 32767 / 64770] * 2, rel=0.01)
    assert sums(without_vnni) == clipped
    if describe_environment(()).int8_dot_products:
        assert sums() == pytest.approx([PRODUCTS] * 2, rel=0.01)


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


def run_own_tests(folder: Path, model: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    plugin = Path(__file__).with_name("both_cpus.py")
    (folder / "conftest.py").write_text(OWN_RUN.format(plugin=str(plugin)))
    tests = OWN_TESTS.format(run=RUN["onnxruntime"], model=str(model))
    (folder / "test_own.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v"],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_what_computes_int8_runs_again_and_a_failure_there_fails_the_run(
    model, tmp_path, without_vnni
) -> None:
    """Tests are chosen by what they, their children and their fixtures open; nobody marks them."""
    if not describe_environment(()).int8_dot_products:
        pytest.skip("this CPU has no VNNI, so there is no second run")
    folder = tmp_path / "suite"
    folder.mkdir()
    done = run_own_tests(folder, model)
    first, _, again = done.stdout.partition("INT8 again, without VNNI")
    assert "INT8: on this CPU with VNNI, then again on it as one without" in first
    assert first.count("PASSED") == 5
    for name in ("test_first_user", "test_second_user", "test_by_itself"):
        assert f"FAILED test_own.py::{name}" in again
    assert "test_plain" not in again
    assert "INT8: 3 tests that run it, 1 more where any CPU will do, again without VNNI" in again
    assert done.returncode == 1


def test_where_nothing_can_be_hidden_it_is_said_and_only_ci_fails(model, tmp_path) -> None:
    if not describe_environment(()).int8_dot_products:
        pytest.skip("this CPU has no VNNI, so there is nothing to hide")
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "bin").mkdir()
    told = "INT8: on this CPU with VNNI only, not as one without it: there is no cc"
    for setting, code in (("", 0), ("true", 1)):
        done = run_own_tests(folder, model, PATH=str(folder / "bin"), CI=setting)
        assert done.stdout.count(told) == 2  # in the header and at the end
        assert done.returncode == code


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
