"""The quantization benchmark as tables and a chart.

    python benchmarks/quantization_table.py benchmarks/results/quantization.json --chart docs/q.svg

Prints Markdown: edgeres beside the best peers, then for every network SQNR, top-1 and latency of
each tool's file on each engine, and what making it cost. The chart shows SQNR against latency; it
needs the extra `report`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Shares of a panel within which two labels would lie on each other.
_HIGH, _WIDE = 0.04, 0.1
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def tables(result: dict[str, Any]) -> Iterator[str]:
    """The best peers, then one Markdown table a network and a subject of interest."""
    names = list(dict.fromkeys(row["subject"] for row in result["rows"]))
    yield from _versus(names, result)
    yield ""
    for name in names:
        rows = [row for row in result["rows"] if row["subject"] == name]
        yield f"### {name}\n"
        yield from _distances(rows)
        yield ""
        yield from _speed(name, rows, result["latency"])
        yield ""
        yield from _cost(rows)
        yield ""


def _versus(names: list[str], result: dict[str, Any]) -> Iterator[str]:
    """Edgeres beside the most accurate and the fastest file of other tools."""
    yield (
        "| network, engine | edgeres, dB | best ONNX Runtime u8s8 | best NNCF | best other file, "
        "its time over ours | our time over the fastest other file, batch 1 | batch 16 |"
    )
    yield "|---|" + "---|" * 6
    for name in names:
        found = {row["tool"]: row["accuracy"] for row in result["rows"] if row["subject"] == name}
        for engine, title in ENGINES.items():
            peers = {
                tool: accuracy[engine]["sqnr_db"]
                for tool, accuracy in found.items()
                if engine in accuracy and not tool.startswith("edgeres")
            }
            single, batch = (
                {
                    tool: times["over_edgeres"]
                    for tool, times in result["latency"][f"{name}/{engine}/batch {size}"].items()
                    if tool in peers
                }
                for size in (1, 16)
            )
            best = max(peers, key=lambda tool: peers[tool])
            fastest = [min(times, key=lambda tool: times[tool]) for times in (single, batch)]
            u8s8 = max(db for tool, db in peers.items() if tool.endswith("u8s8"))
            nncf = max(db for tool, db in peers.items() if tool.startswith("nncf"))
            yield (
                f"| {name}, {title} | {found['edgeres'][engine]['sqnr_db']:.1f} | {u8s8:.1f} | "
                f"{nncf:.1f} | {best} {peers[best]:.1f}, {single[best]:.2f} | "
                f"{1 / single[fastest[0]]:.3f} ({fastest[0]}) | "
                f"{1 / batch[fastest[1]]:.3f} ({fastest[1]}) |"
            )


def _distances(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = {
        engine: title
        for engine, title in ENGINES.items()
        if any(engine in row["accuracy"] for row in rows)
    }
    if not columns:
        return
    yield "| SQNR dB (top-1 %) | " + " | ".join(columns.values()) + " |"
    yield "|---|" + "---|" * len(columns)
    for row in rows:
        cells = [_distance(row["accuracy"].get(engine)) for engine in columns]
        if any(cells):
            yield f"| {row['tool']} | " + " | ".join(cells) + " |"
    for row in rows:
        found = row["accuracy"].get("simulated")
        if found:
            yield f"\nSimulated, all 8 bits: {_distance(found)}."


def _distance(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    top1 = f" ({100 * found['top1']:.2f})" if "top1" in found else ""
    return f"{found['sqnr_db']:.1f}{top1}"


def _speed(name: str, rows: list[dict[str, Any]], latency: dict[str, Any]) -> Iterator[str]:
    keys = [key for key in latency if key.startswith(f"{name}/")]
    if not keys:
        return
    titles = [key.split("/", 1)[1].replace("/", ", ") for key in keys]
    yield "| ms (over edgeres, quartiles) | " + " | ".join(titles) + " |"
    yield "|---|" + "---|" * len(keys)
    for tool in ["fp32", *(row["tool"] for row in rows)]:
        cells = []
        for key in keys:
            found = latency[key].get(tool)
            if found is None:
                cells.append("")
                continue
            low, high = found["over_edgeres_quartiles"]
            cells.append(
                f"{found['p50_ms']:.2f} ({found['over_edgeres']:.2f}, {low:.2f} to {high:.2f})"
            )
        if any(cells):
            yield f"| {tool} | " + " | ".join(cells) + " |"


def _cost(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| making it | images | seconds | over the bare passes (range) | MB over them |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cost = row["cost"]
        if "failed" in cost:
            yield f"| {row['tool']} | {cost['images']} | failed: {cost['failed'][:80]} | | |"
            continue
        low, high = cost["over_bare_range"]
        yield (
            f"| {row['tool']} | {cost['images']} | {cost['seconds']:.1f} | "
            f"{cost['over_bare']:.2f} ({low:.2f} to {high:.2f}) | "
            f"{cost['bytes_over_bare'] / 1e6:.0f} |"
        )


def chart(result: dict[str, Any], out: Path) -> None:
    """SQNR on the engine against latency there, batch 1: a panel a network and engine."""
    import altair as alt

    points = []
    for row in result["rows"]:
        for engine, title in ENGINES.items():
            found = row["accuracy"].get(engine)
            times = result["latency"].get(f"{row['subject']}/{engine}/batch 1", {})
            if found and row["tool"] in times:
                points.append(
                    {
                        "tool": row["tool"],
                        "panel": f"{row['subject']}, {title}",
                        "ms": times[row["tool"]]["p50_ms"],
                        "dB": found["sqnr_db"],
                        "maker": row["tool"].split("-")[0],
                    }
                )
    _label(points)
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("ms:Q", title="p50 latency, ms, batch 1").scale(zero=True),
        y=alt.Y("dB:Q", title="SQNR of the logits, dB").scale(zero=False),
        color=alt.Color("maker:N", title=None),
    )
    marks = base.mark_point(filled=True, size=70)
    names = base.mark_text(align="left", dx=6, fontSize=9).encode(text="label:N")
    facets = (
        (marks + names)
        .properties(width=330, height=230)
        .facet(alt.Facet("panel:N", title=None), columns=2)
    )
    facets.resolve_scale(x="independent", y="independent").save(str(out))


def _label(points: list[dict[str, Any]]) -> None:
    """Names the points; those that lie on each other share the first one's label."""
    for panel in {point["panel"] for point in points}:
        here = [point for point in points if point["panel"] == panel]
        levels, times = ([point[axis] for point in here] for axis in ("dB", "ms"))
        high, wide = max(levels) - min(levels), max(times)
        labelled: list[dict[str, Any]] = []
        for point in here:
            for other in labelled:
                near = abs(point["dB"] - other["dB"]) < _HIGH * high
                if near and abs(point["ms"] - other["ms"]) < _WIDE * wide:
                    other["label"] += f", {point['tool']}"
                    point["label"] = ""
                    break
            else:
                point["label"] = point["tool"]
                labelled.append(point)
        for point in labelled:  # "ort-minmax-u8s8, entropy-u8s8"
            point["label"] = point["label"].replace(f", {point['maker']}-", ", ")


def main() -> None:
    """Parses arguments, prints the tables and writes the chart."""
    parser = argparse.ArgumentParser(description="Tables and chart of the quantization benchmark.")
    parser.add_argument("result", type=Path)
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    print("\n".join(tables(result)))
    if arguments.chart:
        chart(result, arguments.chart)


if __name__ == "__main__":
    main()
