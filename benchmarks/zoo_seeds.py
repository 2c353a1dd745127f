"""Where a peer was better in the zoo: is it the tool, or the draw of weights and pictures?

    python benchmarks/zoo_seeds.py --name repvgg_a0 --out benchmarks/results/zoo_seeds.json

A row of `zoo.py` is one draw of random weights, 24 calibration crops and 24 test crops; blocks of
random weights amplify noise, and one picture may hold most of it. Here an architecture is drawn
several times, with more test crops. Told are, on each engine, the SQNR of each tool over all
pictures of a draw, and quartiles over pictures of how much less noise edgeres has than the best
peer of that draw.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zoo_engines as engines
from zoo import COMPARED, _answers, _import_all, _make
from zoo_networks import CALIBRATION, make_subject

from edgeres.system.environment import describe_environment

TEST = 192


def draw(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One draw: SQNR by engine and tool, and the quartiles over pictures against the best peer."""
    subject = make_subject(name, folder / "raw", seed=seed, test=TEST)
    images = np.concatenate(list(subject.batches("test", 8)))
    made = {tool: _make(tool, subject, folder, CALIBRATION)[0] for tool in COMPARED}
    told: dict[str, Any] = {}
    for engine in engines.ENGINES:
        wanted = _answers(engines.open_engine(engine, subject.fp32), images)
        answers = {
            tool: _answers(engines.open_engine(engine, files.get(engine) or files["both"]), images)
            for tool, files in made.items()
            if files is not None and engine in COMPARED[tool]
        }
        sqnr = {tool: round(engines.sqnr_db(wanted, each), 2) for tool, each in answers.items()}
        best = max((tool for tool in sqnr if tool != "edgeres"), key=sqnr.__getitem__)
        told[engine] = {
            "sqnr_db": sqnr,
            "gain_db": round(sqnr["edgeres"] - sqnr[best], 2),
            "gain_db_quartiles": engines.gain_quartiles(wanted, answers["edgeres"], answers[best]),
        }
    return told


def main() -> None:
    """Parses arguments, draws, prints and writes the JSON after each draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--name", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("zoo_seeds.json"))
    arguments = parser.parse_args()
    told = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"networks": {}}
    _import_all()
    for name in arguments.name:
        draws = told["networks"].setdefault(name, {"test_images": TEST, "draws": {}})["draws"]
        for seed in range(arguments.seeds):
            if str(seed) in draws:
                continue
            with tempfile.TemporaryDirectory() as folder:
                draws[str(seed)] = draw(name, seed, Path(folder))
            told["environment"] = describe_environment().to_dict()
            arguments.out.write_text(json.dumps(told, indent=1) + "\n")
        for engine in engines.ENGINES:
            gains = [each[engine]["gain_db"] for each in draws.values()]
            middle = [each[engine]["gain_db_quartiles"][1] for each in draws.values()]
            print(name, engine, "all pictures", gains, "middle picture", middle, "median of draws",
                  round(statistics.median(gains), 2), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
