"""The table of the zoo benchmark, by family, and what in it a peer does better."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
OURS = "edgeres"
#: How much better a peer's SQNR must be to count, in dB; how much slower it may be to be as fast.
MARGIN_DB, AS_FAST, MARGIN_SHARE = 0.5, 1.05, 0.005
#: The same file opened twice differs by a tenth on a machine that others use.
QUICKER = 1.15


def table(rows: dict[str, Any], families: dict[str, tuple[str, ...]]) -> str:
    """Markdown: one line a family, then each exception in words."""
    lines = [
        "| family | networks | ONNX Runtime: INT8 share | SQNR over peers | speed-up "
        "| OpenVINO: INT8 share | SQNR over peers | speed-up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, names in families.items():
        there = [rows[name] for name in names if name in rows]
        if there:
            cells = [cell for engine in ENGINES for cell in _cells(there, engine)]
            lines.append(f"| {family} | {len(there)} | " + " | ".join(cells) + " |")
    told = [f"- {text}" for name, row in rows.items() for text in exceptions(name, row)]
    return "\n".join([*lines, "", *told])


def _cells(rows: list[dict[str, Any]], engine: str) -> list[str]:
    ours = [found for row in rows if (found := _of(row, OURS, engine))]
    if not ours:
        return ["-"] * 3
    margins = [margin for row in rows if (margin := margin_db(row, engine)) is not None]
    least = min(found["int8"] for found in ours)
    gain = f"{median(margins):+.1f} dB ({min(margins):+.1f})" if margins else "-"
    return [f"{100 * least:.1f} %", gain, f"{median(f['speedup'] for f in ours):.2f}x"]


def margin_db(row: dict[str, Any], engine: str) -> float | None:
    """SQNR of edgeres over the best peer's on one engine; ``None`` where one of them has none."""
    ours = _of(row, OURS, engine)
    peers = [found["sqnr_db"] for _, found in _peers(row, engine)]
    return ours["sqnr_db"] - max(peers) if ours and peers else None


def exceptions(name: str, row: dict[str, Any]) -> Iterator[str]:
    """What failed, what a peer does better, and where the account contradicts the engine."""
    if "failed" in row:
        yield f"{name}: {row['failed']}"
        return
    for tool, told in row["tools"].items():
        if "failed" in told:
            yield f"{name}: {tool} fails: {told['failed']}"
        for engine, found in told.get("engines", {}).items():
            if "failed" in found:
                yield f"{name}: {tool} on {ENGINES[engine]}: {found['failed']}"
        for engine, texts in told.get("contradictions", {}).items():
            yield f"{name}: {ENGINES[engine]} contradicts the account: {texts[0]} ({len(texts)})"
    for engine, title in ENGINES.items():
        ours = _of(row, OURS, engine)
        for tool, peer in _peers(row, engine):
            if not ours:
                continue
            better = peer["sqnr_db"] - ours["sqnr_db"]
            if better > MARGIN_DB and peer["over_edgeres"] <= AS_FAST:
                yield f"{name}: {tool} is {better:.1f} dB better on {title}{_of_most_images(peer)}"
            if peer["int8"] > ours["int8"] + MARGIN_SHARE:
                shares = f"{100 * peer['int8']:.1f} against {100 * ours['int8']:.1f} %"
                yield f"{name}: {tool} runs more in INT8 on {title}, {shares}"
            # Both the least times and the turns must say so: others are on the machine, too.
            if max(peer["over_edgeres"], peer["over_edgeres_quartiles"][2]) < 1 / QUICKER:
                yield f"{name}: {tool} takes {peer['over_edgeres']:.2f} of the time on {title}"


def _of_most_images(peer: dict[str, Any]) -> str:
    """What the middle image says, where it says otherwise than all images together."""
    gain = float(peer.get("edgeres_gain_db_quartiles", (0.0,) * 3)[1])
    return f", by a few images: on the middle one edgeres is {gain:.1f} dB better" * (gain > 0)


def _of(row: dict[str, Any], tool: str, engine: str) -> dict[str, Any]:
    found: dict[str, Any] = row.get("tools", {}).get(tool, {}).get("engines", {}).get(engine, {})
    return found if "speedup" in found else {}


def _peers(row: dict[str, Any], engine: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for tool in row.get("tools", {}):
        if tool != OURS and (found := _of(row, tool, engine)):
            yield tool, found
