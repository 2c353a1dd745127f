"""``edgeres report``: what a run found, as a page and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of convert.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the three files; DIR itself if left out.")
    ] = None,
    license_name: Annotated[
        str, typer.Option("--license", help="Licence of the weights, for the model card.")
    ] = "",
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Make one self-contained HTML page of a run, with Markdown and a model card beside it."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.report.write import write_reports

        files = write_reports(folder, output or folder, license_name=license_name)
        names = {kind: str(path) for kind, path in files.items()}
        out.result({"files": names}, "\n".join(names.values()))
