"""A run of ``convert`` as runs of MLflow: one for each target, with its figures and the report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.errors import StageError, one_line
from edgeres.evaluation import run_folder
from edgeres.report.page import Output
from edgeres.report.schema import Report, TargetPart
from edgeres.system.extras import import_extra

EXPERIMENT = "edgeres"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Set where the user set none: MLflow would wait for minutes, seven times."""


def export_mlflow(
    output: Output,
    uri: str,
    *,
    files: Mapping[str, Path] | None = None,
) -> dict[str, str]:
    """Logs the targets of a report to a tracking server or a local store.

    Args:
        output: Output of ``convert``.
        uri: Tracking address, e.g. ``http://host:5000`` or ``sqlite:///mlflow.db``.
        files: Further files to keep with each run, such as the page.

    Returns:
        Target to the identifier of its run.

    Raises:
        BackendMissingError: MLflow is not installed.
        StageError: The server refused.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    mlflow: Any = import_extra("mlflow", extra="mlflow")
    report, name = output.report, str(output.recipe.get("name") or output.report.model.name)
    runs = {}
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        place = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(EXPERIMENT)
        )
        for target, part in report.targets.items():
            run = client.create_run(place, run_name=f"{name} {target}").info.run_id
            for key, value in parameters(report, target, part).items():
                client.log_param(run, key, value)
            for key, number in metrics(report, part).items():
                client.log_metric(run, key, number)
            client.set_tag(run, "verdict", part.verdict)
            for file in (output.folder / run_folder.REPORT, *(files or {}).values()):
                client.log_artifact(run, str(file))
            client.set_terminated(run)
            runs[target] = run
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise StageError(
            f"{uri}: MLflow did not take the report ({one_line(error)}).",
            hint="Check the address and that the server runs.",
        ) from error
    return runs


def parameters(report: Report, target: str, part: TargetPart) -> dict[str, str]:
    """What a result depends on, as texts."""
    return {
        "target": target,
        "device": part.device,
        "runtime": part.runtime[:500],
        "cpu": report.environment.cpu,
        "threads": str(report.environment.threads),
        "edgeres": report.environment.versions.get("edgeres", ""),
        "model": report.model.name,
        "model_sha256": report.model.sha256,
        "data": report.baseline.data,
        "data_fingerprint": report.baseline.data_fingerprint,
    }


def metrics(report: Report, part: TargetPart) -> dict[str, float]:
    """Figures of a target by name; what was not measured is left out."""
    times = part.latency_ms
    figures = {
        "baseline_top1": report.baseline.top1,
        "top1": part.top1,
        "drop_pp": part.drop_pp,
        "drop_upper_pp": part.drop_upper_pp,
        "agreement": part.agreement,
        "sqnr_db": part.sqnr_db,
        "int8_coverage": part.int8_coverage,
        "latency_p50_ms": times.p50 if times is not None else None,
        "latency_p99_ms": times.p99 if times is not None else None,
        "speedup": part.speedup,
        "size_bytes": float(part.size_bytes),
    }
    return {name: value for name, value in figures.items() if value is not None}
