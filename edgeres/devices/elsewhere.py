"""Answers of an engine that are computed elsewhere: on a host, or by many processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.data.bad_images import BadImages
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.devices.address import SshDevice
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import task_of
from edgeres.recipe.gates import Limits
from edgeres.system.progress import ProgressCallback
from edgeres.tasks.answers import Answers

_WORKERS = 2


@dataclass(frozen=True)
class Elsewhere:
    """Where an engine answers, if not in this process.

    Attributes:
        host: A host that is reached over SSH.
        workers: How many processes of this machine; 2 where only a scheduler is named.
        scheduler: Address of a dask scheduler whose workers answer.
        threads: CPU threads of each engine; ``None`` is the runtime's choice on a host, one of
            each worker.
    """

    host: SshDevice | None = None
    workers: int | None = None
    scheduler: str | None = None
    threads: int | None = None

    def check(self, limits: Limits) -> None:
        """Refuses limits on what only a run on this machine tells.

        Raises:
            UsageError: The engine runs on a host, and coverage or latency is limited.
        """
        if self.host is not None:
            from edgeres.devices.remote import check_limits

            check_limits(limits.min_int8_coverage, limits.max_p99_ms or limits.min_speedup)

    def predict(
        self,
        engine: Path,
        images: Dataset,
        data: str,
        preprocess: Preprocess,
        *,
        said: Sequence[dict[str, Any]] = (),
        skipped: BadImages,
        say: Callable[[str], None],
        progress: ProgressCallback,
    ) -> Predictions | Answers | None:
        """The answers; ``None`` where nothing but this process is asked for.

        Args:
            engine: The engine file, with its sidecar beside it.
            images: The samples.
            data: The same, as after ``--data``: workers open them themselves.
            preprocess: How an image becomes numbers.
            said: What the outputs mean, as a recipe says it; empty for a classifier.
            skipped: Collects images that cannot be decoded.
            say: Called when a connection was lost.
            progress: Called with images done and images in all.

        Raises:
            EdgeResError: As :func:`edgeres.devices.remote.predict_on` and
                :func:`edgeres.devices.workers.predict_sharded`.
        """
        if self.host is not None:
            from edgeres.devices.remote import predict_on

            return predict_on(
                self.host,
                engine,
                images,
                preprocess,
                task=task_of(said),
                threads=self.threads,
                skipped=skipped,
                say=say,
            )
        if self.workers is None and self.scheduler is None:
            return None
        from edgeres.devices.workers import predict_sharded

        return predict_sharded(
            engine,
            data,
            preprocess,
            task=said,
            class_names=tuple(images.class_names) if task_of(said) is None else (),
            scheduler=self.scheduler,
            workers=self.workers or _WORKERS,
            threads=self.threads or 1,
            skipped=skipped,
            progress=progress,
        )
