"""The memory of a search: optuna's study in a journal file, and nothing else of optuna."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeres.errors import ArtefactError
from edgeres.system.extras import import_extra
from edgeres.tuning.record import Measured, Try
from edgeres.tuning.settings import FP32, WHOLE, Candidate

IDENTITY = "identity"
_NAME = "edgeres"
_MEASURED, _ERROR, _CONSTRAINT = "measured", "error", "over_budget"
_DRAWS = 20
"""Draws of the sampler that may all be of points that were tried, before one is given to it."""


def open_study(path: Path, identity: str, *, seed: int) -> Study:
    """Opens the journal, or begins one; tries that were cut off are put in line again.

    Args:
        path: The journal.
        identity: Of recipe, images, space and machine; kept in a new journal.
        seed: Of the sampler.

    Raises:
        BackendMissingError: optuna is not installed.
        ArtefactError: The file is no journal.
    """
    optuna = _optuna()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(
                optuna.storages.journal.JournalFileBackend(str(path))
            ),
            study_name=_NAME,
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path}: is no journal of a search: {error}.", hint="Remove it to begin anew."
        ) from error
    # With the seed alone a search that goes on would draw its first tries again.
    begun = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed + begun)
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, identity)
    for trial in study.get_trials(deepcopy=False):
        unfinished = trial.state == optuna.trial.TrialState.RUNNING
        if unfinished:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
    return Study(study, begun)


class Study:
    """The tries of one search; lives as long as a call of :func:`edgeres.tune`."""

    def __init__(self, study: Any, begun: int) -> None:
        self._study = study
        self._begun = begun
        self._states = _optuna().trial.TrialState

    @property
    def identity(self) -> str:
        """What the journal was begun with."""
        return str(self._study.user_attrs[IDENTITY])

    @property
    def finished(self) -> int:
        """Tries that came to an end: measured, or failed by an error of their own."""
        return len(self.tries())

    def tries(self) -> tuple[Try, ...]:
        """Finished tries, in order."""
        finished_tries = []
        for trial in self._study.get_trials(deepcopy=False):
            measured = trial.user_attrs.get(_MEASURED)
            error = trial.user_attrs.get(_ERROR, "")
            if measured is None and not error:
                continue
            finished_tries.append(
                Try(
                    number=trial.number,
                    candidate=_candidate(trial.params),
                    measured=Measured(**measured) if measured else None,
                    error=error,
                )
            )
        return tuple(finished_tries)

    def untried(self, space: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Points that were not tried yet, in their order.

        A try that failed counts in the call that made it; in a later one what made it fail may be
        gone.
        """
        tried = {
            attempt.candidate
            for attempt in self.tries()
            if attempt.measured is not None or attempt.number >= self._begun
        }
        return tuple(candidate for candidate in space if candidate not in tried)

    @contextmanager
    def ask(self, space: Sequence[Candidate]) -> Iterator[Asked]:
        """The next try, of a point that was not tried; without an answer it is in line again.

        Args:
            space: All points, of which one at least is untried.
        """
        left = self.untried(space)
        for _ in range(_DRAWS):
            trial = self._drawn(space)
            if _candidate(trial.params) in left:
                break
            self._study.tell(trial, state=self._states.FAIL)
        else:
            self._study.enqueue_trial(_params(left[0]))
            trial = self._drawn(space)
        question = Asked(self._study, trial, self._states)
        try:
            yield question
        finally:
            if not question.answered:
                self._study.tell(trial, state=self._states.FAIL)
                self._study.enqueue_trial(trial.params)

    def _drawn(self, space: Sequence[Candidate]) -> Any:
        """A trial of optuna with all that a point has, in one order of choices."""

        def choices(field: str) -> list[Any]:
            return list(dict.fromkeys(v for c in space if (v := getattr(c, field)) != ""))

        trial = self._study.ask()
        trial.suggest_categorical("target", choices("target"))
        if trial.suggest_categorical("precision", choices("precision")) != FP32:
            trial.suggest_categorical("calibrator", choices("calibrator"))
        if trial.suggest_categorical("budget", choices("budget")) < WHOLE:
            trial.suggest_categorical("importance", choices("importance"))
        return trial


class Asked:
    """A try that waits for its answer."""

    def __init__(self, study: Any, trial: Any, states: Any) -> None:
        self._study = study
        self._trial = trial
        self._states = states
        self.candidate = _candidate(trial.params)
        self.answered = False

    def tell(self, measured: Measured) -> None:
        """What it came to; the objective is the latency."""
        self._trial.set_constraint(_CONSTRAINT, measured.over_budget)
        self._trial.set_user_attr(_MEASURED, asdict(measured))
        self._study.tell(self._trial, measured.latency_ms)
        self.answered = True

    def fail(self, error: str) -> None:
        """Why it came to nothing."""
        self._trial.set_user_attr(_ERROR, error)
        self._study.tell(self._trial, state=self._states.FAIL)
        self.answered = True


def _params(candidate: Candidate) -> dict[str, Any]:
    return {name: value for name, value in asdict(candidate).items() if value != ""}


def _candidate(params: dict[str, Any]) -> Candidate:
    return Candidate(
        target=params["target"],
        budget=params["budget"],
        importance=params.get("importance", ""),
        calibrator=params.get("calibrator", ""),
        precision=params["precision"],
    )


def _optuna() -> Any:
    optuna: Any = import_extra("optuna", extra="tune", user="a search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
