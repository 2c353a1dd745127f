"""What MLflow is told, read back from a real local store."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.errors import BackendMissingError, StageError
from edgeres.report.mlflow_export import export_mlflow, metrics
from edgeres.report.page import read_output
from edgeres.report.schema import write_report


def test_figures_that_were_not_measured_are_left_out(report) -> None:
    found = metrics(report(), report().targets["tensorrt"])
    assert set(found) == {"baseline_top1", "int8_coverage", "size_bytes"}
    assert metrics(report(), report().targets["onnxruntime"])["latency_p50_ms"] == 1.234


def test_without_mlflow_the_extra_is_named(report, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    write_report(report(), tmp_path / "report.json")
    with pytest.raises(BackendMissingError, match="mlflow is not installed"):
        export_mlflow(read_output(tmp_path), "file:nowhere")


@pytest.mark.filterwarnings("ignore")  # of MLflow's own dependencies
def test_a_store_gets_a_run_for_each_target(report, tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_report(report(), tmp_path / "report.json")
    uri = (tmp_path / "store").as_uri()
    runs = export_mlflow(read_output(tmp_path), uri)
    assert set(runs) == {"onnxruntime", "openvino", "tensorrt"}
    client = mlflow.MlflowClient(tracking_uri=uri)
    kept = client.get_run(runs["onnxruntime"])
    assert kept.data.metrics["top1"] == 0.954
    assert kept.data.params["model_sha256"] == "ab" * 32
    assert kept.data.tags["verdict"] == "pass"
    assert kept.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(runs["onnxruntime"])] == ["report.json"]
    assert export_mlflow(read_output(tmp_path), uri) != runs  # appended, never overwritten
    with pytest.raises(StageError, match="MLflow did not take"):
        export_mlflow(read_output(tmp_path), "wrong://place")
