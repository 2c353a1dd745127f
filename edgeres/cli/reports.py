"""``edgeres report``: what a run found, as a page and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen
from edgeres.evaluation import run_folder
from edgeres.system.extras import require_packages


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of convert.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the three files; DIR itself if left out.")
    ] = None,
    license_name: Annotated[
        str, typer.Option("--license", help="Licence of the weights, for the model card.")
    ] = "",
    history: Annotated[
        bool, typer.Option("--history", help="Show results over time and what an upgrade changed.")
    ] = False,
    history_file: Annotated[
        Path | None, typer.Option(help="Another history than DIR/history.sqlite.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="Also log the targets to this MLflow tracking address.")
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Make one self-contained HTML page of a run, with Markdown and a model card beside it."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.report.history import as_dicts, read_history, runtime_changes
        from edgeres.report.write import write_reports

        if mlflow is not None:
            require_packages(["mlflow"])
        shown = history or history_file is not None
        history_path = (history_file or folder / run_folder.HISTORY) if shown else None
        files = write_reports(
            folder, output or folder, license_name=license_name, history=history_path
        )
        names = {kind: str(path) for kind, path in files.items()}
        content: dict[str, object] = {"files": names}
        lines = list(names.values())
        if mlflow is not None:
            from edgeres.report.mlflow_export import export_mlflow
            from edgeres.report.page import read_output

            runs = export_mlflow(read_output(folder), mlflow, files=files)
            content["mlflow"] = runs
            lines += [f"{target}: MLflow run {run}" for target, run in runs.items()]
        if history_path is not None:
            rows = read_history(history_path)
            changes = runtime_changes(rows)
            content["history"] = as_dicts(rows)
            content["changes"] = [vars(change).copy() for change in changes]
            lines += [f"{c.engine}: {c.text}, from {c.before} to {c.after}" for c in changes]
        out.result(content, "\n".join(lines))
