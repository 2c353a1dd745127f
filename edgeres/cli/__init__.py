"""The command line: each command parses, calls one function of the package, prints, and exits.

Heavy imports stay inside the commands, so that ``edgeres --help`` is quick. Exit codes: 0 done and
passed, 1 a gate failed or is inconclusive, 2 usage or recipe, 3 bad model, data or artefact,
4 backend or device missing, 5 a stage or engine crashed, 6 disk, lock or permission, 129, 130 and
143 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from edgeres.cli import bundle, reports, stages
from edgeres.cli.benchmark import benchmark
from edgeres.cli.build import build
from edgeres.cli.clean import clean
from edgeres.cli.compare import compare
from edgeres.cli.convert import convert
from edgeres.cli.help import HelpCommand
from edgeres.cli.init import init
from edgeres.cli.inspect import doctor, inspect
from edgeres.cli.interrupts import end_by_signals
from edgeres.cli.quantize import quantize
from edgeres.cli.sensitivity import sensitivity
from edgeres.cli.streams import whole_output
from edgeres.cli.tune import tune
from edgeres.cli.usage import CiCommand, CiGroup
from edgeres.cli.validate import validate

app = typer.Typer(
    name="edgeres",
    cls=CiGroup,
    help="Prune, quantize and prove residual networks on TensorRT, OpenVINO and ONNX Runtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(cls=CiCommand)(convert)
app.command(cls=HelpCommand)(init)
app.command(cls=HelpCommand)(tune)
_DEPLOY = app.command(cls=HelpCommand, rich_help_panel="To the device")
_DEPLOY(bundle.bundle)
_DEPLOY(bundle.run)
_DEPLOY(bundle.push)
_DEPLOY(bundle.pull)
_STAGES = app.command(cls=HelpCommand, rich_help_panel="One stage, files in and files out")
_STAGES(stages.train)
_STAGES(stages.prune)
_STAGES(stages.export)
_STAGES(quantize)
_STAGES(sensitivity)
_STAGES(build)
_ENGINES = app.command(cls=HelpCommand, rich_help_panel="Built engines and this machine")
app.command(cls=CiCommand, rich_help_panel="Built engines and this machine")(validate)
_ENGINES(benchmark)
_ENGINES(inspect)
_ENGINES(compare)
_ENGINES(reports.report)
_ENGINES(doctor)
_ENGINES(clean)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Prune, quantize and prove residual networks on TensorRT, OpenVINO and ONNX Runtime."""
    if version:
        from edgeres.version import __version__

        typer.echo(f"edgeres {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line and exits with its code."""
    end_by_signals()
    with whole_output():
        app()
