"""Runs that are killed and run again: does every one end with the files of a clean run?

    python benchmarks/kills.py --kills 200 --pairs 10 --out benchmarks/results/kills.json

Converts a small network, kills the run with SIGKILL at a random moment (seeded), checks that the
output of the earlier run is untouched, runs again, and compares the SHA-256 of every file with
that of a clean run (files that hold times are left out). Then kills at every edge of
every stage, over an earlier output, likewise. Then starts two runs in one
folder at once: one must win, the other must say who holds the folder, and nothing may be mixed.
The result file is written every ten kills, and a program that was stopped goes on from there. A
clean run is made anew then, so that moments fit a machine whose load changes.
Runs are forked from a process that has everything imported, so kills hit the work and not imports.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgeres
from edgeres.errors import EdgeResError

RECIPE = """\
name: kills
model: {source: net.onnx}
preprocess: {mean: [0.286], std: [0.353], channels: 1}
data: {validation_samples: 40, calibration_samples: 16}
targets: [onnxruntime]
gates: {max_drop: 100, untrained: true}
benchmark: {seconds: 0.02}
"""
STAGES = ".stages"
MEASURED = {"report.json", "report.html", "history.sqlite", "evidence/latency.json"}
STEP = 10
ONCE = ("files", "clean_run_s")
"""What is not a count of runs: the last is kept."""
EDGES = ("written", "aside", "done")
# Stages of the store, and the folders that the end of a run hands over.
PLACES = ["overlap", "load", "calibrate", "quantize", "build", "evaluate", "inspect"]
HANDED_OVER = ["onnxruntime", "baseline"]
PLACES += HANDED_OVER


def write_network(path: Path) -> None:
    """A residual network of one block with random weights, for 28x28 grey images."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "stem": rng.standard_normal((8, 1, 3, 3)) / 3,
        "one": rng.standard_normal((8, 8, 3, 3)) / 8,
        "two": rng.standard_normal((8, 8, 3, 3)) / 8,
        "fc": rng.standard_normal((10, 8)),
        "bias": np.zeros(10),
    }
    around = [1, 1, 1, 1]
    nodes = [
        helper.make_node(
            "Conv", ["image", "stem"], ["a"], name="stem", strides=[2, 2], pads=around
        ),
        helper.make_node("Relu", ["a"], ["b"], name="r1"),
        helper.make_node("Conv", ["b", "one"], ["c"], name="one", pads=around),
        helper.make_node("Relu", ["c"], ["d"], name="r2"),
        helper.make_node("Conv", ["d", "two"], ["e"], name="two", pads=around),
        helper.make_node("Add", ["b", "e"], ["f"], name="add"),
        helper.make_node("Relu", ["f"], ["g"], name="r3"),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], name="pool"),
        helper.make_node("Flatten", ["h"], ["i"], name="flat"),
        helper.make_node("Gemm", ["i", "fc", "bias"], ["scores"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def workplace(folder: Path) -> Path:
    """Writes network and recipe; gives the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    write_network(folder / "net.onnx")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def hashes(output: Path) -> dict[str, str]:
    """SHA-256 of every file that a run hands over, those that hold times aside."""
    return {
        str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(output.rglob("*"))
        if file.is_file()
        and STAGES not in file.relative_to(output).parts
        and not file.relative_to(output).parts[0].startswith(".edgeres.")
        and file.relative_to(output).as_posix() not in MEASURED
    }


def start(
    recipe: Path,
    output: Path,
    *,
    fresh: bool = False,
    before: Callable[[], None] = lambda: None,
) -> int:
    """Forks a run; gives its process id. Exit codes are those of the command line."""
    child = os.fork()
    if child:
        return child
    code = 5
    try:
        warnings.simplefilter("ignore")
        before()
        edgeres.convert(edgeres.load_recipe(recipe), output, use_cache=not fresh)
        code = 0
    except EdgeResError as error:
        print(f"    {error}", file=sys.stderr)
        code = error.exit_code
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a forked run; minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def clean_run(recipe: Path, folder: Path) -> tuple[dict[str, str], float]:
    """Makes ``folder/clean`` with one undisturbed run; gives its hashes and its seconds."""
    shutil.rmtree(folder / "clean", ignore_errors=True)
    begin = time.monotonic()
    if wait(start(recipe, folder / "clean")) != 0:
        raise SystemExit("the clean run failed")
    return hashes(folder / "clean"), time.monotonic() - begin


def kill_runs(
    recipe: Path, folder: Path, kills: int, seed: int, *, first: int = 0
) -> dict[str, float]:
    """Kills runs at random moments, half of them over an earlier output, and runs them again.

    Args:
        recipe: What to run.
        folder: Where; holds the output of a clean run afterwards.
        kills: Number after the last run to kill.
        seed: Same seed, same share of a clean run's time for each number.
        first: Number of the first run.
    """
    expected, whole = clean_run(recipe, folder)
    found: Counter[str] = Counter({"files": len(expected)})
    for number in range(first, kills):
        output = folder / f"run-{number}"
        over_earlier = number % 2 == 1
        if over_earlier:
            shutil.copytree(folder / "clean", output)
        child = start(recipe, output, fresh=over_earlier)
        time.sleep(random.Random(f"{seed} {number}").uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        found["killed while at work" if killed else "ended before the kill"] += 1
        if over_earlier and not _replaced_whole(hashes(output), expected):
            found["earlier output damaged"] += 1
        if wait(start(recipe, output)) != 0:
            found["rerun failed"] += 1
        elif hashes(output) != expected:
            found["rerun gave other files"] += 1
        else:
            found["rerun gave the clean run's files"] += 1
        found["temporaries left"] += bool(list((output / STAGES).glob(".*")))
        shutil.rmtree(output)
    return {**found, "clean_run_s": round(whole, 2)}


def edge_runs(recipe: Path, folder: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Kills a run at every edge of the stages named, and runs it again."""
    expected = hashes(folder / "clean")
    found: Counter[str] = Counter()
    for stage in stages:
        for edge in EDGES:
            output = folder / f"edge-{stage}-{edge}"
            shutil.copytree(folder / "clean", output)
            kill = functools.partial(kill_at, stage, edge)
            code = wait(start(recipe, output, fresh=True, before=kill))
            found["killed"] += code == -signal.SIGKILL
            found["earlier output damaged"] += not _replaced_whole(hashes(output), expected)
            if wait(start(recipe, output)) == 0 and hashes(output) == expected:
                found["rerun gave the clean run's files"] += 1
            else:
                found["rerun failed"] += 1
                print(f"    {stage}, {edge}", file=sys.stderr)
            shutil.rmtree(output)
    return {"edges": len(stages) * len(EDGES), **found}


def kill_at(stage: str, edge: str) -> None:
    """Makes this process kill itself at an edge of a stage, or of a folder that is handed over.

    ``written``: the files are there, the manifest or the journal is not. ``aside``: an earlier
    folder of that name was moved away, the new one is not in its place. ``done``: it just is.
    """
    from edgeres.system import publish, store

    rename, replace = Path.rename, store.replace_folder

    def is_it(source: Path) -> bool:
        return source.name.startswith(f".{stage}-")

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def handing_over(source: Path, target: Path) -> Path:
        place = rename(source, target)
        moved = target if edge == "aside" else source
        if (moved.parent.name, moved.name) == ("old" if edge == "aside" else "new", stage):
            die()
        return place

    if stage in HANDED_OVER:
        if edge == "written":
            publish._sync_below = die  # type: ignore[assignment]
        else:
            Path.rename = handing_over  # type: ignore[method-assign, assignment]
        return

    def renaming(source: Path, target: Path) -> Path:
        if edge == "aside" and is_it(source):
            die()
        return rename(source, target)

    def replacing(source: Path, target: Path) -> None:
        if edge == "written" and is_it(source):
            die()
        replace(source, target)
        if edge == "done" and is_it(source):
            die()

    Path.rename = renaming  # type: ignore[method-assign, assignment]
    store.replace_folder = replacing


def _replaced_whole(now: dict[str, str], expected: dict[str, str]) -> bool:
    """Every file that is there has the right content; a folder being replaced may be away."""
    return all(
        expected.get(name.removeprefix(".")) in (sha256, None) for name, sha256 in now.items()
    )


def pair_runs(recipe: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """Starts two runs in one folder at once."""
    expected = hashes(folder / "clean")
    found: Counter[str] = Counter()
    for number in range(pairs):
        output = folder / f"pair-{number}"
        codes = sorted(wait(child) for child in [start(recipe, output), start(recipe, output)])
        found[f"exit codes {codes[0]} and {codes[1]}"] += 1
        found["the clean run's files" if hashes(output) == expected else "other files"] += 1
        shutil.rmtree(output)
    return dict(found)


def main() -> None:
    """Parses arguments, kills, pairs, prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--edges", nargs="*", default=PLACES, help="stages to kill at their edges")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import onnxruntime  # noqa: F401  # imported once here, not in every forked run

    import edgeres.pipeline.convert  # noqa: F401

    result: dict[str, Any] = {"seed": arguments.seed, "runs": 0, "kills": {}}
    if arguments.out and arguments.out.exists():
        earlier = json.loads(arguments.out.read_text())
        result = earlier if earlier.get("seed") == arguments.seed else result

    def keep() -> None:
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = workplace(folder)
        while result["runs"] < arguments.kills:
            first, after = result["runs"], min(result["runs"] + STEP, arguments.kills)
            found = kill_runs(recipe, folder, after, arguments.seed, first=first)
            known = Counter(result["kills"])
            known.update({key: n for key, n in found.items() if key not in ONCE})
            known.update({key: found[key] - known[key] for key in ONCE})
            result |= {"runs": after, "kills": dict(known)}
            keep()
        clean_run(recipe, folder)
        if "pairs" not in result:
            result["pairs"] = pair_runs(recipe, folder, arguments.pairs)
            keep()
        if "edges" not in result:
            result["edges"] = edge_runs(recipe, folder, arguments.edges)
            keep()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
