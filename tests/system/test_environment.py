"""What a machine says about itself, from the texts that real machines give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.system import container_limits, environment
from edgeres.system.environment import Environment, describe_environment, package_versions

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu sse4_1 sse4_2 avx f16c avx2 fma bmi2

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
RASPBERRY_PI_5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
"""
MACOS = """machdep.cpu.brand_string: Apple M2
hw.optional.neon: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
"""


def test_x86(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(X86)
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    found = describe_environment()
    assert found.cpu == "AMD EPYC 7763 64-Core Processor"
    assert found.isa == ("sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c")
    assert not found.int8_dot_products


def test_vnni_is_an_int8_dot_product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(X86.replace("bmi2", "avx_vnni"))
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    assert describe_environment().int8_dot_products


def test_arm_without_a_model_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(RASPBERRY_PI_5)
    (tmp_path / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(environment, "_DEVICE_TREE", tmp_path / "model")
    found = describe_environment()
    assert found.cpu == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.isa == ("neon", "fp16", "dotprod")
    assert found.int8_dot_products


def test_macos() -> None:
    assert environment._parse_sysctl(MACOS) == ("Apple M2", ("neon", "dotprod", "i8mm"))


def test_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "none")
    found = describe_environment()
    assert found.cpu
    assert found.isa == ()


def test_this_machine_is_described_in_plain_json() -> None:
    found = describe_environment()
    told = json.loads(json.dumps(found.to_dict()))
    assert told["cpu"]
    assert 1 <= told["threads"] <= told["cores"]
    assert told["versions"]["numpy"]
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert Environment(**told | {"isa": tuple(told["isa"])}) == found


def test_versions_of_what_is_installed_only() -> None:
    assert set(package_versions(["numpy", "no-such-package"])) == {"numpy"}


def test_no_runtime_is_imported() -> None:
    code = (
        "import sys; from edgeres.system.environment import describe_environment; "
        "describe_environment();"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'onnx', 'numpy') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(container_limits, "_CGROUPS", root)
    monkeypatch.setattr(container_limits, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_a_container_of_version_2(cgroups: Path, tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/\n")
    write(cgroups / "cpu.max", "150000 100000\n")
    write(cgroups / "memory.max", "1048576\n")
    assert container_limits.usable_threads() == 2
    assert container_limits.usable_memory() == 1048576


def test_a_limit_further_up_counts(cgroups: Path, tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/system.slice/job\n")
    write(cgroups / "system.slice/job/cpu.max", "max 100000\n")
    write(cgroups / "system.slice/cpu.max", "300000 100000\n")
    assert container_limits.usable_threads() == 3


def test_quota_of_version_1(cgroups: Path, tmp_path: Path) -> None:
    write(tmp_path / "own", "4:memory:/a\n3:cpu,cpuacct:/docker/x\n")
    write(cgroups / "cpu/cpu.cfs_quota_us", "50000\n")
    write(cgroups / "cpu/cpu.cfs_period_us", "100000\n")
    write(cgroups / "memory/a/memory.limit_in_bytes", "4096\n")
    assert container_limits.usable_threads() == 1
    assert container_limits.usable_memory() == 4096


def test_no_limit(cgroups: Path, tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/\n3:cpu:/\n")
    write(cgroups / "cpu.max", "max 100000\n")
    write(cgroups / "cpu/cpu.cfs_quota_us", "-1\n")
    write(cgroups / "cpu/cpu.cfs_period_us", "100000\n")
    write(cgroups / "memory.max", "max\n")
    assert container_limits.usable_threads() == 8
    assert container_limits.usable_memory() > 2**28
