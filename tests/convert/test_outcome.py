"""What one run of the main job reports and leaves behind."""

import json

import numpy as np
import pytest

from edgeres.backends import get_backend, target_names

from .conftest import SAMPLES, installed


def test_json_on_stdout_is_the_report(workplace, report):
    assert json.loads((workplace / "stdout.json").read_text()) == report


def test_report_has_the_fields_of_the_contract(report):
    assert report["schema"] == 2
    assert {"cpu", "isa", "threads", "versions"} <= set(report["environment"])
    assert report["model"]["name"] == "resnet20"
    assert 0.26e6 < report["model"]["parameters"] < 0.28e6
    assert 30e6 < report["model"]["macs"] < 33e6
    assert report["baseline"]["samples"] == SAMPLES
    assert report["pruning"] is None
    assert {"name", "seconds", "cached", "peak_rss_bytes"} <= set(report["stages"][0])
    assert set(report["targets"]) == set(installed())


@pytest.mark.parametrize("name", target_names())
def test_every_engine_is_int8_and_as_good_as_fp32(workplace, report, name):
    if name not in report["targets"]:
        pytest.skip(get_backend(name).missing())
    target = report["targets"][name]
    assert target["built"]
    assert (workplace / "out" / target["engine"]).is_file()
    assert target["int8_coverage"] >= 0.95
    assert target["float_layers"] == [] or target["int8_coverage"] < 1
    if get_backend(name).not_executable() is not None:
        assert target["verdict"] == "not_executed"
        assert not target["executed"]
        assert target["reason"]
        assert target["top1"] is None
        return
    assert target["verdict"] == "pass"
    assert target["sqnr_db"] >= 30
    assert target["agreement"] >= 0.98
    assert target["drop_pp"] <= target["drop_upper_pp"]
    lost, gained = target["flips"]["lost"], target["flips"]["gained"]
    assert target["quantization_drop_pp"] == pytest.approx(100 * (lost - gained) / SAMPLES)
    times = target["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"]
    assert target["fp32_latency_ms"] == report["baseline"]["latency_ms"][name]
    fastest = target["yardstick_latency_ms"]["p50"]
    assert fastest <= target["fp32_latency_ms"]["p50"]
    assert target["speedup"] == pytest.approx(fastest / times["p50"])


def test_every_pair_of_models_that_ran_is_compared(report):
    ran = [name for name, target in report["targets"].items() if target["executed"]]
    matrix = report["agreement_matrix"]
    assert matrix["names"] == ["fp32", *ran]
    agreement = np.array(matrix["agreement"])
    assert np.array_equal(agreement, agreement.T)
    assert (agreement.diagonal() == 1).all()
    for index, name in enumerate(ran, start=1):
        assert agreement[0, index] == report["targets"][name]["agreement"]
        assert matrix["sqnr_db"][0][index] == pytest.approx(report["targets"][name]["sqnr_db"])
        assert matrix["sqnr_db"][index][index] is None


def test_the_run_leaves_what_it_says(workplace, report):
    out = workplace / "out"
    for name in report["targets"]:
        assert (out / name / "model.qdq.onnx").is_file()
        account = json.loads((out / name / "model.qdq.json").read_text())
        assert account["quantized_nodes"]
        assert account["rules"]["name"].startswith(name)
    kept = {file.name for file in (out / "baseline").iterdir()}
    assert {"model.onnx", "predictions.npz", "preprocess.json", "calibration_table.json"} <= kept


def test_the_report_tells_fusions_and_what_the_builder_warns_of(report):
    for name, target in report["targets"].items():
        fusions = target["fusions"]
        assert fusions["adds"] == 9
        assert fusions["relus"] == 19
        assert fusions["adds_in_products"] + fusions["adds_in_kernels"] <= 9
        assert isinstance(target["builder_warnings"], list), name
    if "openvino" in report["targets"]:
        # Its convolutions add the skip in their own accumulator.
        assert report["targets"]["openvino"]["fusions"]["adds_in_products"] == 9
