"""What a machine says about itself, from the texts that real machines give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeres.system import board, container_limits, environment
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
CPU part\t: 0xd0b
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


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Environment]:
    """``arm(CPUINFO, model="...", release="...")`` describes an Arm board that says that."""

    def describe(cpuinfo: str, *, model: str = "", release: str = "") -> Environment:
        for name, text in {"cpuinfo": cpuinfo, "model": f"{model}\0", "release": release}.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(board, "MODEL", tmp_path / "model")
        monkeypatch.setattr(board, "L4T_RELEASE", tmp_path / "release")
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        return describe_environment()

    return describe


def test_an_arm_core_and_its_board_by_name(arm: Callable[..., Environment]) -> None:
    found = arm(RASPBERRY_PI_5, model="Raspberry Pi 5 Model B Rev 1.0")
    assert (found.cpu, found.board) == ("Cortex-A76", "Raspberry Pi 5 Model B Rev 1.0")
    assert found.machine == "Cortex-A76, Raspberry Pi 5 Model B Rev 1.0"
    assert found.isa == ("neon", "fp16", "dotprod")
    assert found.int8_instructions == "dotprod"


def test_an_arm_core_without_dot_products_is_not_told_of_vnni(
    arm: Callable[..., Environment],
) -> None:
    text = RASPBERRY_PI_5.replace(" asimddp", "").replace("0xd0b", "0xd08")
    found = arm(text)
    assert found.cpu == found.machine == "Cortex-A72"
    assert "dot products" in found.int8_instructions
    assert "VNNI" not in found.int8_instructions


def test_big_and_little_cores_are_both_told_and_share_what_both_have(
    arm: Callable[..., Environment],
) -> None:
    little = RASPBERRY_PI_5.replace("0xd0b", "0xd05").replace(" asimdhp", "")
    found = arm(f"{RASPBERRY_PI_5}\n{little}\n{little}\nRevision\t: d04170\n")
    assert found.cpu == "1 x Cortex-A76 + 2 x Cortex-A55"
    assert found.isa == ("neon", "dotprod")


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [
        ("0x61", "0x023", "Apple M1 Firestorm"),
        ("0x41", "0xfff", "Arm 0xfff"),
        ("0x99", "0x001", "implementer 0x99 0x001"),
    ],
)
def test_other_makers_and_unknown_cores(
    arm: Callable[..., Environment], implementer: str, part: str, name: str
) -> None:
    assert arm(RASPBERRY_PI_5.replace("0x41", implementer).replace("0xd0b", part)).cpu == name


def test_a_board_that_tells_no_core_is_named_by_its_model(arm: Callable[..., Environment]) -> None:
    text = "processor\t: 0\nFeatures\t: asimd sve2 bf16 i8mm\n"
    found = arm(text, model="A board")
    assert found.cpu == "A board"
    assert found.isa == ("neon", "sve2", "bf16", "i8mm")


def test_jetson(arm: Callable[..., Environment]) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n"
    text = RASPBERRY_PI_5.replace("0xd0b", "0xd42")
    found = arm(text, model="NVIDIA Jetson Orin Nano", release=release)
    assert (found.cpu, found.l4t) == ("Cortex-A78AE", "36.4.3")


def test_temperatures_are_told_where_a_zone_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for zone, kind, temperature in [(0, "cpu", "48312"), (1, "cpu", "50000"), (2, "x", "-274000")]:
        write(tmp_path / f"thermal_zone{zone}" / "type", f"{kind}\n")
        write(tmp_path / f"thermal_zone{zone}" / "temp", f"{temperature}\n")
    monkeypatch.setattr(board, "THERMAL", tmp_path)
    assert board.temperatures_c() == {"cpu": 48.312, "cpu (thermal_zone1)": 50.0}


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
