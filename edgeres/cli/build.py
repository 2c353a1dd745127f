"""The command that builds an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen


def build(
    onnx: o.Onnx,
    output: Annotated[
        Path, typer.Option(help="Engine file; the target's suffix is added if it lacks.")
    ],
    target: o.Target,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:N, gpu[:N], npu or auto.")] = None,
    threads: o.Threads = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="The target's own option; repeat for several."),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[INPUT=]MIN,OPT,MAX",
            help="Shape range of an input, each like 1x3x224x224 (tensorrt).",
        ),
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Build an engine from an FP32 or quantized ONNX file.

    A quantized file is held against the rules of the target, and what its engine refuses, computes
    otherwise than the file says or runs in float is told.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends import get_backend
        from edgeres.evaluation.qdq_check import finding_lines, findings_json, findings_of
        from edgeres.stages.network import build as run

        device = device or get_backend(target).default_device
        engine = run(
            onnx,
            output,
            target=target,
            device=device,
            threads=threads,
            options=o.parse_options(option),
            shapes=o.parse_shapes(shapes),
            isolate=True,
        )
        findings = findings_of(onnx, target, device, engine.options)
        out.result(
            {
                "engine": str(engine.path),
                "backend": engine.backend,
                "device": engine.device,
                "source_sha256": engine.source_sha256,
                "versions": dict(engine.versions),
                "options": dict(engine.options),
                "findings": findings_json(findings),
            },
            "\n".join([f"{engine.path}", *finding_lines(findings)]),
        )
