"""``edgeres benchmark`` of ONNX files and of output folders: what is built, and its names."""

import json
import shutil
import sys
from functools import partial

import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.benchmarking.energy import measure_energy
from tests.convert.conftest import installed, invoke

pytestmark = pytest.mark.any_cpu("which engines are timed, not what they answer")
RUN_HERE = [name for name in installed() if get_backend(name).not_executable() is None]


def measured(*words):
    result = invoke("benchmark", *words, "--seconds", "0.1", "--threads", "1", "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)["engines"]


def test_a_folder_is_its_engines_and_the_float_network_on_each(workplace):
    engines = measured(workplace / "out")
    wanted = [f"{name} {kind}" for name in RUN_HERE for kind in ("FP32", "INT8")]
    assert sorted(engines) == sorted(wanted)
    for name in RUN_HERE:
        assert engines[f"{name} FP32"]["backend"] == engines[f"{name} INT8"]["backend"] == name
        assert engines[f"{name} FP32"]["size_bytes"] > 1.5 * engines[f"{name} INT8"]["size_bytes"]


@pytest.mark.parametrize("target", RUN_HERE)
def test_a_file_is_built_by_the_backend_of_the_engine_beside_it(workplace, tmp_path, target):
    shutil.copyfile(workplace / "out" / "baseline" / "model.onnx", tmp_path / "net.onnx")
    report = json.loads((workplace / "out" / "report.json").read_text())
    engine = workplace / "out" / report["targets"][target]["engine"]
    engines = measured(tmp_path / "net.onnx", engine)
    assert list(engines) == [str(tmp_path / "net.onnx"), str(engine)]
    assert {one["backend"] for one in engines.values()} == {target}
    assert engines[str(engine)]["speedup"] > 0


def test_targets_choose(workplace, tmp_path):
    shutil.copyfile(workplace / "out" / "baseline" / "model.onnx", tmp_path / "net.onnx")
    options = [word for name in RUN_HERE for word in ("--target", name)]
    assert list(measured(tmp_path / "net.onnx", *options)) == [
        f"{tmp_path / 'net.onnx'} ({name})" for name in RUN_HERE
    ]
    one = RUN_HERE[0]
    assert list(measured(workplace / "out", "--target", one)) == [f"{one} FP32", f"{one} INT8"]


def test_what_cannot_be_timed_is_one_line(workplace, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    onnx.save(onnx.ModelProto(), tmp_path / "nothing.onnx")
    for words, code in (
        ((tmp_path / "empty",), 3),
        ((workplace / "out", "--target", "none"), 3),
        ((tmp_path / "bad.onnx",), 3),
        ((tmp_path / "nothing.onnx",), 3),
        ((tmp_path / "none.onnx",), 3),
    ):
        result = invoke("benchmark", *words)
        assert result.exit_code == code, (words, result.output)
        assert "Traceback" not in result.output
        assert "bug" not in result.stderr


def test_a_meter_gives_each_engine_its_energy(workplace, monkeypatch):
    short = partial(measure_energy, rounds=2, turn_seconds=0.2)
    monkeypatch.setattr("edgeres.benchmarking.benchmark.measure_energy", short)
    ten_watts = f'{sys.executable} -uc "import time; print(10); time.sleep(600)"'
    engines = measured(workplace / "out", "--meter", ten_watts)
    for one in engines.values():
        told = one["energy"]
        assert told["watts"] == pytest.approx(10, rel=0.1)
        assert told["idle_watts"] == pytest.approx(10, rel=0.1)
        assert 0.2 * told["joules"] < 0.01 * one["latency_ms"]["mean"] < 5 * told["joules"]


def test_a_command_that_is_no_meter_ends_with_two(workplace):
    result = invoke("benchmark", workplace / "out", "--seconds", "0.1", "--meter", "echo many")
    assert result.exit_code == 2
    assert "it printed 'many'" in result.stderr
