"""The search as a whole: real tries, and what happens when one is cut off or fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edgeres
from edgeres.cli import app
from edgeres.data.hashes import FileHashes
from edgeres.errors import ArtefactError, GateError, StageError
from edgeres.recipe.recipe import Recipe
from edgeres.system.environment import describe_environment
from edgeres.system.progress import Silent
from edgeres.tuning import tune as module
from edgeres.tuning.record import Measured, Try
from edgeres.tuning.settings import Candidate, TuneSettings

from .conftest import measured

pytest.importorskip("optuna", reason="optuna is not installed")
SETTINGS = TuneSettings(
    trials=3,
    budgets=(1.0, 0.7),
    importances=("l2",),
    calibrators=("minmax", "mse"),
    precisions=("int8",),
    epochs=0,
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[object]], list[int]]:
    """Puts given answers, or errors, in the place of conversions; counts the calls."""

    def put(given: list[object]) -> list[int]:
        calls: list[int] = []
        left: Iterator[object] = iter(given)

        def measure(*_: object) -> Measured:
            calls.append(1)
            answer = next(left)
            if isinstance(answer, BaseException):
                raise answer
            assert isinstance(answer, Measured)
            return answer

        monkeypatch.setattr(module, "_measure", measure)
        return calls

    return put


@pytest.mark.slow
def test_a_search_on_a_real_engine(recipe: Recipe, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = edgeres.tune(recipe, output, settings=SETTINGS)
    assert len(result.tries) == 3
    assert not [t.error for t in result.tries if t.error]
    assert result.best.measured is not None
    assert result.best.measured.latency_ms > 0
    told = json.loads((output / "pareto.json").read_text())
    assert told["best"]["latency_ms"] == result.best.measured.latency_ms
    assert (output / "pareto.svg").read_text().startswith("<svg")
    winner = edgeres.load_recipe(output / "best.yaml", {}, trusted=True)
    assert winner.targets == (result.best.candidate.target,)
    assert winner.quantize.calibrator == result.best.candidate.calibrator
    report = edgeres.convert(
        winner.override({"prune.finetune": None} if winner.prune else {}), tmp_path / "run"
    )
    assert set(report.targets) == set(winner.targets)


def test_a_search_that_is_cut_off_goes_on(
    recipe: Recipe, tmp_path: Path, answers: Callable
) -> None:
    calls = answers([measured(2.0, 0.1), KeyboardInterrupt()])
    settings = TuneSettings(trials=4, budgets=(1.0, 0.8, 0.6), epochs=0)
    with pytest.raises(KeyboardInterrupt):
        edgeres.tune(recipe, tmp_path, settings=settings)
    assert len(calls) == 2
    assert len(json.loads((tmp_path / "pareto.json").read_text())["trials"]) == 1
    calls = answers([measured(3.0 + n, 0.1) for n in range(4)])
    result = edgeres.tune(recipe, tmp_path, settings=settings)
    assert len(calls) <= 3
    assert len(result.tries) == 4
    assert result.best.measured is not None
    assert result.best.measured.latency_ms == 2.0
    # one more try than before is all that a longer search does
    calls = answers([measured(1.0, 0.1)])
    longer = TuneSettings(trials=5, budgets=(1.0, 0.8, 0.6), epochs=0)
    assert len(edgeres.tune(recipe, tmp_path, settings=longer).tries) == 5
    assert len(calls) <= 1
    with pytest.raises(ArtefactError, match="another recipe, space"):
        edgeres.tune(recipe, tmp_path, settings=SETTINGS)


def test_a_try_that_was_killed_is_done_again(
    recipe: Recipe, tmp_path: Path, answers: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed leaves its try running in the journal."""
    import optuna

    from edgeres.tuning.journal import open_study

    study = open_study(tmp_path / "j", "id", seed=0)
    trial = study._study.ask()
    trial.suggest_categorical("target", ["x"])
    again = open_study(tmp_path / "j", "id", seed=0)
    states = [t.state for t in again._study.get_trials()]
    assert states == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.WAITING]
    assert again.finished == 0


def test_a_try_that_fails_is_recorded_and_the_search_goes_on(
    recipe: Recipe, tmp_path: Path, answers: Callable
) -> None:
    answers([StageError("the engine crashed."), measured(2.0, 0.1), measured(1.0, 9.0, "fail")])
    result = edgeres.tune(recipe, tmp_path, settings=SETTINGS)
    assert result.tries[0].error == "the engine crashed."
    assert result.best.measured is not None
    assert result.best.measured.latency_ms == 2.0


def test_nothing_within_the_budget_is_exit_code_1(
    recipe: Recipe, tmp_path: Path, answers: Callable
) -> None:
    answers([measured(1.0, 9.0, "fail")] * 3)
    with pytest.raises(
        GateError, match=r"none of 3 tries.*at most \+9\.1\), at most 0\.5 asked: f"
    ):
        edgeres.tune(recipe, tmp_path / "a", settings=SETTINGS)
    assert json.loads((tmp_path / "a" / "pareto.json").read_text())["best"] is None
    assert not (tmp_path / "a" / "best.yaml").exists()
    answers([StageError("no memory.")] * 3)
    arguments = [
        "tune", str(tmp_path / "recipe.yaml"), "--trust-recipe", "--output", str(tmp_path / "b"),
        "--trials", "3", "--epochs", "0", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "all 3 tries failed; the first: no memory." in result.output


def test_the_command(recipe: Recipe, tmp_path: Path, answers: Callable) -> None:
    answers([measured(1.0, 0.2)] * 2)
    arguments = [
        "tune", str(tmp_path / "recipe.yaml"), "--trust-recipe", "--output", str(tmp_path / "b"),
        "--trials", "2", "--budgets", "1,0.5", "--importances", "l2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["best"]["latency_ms"] == 1.0
    assert len(told["trials"]) == 2
    assert "edgeres convert" in CliRunner().invoke(app, arguments).stdout
    for wrong in (["--budgets", "a"], ["--budgets", "2"], ["--calibrators", "kl"]):
        assert CliRunner().invoke(app, [*arguments, *wrong]).exit_code == 2


def test_a_journal_that_is_none_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "study.journal").write_text('{"a": 1}\n')
    with pytest.raises(ArtefactError, match="no journal"):
        edgeres.tune(recipe, tmp_path / "o", settings=SETTINGS)


def test_a_point_that_failed_is_tried_again_by_the_next_call_and_by_no_other_try(
    recipe: Recipe, tmp_path: Path, answers: Callable
) -> None:
    one = TuneSettings(
        trials=5, budgets=(1.0,), calibrators=("mse",), precisions=("int8",), epochs=0
    )
    calls = answers([StageError("no memory."), measured(2.0, 0.1)])
    with pytest.raises(GateError, match="all 1 tries failed; the first: no memory"):
        edgeres.tune(recipe, tmp_path / "o", settings=one)
    assert len(calls) == 1
    result = edgeres.tune(recipe, tmp_path / "o", settings=one)
    assert [t.error for t in result.tries] == ["no memory.", ""]
    assert edgeres.tune(recipe, tmp_path / "o", settings=one).tries == result.tries
    assert len(calls) == 2


@pytest.mark.parametrize("seed", range(4))
def test_every_point_is_tried_once_and_then_the_search_is_finished(
    recipe: Recipe, tmp_path: Path, answers: Callable, seed: int
) -> None:
    calls = answers([measured(2.0, 0.1) for _ in range(50)])
    space = TuneSettings(
        trials=40, budgets=(1.0, 0.5), importances=("l2", "bn_scale"),
        calibrators=("mse", "minmax"), epochs=0, seed=seed,
    )  # fmt: skip
    tries = edgeres.tune(recipe, tmp_path / "o", settings=space).tries
    points = 3 + 2 * 3  # unpruned, and by two importances: two calibrators and FP32 each
    assert len(calls) == len(tries) == len({t.candidate for t in tries}) == points


def test_a_search_of_another_machine_is_not_gone_on_with(
    recipe: Recipe, tmp_path: Path, answers: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers([measured(2.0, 0.1)] * 9)
    edgeres.tune(recipe, tmp_path / "o", settings=SETTINGS)
    here = describe_environment()
    for changed in (replace(here, cpu="another"), replace(here, versions={"onnxruntime": "9"})):
        monkeypatch.setattr(module, "describe_environment", lambda changed=changed: changed)
        with pytest.raises(ArtefactError, match="machine"):
            edgeres.tune(recipe, tmp_path / "o", settings=SETTINGS)
    monkeypatch.undo()
    fewer = recipe.override({"data.validation_samples": 299})
    with pytest.raises(ArtefactError, match="another recipe"):
        edgeres.tune(fewer, tmp_path / "o", settings=SETTINGS)


def test_precision_is_searched(recipe: Recipe, tmp_path: Path, answers: Callable) -> None:
    answers([measured(2.0 + n, 0.1) for n in range(20)])
    space = TuneSettings(trials=12, budgets=(1.0,), calibrators=("mse", "percentile"), epochs=0)
    tries = edgeres.tune(recipe, tmp_path / "o", settings=space).tries
    found = {(t.candidate.precision, t.candidate.calibrator) for t in tries}
    assert ("fp32", "") in found
    assert {how for kind, how in found if kind == "int8"} <= {"mse", "percentile"}
    assert {kind for kind, _ in found} == {"int8", "fp32"}
    told = json.loads((tmp_path / "o" / "pareto.json").read_text())
    assert {t["precision"] for t in told["trials"]} == {"int8", "fp32"}


def test_what_the_page_shows_is_no_part_of_a_search(
    recipe: Recipe, tmp_path: Path, answers: Callable
) -> None:
    answers([measured(2.0, 0.1)])
    space = TuneSettings(trials=1, budgets=(1.0,), calibrators=("mse",), epochs=0)
    edgeres.tune(recipe, tmp_path / "o", settings=space)
    told = recipe.override({"report.layers": True, "report.layer_samples": 8})
    assert edgeres.tune(told, tmp_path / "o", settings=space).best.number == 0


def test_no_try_measures_layers(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []

    def opened(chosen: Recipe, hashes: FileHashes) -> None:
        seen.append(chosen)
        raise StageError("far enough")

    monkeypatch.setattr(module, "open_inputs", opened)
    told = recipe.override({"report.layers": True, "report.layer_samples": 8})
    candidate = Candidate(recipe.targets[0], 1.0, "", "mse")
    with pytest.raises(StageError, match="far enough"):
        module._measure(told, candidate, None, Silent(), FileHashes(), 0)  # type: ignore[arg-type]
    assert (seen[0].report.layers, seen[0].report.layer_samples) == (False, 8)


@pytest.mark.slow
def test_an_fp32_try_is_a_real_engine(recipe: Recipe, tmp_path: Path) -> None:
    space = SETTINGS.replace(trials=1, budgets=(0.7,), precisions=("fp32",))
    result = edgeres.tune(recipe.override({"gates.max_drop": 100}), tmp_path, settings=space)
    assert not result.tries[0].error
    assert result.best.candidate.precision == "fp32"
    winner = edgeres.load_recipe(tmp_path / "best.yaml", {}, trusted=True)
    assert winner.quantize.precision == "fp32"


def test_a_search_by_another_task_than_classes(recipe: Recipe, tmp_path: Path) -> None:
    """How near the outputs are is its figure: less noise is better, and the budget is a floor."""
    told = recipe.override(
        {
            "task": {"name": "outputs"},
            "prune": None,
            "data.train": None,
            "gates": {"floor": {"sqnr_db": 25}, "min_int8_coverage": 0.5},
        }
    )
    space = TuneSettings(trials=2, budgets=(1.0,), calibrators=("mse",), seed=1)
    result = edgeres.tune(told, tmp_path / "o", settings=space)
    found = {t.candidate.precision: t.measured for t in result.tries}
    int8, fp32 = found["int8"], found["fp32"]
    assert int8 is not None
    assert fp32 is not None
    assert (int8.unit, int8.closeness, int8.max_drop) == ("dB", True, -25.0)
    assert int8.drop == -int8.value
    assert 25 < int8.value < 60 < fp32.value
    assert {t.number for t in result.pareto} >= {min(result.tries, key=_ms).number}
    picture = (tmp_path / "o" / "pareto.svg").read_text()
    assert "minus" in picture
    assert "budget -25" in picture


def _ms(attempt: Try) -> float:
    assert attempt.measured is not None
    return attempt.measured.latency_ms
