"""Engines of a further run of the same network, whose weights suit other CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeres.backends import get_backend
from edgeres.backends.fit import check_saturation
from edgeres.backends.sidecar import read_engine
from edgeres.bundling.entry import Content, add_engine, built_targets, needs_of
from edgeres.bundling.manifest import EXACT_SUMS, EngineEntry
from edgeres.bundling.outputs import engine_in
from edgeres.data.preprocess import Preprocess
from edgeres.data.samples import names_of
from edgeres.errors import UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.run_task import stored_task
from edgeres.report.schema import read_report
from edgeres.system.files import file_sha256
from edgeres.system.publish import refuse_half_handover


def further_engines(
    content: Content,
    first: Path,
    folder: Path,
    targets: Sequence[str],
    there: Mapping[str, EngineEntry],
    preprocess: Preprocess,
) -> dict[str, EngineEntry]:
    """Adds the engines of a further run of the same network, with their proof.

    Raises:
        BackendMissingError: Their sums overflow on this machine, which cannot answer for them.
        UsageError: Another network or other samples, or weights that are there already.
    """
    refuse_half_handover(folder)
    report = read_report(folder / run_folder.REPORT)
    ours, theirs = (
        {
            path.name: file_sha256(path)
            for path in names_of(each / run_folder.BASELINE / run_folder.SAMPLES)
        }
        for each in (first, folder)
    )
    same = read_report(first / run_folder.REPORT).model.sha256 == report.model.sha256
    if not same or ours != theirs or stored_task(first) != stored_task(folder):
        raise UsageError(
            f"{folder}: is a run of another network, task or validation set than {first}.",
            hint="Only `quantize` and `targets` of the two recipes may differ.",
        )
    found = {}
    for target in built_targets(report, targets, folder):
        part = report.targets[target]
        name = f"{target}-{'safe' if part.saturation_safe else 'plain'}"
        alike = [n for n, e in there.items() if e.backend == target and e.needs == needs_of(part)]
        if alike or name in there:
            raise UsageError(
                f"{folder}: its weights for {target} suit the same CPUs as those in {first}.",
                hint="One of the two recipes needs `quantize: {saturation_safe: on}`, the other "
                "`quantize: {saturation_safe: off}`.",
            )
        engine = read_engine(engine_in(folder, part.engine))
        backend = get_backend(engine.backend)
        if backend.not_executable() is None:
            check_saturation(
                backend,
                engine.device,
                options=engine.options,
                saturating=EXACT_SUMS not in needs_of(part),
                saturation_safe=bool(part.saturation_safe),
                what=f"{folder}: {target}",
            )
        samples = names_of(folder / run_folder.BASELINE / run_folder.SAMPLES)
        found[name] = add_engine(content, folder, target, report, samples, preprocess, named=name)
        content[f"engines/{name}/{run_folder.REPORT}"] = folder / run_folder.REPORT
    return found
