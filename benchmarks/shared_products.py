"""Which products share an int16, read off the engines one op shape at a time.

On a CPU with VNNI nothing overflows and the table is empty. One without VNNI is had by hiding it,
or, for OpenVINO alone, by telling oneDNN which instructions it may use:

    python benchmarks/shared_products.py
    python benchmarks/without_vnni.py python benchmarks/shared_products.py
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/shared_products.py --backend openvino
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python benchmarks/shared_products.py --backend openvino
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgeres.backends import get_backend, target_names
from edgeres.backends.probe import Position, ProbeShape, shared_products
from edgeres.system.environment import describe_environment

Pairs = list[tuple[Position, Position]]

SHAPES = (
    ProbeShape("Conv", 8),
    ProbeShape("Conv", 7),
    ProbeShape("Conv", 64),
    ProbeShape("Conv", 1, kernel=3),
    ProbeShape("Conv", 3, kernel=3),
    ProbeShape("Conv", 3, kernel=7),
    ProbeShape("Conv", 5, kernel=3),
    ProbeShape("Conv", 16, kernel=3),
    ProbeShape("Conv", 16, kernel=3, groups=4),
    ProbeShape("Conv", 6, kernel=3, groups=2),
    ProbeShape("Conv", 8, kernel=3, groups=8),
    ProbeShape("Gemm", 9),
    ProbeShape("Gemm", 64),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--backend", choices=target_names(), action="append")
    arguments.add_argument("--out", type=Path, help="JSON file")
    given = arguments.parse_args()
    names = [name for name in given.backend or target_names() if _runs(name)]
    rows = [(shape, {name: _ask(name, shape) for name in names}) for shape in SHAPES]
    table = Table("op", "channels", "kernel", "groups", *names)
    for shape, found in rows:
        numbers = (shape.channels, shape.kernel, shape.groups)
        table.add_row(shape.op, *map(str, numbers), *(_words(shape, found[n]) for n in names))
    Console().print(table)
    if given.out is not None:
        record = {
            "environment": describe_environment().to_dict(),
            "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
            "shapes": [asdict(shape) | {"pairs": found} for shape, found in rows],
        }
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _runs(name: str) -> bool:
    backend = get_backend(name)
    return backend.missing() is None and backend.not_executable() is None


def _ask(name: str, shape: ProbeShape) -> Pairs:
    return list(shared_products(get_backend(name), shape))


def _words(shape: ProbeShape, pairs: Pairs) -> str:
    """The order whose neighbours share an int16, by name."""
    if not pairs:
        return "none"
    for words, order in _ORDERS.items():
        if sorted(pairs) == _neighbours(order(shape.channels // shape.groups, shape.kernel)):
            return words
    return f"{len(pairs)} pairs in another order"


def _neighbours(runs: list[list[Position]]) -> Pairs:
    pairs = [zip(run[::2], run[1::2], strict=False) for run in runs]
    return sorted((min(a, b), max(a, b)) for run in pairs for a, b in run)


def _by_place(channels: int, kernel: int) -> list[list[Position]]:
    return [[(c, i, j) for c in range(channels)] for i in range(kernel) for j in range(kernel)]


def _by_row(channels: int, kernel: int) -> list[list[Position]]:
    return [[(c, i, j) for j in range(kernel) for c in range(channels)] for i in range(kernel)]


def _flat(channels: int, kernel: int) -> list[list[Position]]:
    return [[place for row in _by_row(channels, kernel) for place in row]]


_ORDERS: dict[str, Callable[[int, int], list[list[Position]]]] = {
    "channels at one kernel position": _by_place,
    "row, column, channel": _flat,
    "column, channel within a row": _by_row,
}


if __name__ == "__main__":
    main()
