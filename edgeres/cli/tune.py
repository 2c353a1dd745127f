"""``edgeres tune``: a search for the fastest recipe within the accuracy budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.calibrators import calibrator_names
from edgeres.cli import options as o
from edgeres.cli.convert import Output, RecipeArgument, Targets, Trust
from edgeres.cli.screen import screen

Trials = Annotated[int, typer.Option(min=1, help="Tries in all; more may be added later.")]
Epochs = Annotated[
    int | None,
    typer.Option(min=0, help="Epochs of fine-tuning in a try, 0 for none; the recipe's if none."),
]
Budgets = Annotated[str, typer.Option(help="Shares to prune to, comma-separated; 1 is unpruned.")]
Importances = Annotated[str, typer.Option(help="Importances to try, comma-separated.")]
_CALIBRATORS = ",".join(calibrator_names())
Calibrators = Annotated[str, typer.Option(help="Calibrators to try, comma-separated.")]
Precisions = Annotated[
    str | None,
    typer.Option(
        help="Precisions to try, comma-separated: int8, fp32, fp16 and bf16 where a target makes "
        "such engines, int8_signed (int8 activations) where a target has the choice, int8_mixed "
        "where the recipe has a mixed_precision block; all that may be the fastest if none."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the search.")]


def tune(
    recipe: RecipeArgument = None,
    trials: Trials = 30,
    epochs: Epochs = None,
    budgets: Budgets = "1,0.8,0.65,0.5",
    importances: Importances = "taylor_hessian,l2,bn_scale",
    calibrators: Calibrators = _CALIBRATORS,
    precisions: Precisions = None,
    target: Targets = None,
    max_drop: o.MaxDrop = None,
    output: Output = None,
    seed: Seed = 0,
    trust_recipe: Trust = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Search for the fastest recipe within the accuracy budget; the same command goes on.

    Each try is a conversion, measured on this machine; what tries have in common is done once.
    Exit code 1 means that no try stayed within the budget.
    """
    with screen(as_json=as_json, verbose=verbose, debug=debug) as out:
        from edgeres.pipeline.recipe_file import load_recipe
        from edgeres.tuning.settings import TuneSettings
        from edgeres.tuning.tune import tune as run

        changes: dict[str, Any] = {} if max_drop is None else {"gates.max_drop": max_drop}
        loaded = load_recipe(recipe, changes, trusted=trust_recipe)
        told: dict[str, Any] = {
            "trials": trials,
            "budgets": tuple(o.parse_numbers("--budgets", budgets)),
            "importances": _names(importances),
            "calibrators": _names(calibrators),
            "precisions": _names(precisions or ""),
            "targets": target or (),
            "epochs": epochs,
            "seed": seed,
        }
        settings = TuneSettings(**told)
        folder = output or Path("runs") / f"{loaded.name}-tune"
        with out.listener() as listener:
            result = run(loaded, folder, settings=settings, listener=listener)
        best = result.best
        assert best.measured is not None
        out.result(
            result.to_dict(),
            f"{best.candidate.label}: {best.measured.latency_ms:.3g} ms, "
            f"{best.measured.speedup:.2f} times as fast as FP32, {best.measured.told}\n"
            f"Run it: edgeres convert {result.recipe} --trust-recipe",
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
