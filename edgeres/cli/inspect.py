"""Commands that look inside an engine, and at this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen


def inspect(
    engine: o.Engine,
    source: Annotated[
        Path | None, typer.Option(help="ONNX file it was built from, if not beside it.")
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """List an engine's layers with the precision each really runs in, and its INT8 coverage."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.evaluation.inspect import inspect as run
        from edgeres.report.command_tables import inspection_table

        inspection = run(engine, source=source, isolate=True)
        out.result(inspection.to_dict(), inspection_table(inspection))


def doctor(as_json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what this machine is, which backends are here, and how to get those that are not."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends.doctor import doctor as run
        from edgeres.report.command_tables import health_table

        with out.listener() as listener:
            health = run(progress=listener.bar("doctor"))
        out.result(health.to_dict(), health_table(health))
