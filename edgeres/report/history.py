"""Results over time in a local SQLite file, and what changed when a runtime changed.

``convert`` appends one row for each target to ``history.sqlite`` in its output. An upgrade of
a runtime that makes an engine slower, moves its layers back to float or changes its answers shows
as a difference between the last rows before and after it, on the same CPU with the same instruction
sets, model and images.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import ArtefactError
from edgeres.report.schema import Report
from edgeres.system.files import disk_errors
from edgeres.system.store import json_sha256

if TYPE_CHECKING:
    from edgeres.recipe.recipe import Recipe

_SCHEMA = 3
_WAIT_S = 10.0
_SLOWER = 1.10  # p50 after an upgrade over p50 before it
_LESS_ACCURATE_PP = 0.1
_NOISIER_DB = 1.0
_LESS_COVERED = 0.005


@dataclass(frozen=True)
class Row:
    """One engine in one run; what was not measured is ``None``.

    ``run`` numbers the runs of a file from 1 on; ``time`` is UTC in ISO 8601; ``recipe_sha256`` is
    of the settings that can change an engine; ``isa`` holds the CPU's instruction sets with spaces
    between.
    """

    run: int
    time: str
    name: str
    engine: str
    device: str
    cpu: str
    runtime: str
    edgeres: str
    model_sha256: str
    data_fingerprint: str
    top1: float | None
    drop_pp: float | None
    sqnr_db: float | None
    int8_coverage: float | None
    p50_ms: float | None
    p99_ms: float | None
    speedup: float | None
    stable: int | None
    size_bytes: int
    verdict: str
    recipe_sha256: str = ""
    isa: str = ""


@dataclass(frozen=True)
class Change:
    """A difference between two runs of one engine between which the runtime changed.

    ``worse`` marks what a person should look at.
    """

    engine: str
    before: str
    after: str
    text: str
    worse: bool


_COLUMNS = tuple(field.name for field in fields(Row))
_INTEGERS = {"run", "stable", "size_bytes"}
_REALS = {"top1", "drop_pp", "sqnr_db", "int8_coverage", "p50_ms", "p99_ms", "speedup"}


def append_run(path: Path, report: Report, *, name: str, recipe_sha256: str = "") -> int:
    """Appends a run; several processes may do so at once.

    Args:
        path: The SQLite file; made where it is not there.
        report: What the run found.
        name: Name of the recipe.
        recipe_sha256: Of its settings, see :func:`recipe_sha256`.

    Returns:
        The run's number.

    Raises:
        ArtefactError: The file is no history.
        StorageError: It cannot be written.
    """
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    with disk_errors(path), _open(path, create=True) as database, database:
        database.execute("BEGIN IMMEDIATE")
        (last,) = database.execute("SELECT COALESCE(MAX(run), 0) FROM results").fetchone()
        marks = ", ".join(f":{column}" for column in _COLUMNS)
        database.executemany(
            f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({marks})",
            [vars(row) for row in _rows(report, name, recipe_sha256, last + 1, moment)],
        )
    return int(last) + 1


def read_history(path: Path) -> list[Row]:
    """All rows, in the order of their runs; what a killed run began is not among them.

    Raises:
        ArtefactError: No such file, or no history.
    """
    if not path.is_file():
        raise ArtefactError(
            f"{path}: no history is there.", hint="`edgeres convert` makes one in its output."
        )
    with _open(path, create=False) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:  # whoever made it was stopped before the table was there
            return []
        records = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM results ORDER BY run, rowid")
        return [Row(*values) for values in records]


def runtime_changes(rows: Sequence[Row]) -> list[Change]:
    """What is different since a runtime, or edgeres itself, was changed.

    Compared are runs one after the other of the same engine, recipe settings, model, images, device
    and CPU whose versions differ; a CPU that a virtual machine or a launcher shows with fewer
    instruction sets is another one. Times count only where both are stable.
    """
    last: dict[tuple[str, ...], Row] = {}
    changes: list[Change] = []
    for row in rows:
        key = (
            row.name,
            row.recipe_sha256,
            row.engine,
            row.device,
            row.cpu,
            row.isa,
            row.model_sha256,
            row.data_fingerprint,
        )
        before = last.get(key)
        last[key] = row
        if before is None or _versions(before) == _versions(row):
            continue
        differences = list(_differences(before, row)) or [("nothing changed", False)]
        changes += [
            Change(row.engine, _versions(before), _versions(row), text, worse)
            for text, worse in differences
        ]
    return changes


def _differences(before: Row, after: Row) -> Iterator[tuple[str, bool]]:
    if before.p50_ms and after.p50_ms and before.stable and after.stable:
        ratio = after.p50_ms / before.p50_ms
        if not 1 / _SLOWER < ratio < _SLOWER:
            yield f"p50 {before.p50_ms:.3g} to {after.p50_ms:.3g} ms ({ratio - 1:+.0%})", ratio > 1
    for name, scale, unit, limit in (
        ("top1", 100.0, "pp of top-1", _LESS_ACCURATE_PP),
        ("sqnr_db", 1.0, "dB of SQNR", _NOISIER_DB),
        ("int8_coverage", 100.0, "points of INT8 coverage", 100 * _LESS_COVERED),
    ):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None and abs(new - old) * scale > limit:
            yield f"{(new - old) * scale:+.2f} {unit}", new < old
    if before.verdict != after.verdict:
        yield f"verdict {before.verdict} to {after.verdict}", after.verdict != "pass"


def _versions(row: Row) -> str:
    return ", ".join(filter(None, (row.runtime, f"edgeres {row.edgeres}" if row.edgeres else "")))


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of the settings that can change an engine or its measurement.

    Args:
        recipe: The recipe; its name, checks and list of targets do not count.
    """
    content = recipe.model_dump(
        mode="json",
        include={"preprocess", "data", "prune", "quantize", "export", "build", "benchmark"},
        exclude_defaults=True,
    )
    return json_sha256(content)


def _rows(report: Report, name: str, settings: str, run: int, moment: str) -> list[Row]:
    return [
        Row(
            run=run,
            time=moment,
            name=name,
            engine=target,
            device=part.device,
            cpu=report.environment.cpu,
            runtime=part.runtime,
            edgeres=report.environment.versions.get("edgeres", ""),
            model_sha256=report.model.sha256,
            data_fingerprint=report.baseline.data_fingerprint,
            top1=part.top1,
            drop_pp=part.drop_pp,
            sqnr_db=part.sqnr_db,
            int8_coverage=part.int8_coverage,
            p50_ms=part.latency_ms.p50 if part.latency_ms else None,
            p99_ms=part.latency_ms.p99 if part.latency_ms else None,
            speedup=part.speedup,
            stable=None if part.stable is None else int(part.stable),
            size_bytes=part.size_bytes,
            verdict=part.verdict,
            recipe_sha256=settings,
            isa=" ".join(report.environment.isa),
        )
        for target, part in report.targets.items()
    ]


@contextmanager
def _open(path: Path, *, create: bool) -> Iterator[sqlite3.Connection]:
    """A connection to a history; its schema number is checked, never guessed."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Not "ro" for reading: what a killed run left half written has to be rolled back first.
    mode = "rwc" if create else "rw"
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=_WAIT_S)
        ) as database:
            # In one statement, so that no other run makes the table in between.
            (version, tables) = database.execute(
                "SELECT user_version, (SELECT COUNT(*) FROM sqlite_master) FROM pragma_user_version"
            ).fetchone()
            if create and not version and not tables:
                _make_table(database)
            elif version != _SCHEMA and (version or tables):
                raise ArtefactError(
                    f"{path}: is no history of schema {_SCHEMA} (it has {version}).",
                    hint="Give another file.",
                )
            yield database
    except sqlite3.Error as error:
        raise ArtefactError(
            f"{path}: is no usable history ({error}).", hint="Move it away; a new one is made."
        ) from error


def _make_table(database: sqlite3.Connection) -> None:
    """Fills an empty file, whole or not at all; of several that try, one does."""
    database.execute("BEGIN IMMEDIATE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        database.execute(f"CREATE TABLE results ({_columns()})")
        database.execute(f"PRAGMA user_version = {_SCHEMA}")
    database.commit()


def _columns() -> str:
    kinds: Mapping[str, str] = {
        **dict.fromkeys(_INTEGERS, "INTEGER"),
        **dict.fromkeys(_REALS, "REAL"),
    }
    return ", ".join(f"{column} {kinds.get(column, 'TEXT')}" for column in _COLUMNS)


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain JSON values."""
    return [vars(row).copy() for row in rows]
