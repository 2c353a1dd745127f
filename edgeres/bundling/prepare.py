"""From an open bundle to a loaded, self-tested engine of this device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Backend, BuildConfig, Engine, Runner
from edgeres.backends.fit import backend_here, check_versions
from edgeres.backends.sidecar import read_engine
from edgeres.bundling.archive import refused
from edgeres.bundling.choose import check_architecture, check_fit, choose
from edgeres.bundling.manifest import ANY, EngineEntry
from edgeres.bundling.open import OpenBundle
from edgeres.bundling.rebuild import rebuild_engine
from edgeres.bundling.selftest import SelfTest, answer, answer_isolated, compare
from edgeres.data.sample_file import read_sample
from edgeres.data.samples import scores_from_json
from edgeres.errors import ArtefactError, BackendMissingError, UsageError
from edgeres.system.temporary import temporary_folder


@dataclass(frozen=True)
class Wanted:
    """How a bundle is to be run.

    Attributes:
        target: Which engine; ``None`` takes the first that this machine can run.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``; ``None`` takes the one that the engine
            was built for.
        threads: CPU threads of each runner; ``None`` leaves the choice to the runtime.
        runners: How many times the engine is loaded, for as many calls at once.
        rebuild: Whether an engine that does not fit this device is built anew from its Q/DQ file.
        isolate: Whether the engine first runs in a child process, where it may crash or hang.
        self_test: Whether the answers to the samples are compared with the recorded ones.
    """

    target: str | None = None
    device: str | None = None
    threads: int | None = None
    runners: int = 1
    rebuild: bool = False
    isolate: bool = False
    self_test: bool = True


@dataclass(frozen=True)
class Prepared:
    """Loaded runners of one engine; ``self_test`` is ``None`` where it was not asked for."""

    target: str
    entry: EngineEntry
    runners: tuple[Runner, ...]
    self_test: SelfTest | None
    rebuilt: bool


def prepare(bundle: OpenBundle, wanted: Wanted) -> Prepared:
    """Chooses an engine, checks that it fits this device, loads it and tests it.

    The files of the engine lie in a private folder while they are loaded and are gone afterwards.

    Raises:
        ArtefactError: A file is not what the manifest says, or the engine is of another version.
        BackendMissingError: This machine is not what the engine was built for.
        GateError: The engine answers differently here.
        StageError: The engine crashed or hung in its trial.
        UsageError: No such target.
    """
    if wanted.runners < 1:
        raise UsageError(f"expected at least one runner, got {wanted.runners}.")
    target = wanted.target or choose(bundle, device=wanted.device, rebuild=wanted.rebuild)
    entry = bundle.engine(target)
    what = f"{bundle.path}: {target}"
    backend = backend_here(entry.backend, what)
    config = BuildConfig(device=wanted.device or entry.device, threads=wanted.threads)
    check_fit(entry, what, device=config.device)
    with temporary_folder() as place:
        work = _Work(bundle, entry, backend, config, wanted, place)
        work.extract()
        try:
            engine = work.as_built()
            check_architecture(entry, what)
            check_versions(engine.versions, backend, what)
            runners, rebuilt = work.load(engine), False
        except (ArtefactError, BackendMissingError) as error:
            if not wanted.rebuild:
                if entry.architecture == ANY and isinstance(error, BackendMissingError):
                    raise  # a device that is not here is not there after a rebuild either
                hint = f"{error.hint} --rebuild builds it anew from the Q/DQ file.".lstrip()
                raise type(error)(error.message, hint=hint) from error
            runners, rebuilt = work.load(work.rebuilt()), True
        try:
            tested = work.self_test(runners[0]) if wanted.self_test else None
        except BaseException:
            for runner in runners:
                runner.close()
            raise
    return Prepared(target, entry, runners, tested, rebuilt)


@dataclass(frozen=True)
class _Work:
    """The steps of :func:`prepare` for one engine, in its private folder."""

    bundle: OpenBundle
    entry: EngineEntry
    backend: Backend
    config: BuildConfig
    wanted: Wanted
    folder: Path

    @property
    def samples(self) -> Sequence[Path]:
        return [self.folder / name.rpartition("/")[2] for name in self.bundle.manifest.samples]

    def extract(self) -> None:
        """Writes the samples and the engine's files, each checked; damage ends here."""
        for name in (*self.bundle.manifest.samples, *self.entry.files):
            self.bundle.extract(name, self.folder)

    def as_built(self) -> Engine:
        """The engine that came with the bundle."""
        engine = read_engine(self.folder / self.entry.engine.rpartition("/")[2])
        if engine.backend != self.entry.backend:
            raise refused(
                self.bundle.path,
                f"its manifest says {self.entry.backend}, its engine {engine.backend}",
            )
        return engine

    def rebuilt(self) -> Engine:
        """The engine built anew from the Q/DQ file."""
        return rebuild_engine(self.bundle, self.entry, self.backend, self.folder, self.config)

    def load(self, engine: Engine) -> tuple[Runner, ...]:
        """Runs the engine in a child first where that was asked for, then loads it here."""
        if self.wanted.isolate:
            got = answer_isolated(
                engine.path, self.config.device, self.samples, self.bundle.preprocess
            )
            if self.wanted.self_test:
                compare(self._expected(), got, str(self.bundle.path), cure=self._cure())
        with ExitStack() as stack:
            runners = tuple(
                stack.enter_context(self.backend.load(engine, self.config))
                for _ in range(self.wanted.runners)
            )
            stack.pop_all()
        return runners

    def self_test(self, runner: Runner) -> SelfTest:
        """Compares the answers to the samples with the recorded ones."""
        images = [read_sample(path) for path in self.samples]
        got = answer(runner, images, self.bundle.preprocess)
        return compare(self._expected(), got, str(self.bundle.path), cure=self._cure())

    def _cure(self) -> str:
        """What helps where the answers differ: an engine that is compiled here stays the same."""
        anew = "convert the network on this device, or use another target"
        if self.entry.architecture == ANY or self.wanted.rebuild:
            return f"A rebuild gives the same engine; {anew}."
        return f"Build it again with --rebuild; else {anew}."

    def _expected(self) -> NDArray[np.float32]:
        name = self.entry.expected
        where = f"{self.bundle.path}: {name}"
        return scores_from_json(self.bundle.read(name), where, samples=len(self.samples))
