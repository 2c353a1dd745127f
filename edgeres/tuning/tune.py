"""The search: tries recipes, remembers each, and names the fastest within the accuracy budget.

Each try is a whole conversion, measured and judged as :func:`edgeres.convert` does it; tries share
one store, so a pruning or a calibration is done once however many tries need it. The sampler is
optuna's TPE (Bergstra et al., 2011) with the accuracy budget as a constraint; its journal lies in
the output folder, so a search that was stopped goes on where it was.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.data.hashes import FileHashes
from edgeres.errors import ArtefactError, BackendMissingError, EdgeResError, GateError
from edgeres.evaluation import run_folder
from edgeres.pipeline.convert import HASHES, prove, stage_store
from edgeres.pipeline.inputs import open_inputs
from edgeres.recipe.recipe import Recipe
from edgeres.system.environment import Environment, describe_environment
from edgeres.system.extras import require_packages
from edgeres.system.files import StrPath, write_atomic
from edgeres.system.progress import Listener, Silent
from edgeres.system.store import Store, json_sha256, output_lock
from edgeres.tuning.journal import Study, open_study
from edgeres.tuning.plot import pareto_svg
from edgeres.tuning.record import (
    Measured,
    Try,
    TuneResult,
    fastest,
    measured_in,
    pareto_dict,
    pareto_front,
    pooled,
)
from edgeres.tuning.settings import (
    Candidate,
    TuneSettings,
    budgets_of,
    precisions_of,
    recipe_of,
    space_of,
)

JOURNAL = "study.journal"
PARETO = "pareto.json"
PLOT = "pareto.svg"
WINNER = "best.yaml"


def tune(
    recipe: Recipe,
    output: StrPath,
    *,
    settings: TuneSettings | None = None,
    listener: Listener | None = None,
) -> TuneResult:
    """Searches for the fastest recipe whose gates pass.

    The folder then holds ``study.journal``, ``pareto.json``, ``pareto.svg`` and, where a try
    passed, ``best.yaml``. Calling again with the same recipe, space and images
    on the same CPU with the same versions goes on.

    Args:
        recipe: What to start from; its checks are the accuracy budget.
        output: Folder of the results and of the stages that tries share.
        settings: The space and the number of tries.
        listener: Hears of every stage of every try.

    Raises:
        BackendMissingError: optuna is not installed, or no target runs here.
        GateError: No try passed; ``pareto.json`` says how near they came.
        ArtefactError: The folder holds the journal of another search.
        EdgeResError: The recipe names something that is not there.
    """
    output = Path(output)
    settings, listener = settings or TuneSettings(), listener or Silent()
    require_packages(["optuna"])
    budgets = budgets_of(recipe, settings)
    targeted = recipe.override({"targets": list(settings.targets)}) if settings.targets else recipe
    hashes = FileHashes(output / run_folder.STAGES / HASHES)
    inputs = open_inputs(targeted, hashes)
    here = [target for target in inputs.targets if target.not_executable is None]
    if not here:
        raise _no_target(inputs.targets[0].not_executable)
    precisions = precisions_of(recipe, settings, [target.name for target in here])
    identity = json_sha256(
        {
            "recipe": recipe.model_dump(mode="json", exclude={"report"}),
            "model": inputs.source.sha256,
            "space": settings.space,
            "targets": [target.name for target in here],
            "images": [inputs.validation.fingerprint, inputs.calibration.used.fingerprint],
            "machine": _machine(describe_environment()),
        }
    )
    with output_lock(output):
        store = stage_store(output)
        study = open_study(output / JOURNAL, identity, seed=settings.seed)
        if study.identity != identity:
            raise ArtefactError(
                f"'{output / JOURNAL}' is of a search with another recipe, space, machine, "
                "images or versions.",
                hint="Remove it, or choose another --output.",
            )
        space = space_of([target.name for target in here], budgets, precisions, settings)
        while study.finished < settings.trials:
            if not study.untried(space):
                listener.note(f"all {len(space)} points of the search were tried: it is finished.")
                break
            _try(study, space, recipe, store, listener, hashes, settings=settings)
            _write(output, pooled(study.tries()))
        return _result(output, pooled(study.tries()), recipe)


def _machine(environment: Environment) -> dict[str, Any]:
    """What times depend on besides the recipe: the CPU, its use, and the installed versions."""
    return {
        "cpu": environment.cpu,
        "isa": list(environment.isa),
        "threads": environment.threads,
        "versions": dict(environment.versions),
    }


def _try(
    study: Study,
    space: Sequence[Candidate],
    recipe: Recipe,
    store: Store,
    listener: Listener,
    hashes: FileHashes,
    *,
    settings: TuneSettings,
) -> None:
    """One try; an error of a stage is recorded, an interruption makes it be tried again."""
    number = study.finished + 1
    with study.ask(space) as question:
        candidate = question.candidate
        listener.note(f"try {number} of {settings.trials}: {candidate.label}")
        try:
            question.tell(_measure(recipe, candidate, store, listener, hashes, settings.epochs))
        except EdgeResError as error:
            listener.note(f"try {number} failed: {error.message}")
            question.fail(str(error))


def _measure(
    recipe: Recipe,
    candidate: Candidate,
    store: Store,
    listener: Listener,
    hashes: FileHashes,
    epochs: int | None,
) -> Measured:
    tried_recipe = recipe_of(recipe, candidate, epochs=epochs)
    # No try has a page to show them on.
    tried_recipe = tried_recipe.override({"report.layers": False})
    _, report, proof, _ = prove(open_inputs(tried_recipe, hashes), store, listener)
    (built,) = proof.built
    result = measured_in(report, candidate.target, built.engine.source_sha256)
    if result is None:
        raise _no_target(report.targets[candidate.target].reason)
    return result


def _write(output: Path, tries: tuple[Try, ...]) -> None:
    """Keeps what is known so far, whatever comes next."""
    best = fastest(tries)
    content: dict[str, Any] = {
        "best": best.to_dict() if best else None,
        **pareto_dict(tries),
    }
    write_atomic(output / PARETO, (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(output / PLOT, pareto_svg(tries).encode())


def _result(output: Path, tries: tuple[Try, ...], recipe: Recipe) -> TuneResult:
    best = fastest(tries)
    _write(output, tries)
    path = output / WINNER
    if best is None:
        path.unlink(missing_ok=True)
        raise _nothing_passed(tries)
    winner = recipe_of(recipe, best.candidate)
    write_atomic(path, recipe_yaml(winner.override({"name": f"{recipe.name}-tuned"})).encode())
    return TuneResult(tries, pareto_front(tries), best, path)


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, without what is left at its default."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(recipe.model_dump(mode="json", exclude_defaults=True), stream)
    return stream.getvalue()


def _nothing_passed(tries: tuple[Try, ...]) -> EdgeResError:
    ran = [(t, t.measured) for t in tries if t.measured is not None]
    if not ran:
        return GateError(
            f"all {len(tries)} tries failed; the first: {tries[0].error}",
            hint="Run `edgeres convert` on the recipe to see what is wrong.",
        )
    nearest, found = min(ran, key=lambda pair: pair[1].over_budget)
    return GateError(
        f"none of {len(tries)} tries passes; the nearest ({nearest.candidate.label}): "
        f"{found.told}{found.asked}: {found.verdict}.",
        hint="Allow a larger --max-drop, more epochs of fine-tuning, or more validation samples.",
    )


def _no_target(reason: str | None) -> EdgeResError:
    return BackendMissingError(
        f"a search measures on the device, and no target of the recipe runs here: {reason}",
        hint="Name a target that `edgeres doctor` lists as usable.",
    )
