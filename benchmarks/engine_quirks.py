"""Looks for engines that compute something else than their Q/DQ file says.

    python benchmarks/engine_quirks.py --networks 5000
    python benchmarks/without_vnni.py python benchmarks/engine_quirks.py --networks 5000

Random small networks (``quirk_networks.py``) are calibrated and quantized as edgeres does it, under
the rules of each CPU engine and of the portable file; each engine that the file is for is built and
run, and its answer is compared to the arithmetic of the file (``quirk_judge.py``). What differs by
more than rounding can is either mended in edgeres or stands in ``KNOWN`` with its reason. The
result, one part for this CPU as it is and one without VNNI, is written to
``benchmarks/results/engine_quirks.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from quirk_judge import expected
from quirk_networks import Network, draw

from edgeres.backends import get_backend
from edgeres.backends.base import Backend, BuildConfig, Engine, QdqRules
from edgeres.backends.portable import portable_rules
from edgeres.errors import EdgeResError, ModelError
from edgeres.evaluation.coverage import layers_by_node, node_precision
from edgeres.exporting.passes import normal_form, to_bytes
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.system.environment import describe_environment
from edgeres.system.files import write_atomic

RESULT = Path(__file__).parent / "results" / "engine_quirks.json"
ENGINES = ("onnxruntime", "openvino")
READ_EVERY = 5
"""Of so many networks one is asked for its layers, which takes as long as all the rest."""
KEEP_EVERY = 50
"""The result is written anew after so many networks; a run that is stopped leaves what it had."""
_CONFIG = BuildConfig(device="cpu", threads=1)


@dataclass(frozen=True)
class Pairing:
    """A rule set and an engine that its files are for."""

    rules: QdqRules
    engine: str

    @property
    def name(self) -> str:
        """E.g. ``portable on openvino``."""
        return f"{self.rules.name} on {self.engine}"


@dataclass(frozen=True)
class Outcome:
    """One network on one engine.

    Attributes:
        seed: Of the network.
        pairing: Rule set and engine.
        steps: Distance in tolerances; at most 1 is rounding.
        problem: What is wrong, in words; empty where nothing is.
        known: Name of the rule in ``KNOWN`` that the problem falls under; empty for none.
        parts: The network in words.
    """

    seed: int
    pairing: str
    steps: float
    problem: str
    known: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """A divergence that is understood and stays.

    Attributes:
        reason: Why.
        applies: Told the pairing and the distance in tolerances whether this is one.
    """

    reason: str
    applies: Callable[[Pairing, float], bool]


REFUSED_IN_FP32 = "refused in FP32, too"
KNOWN: Mapping[str, Known] = {
    REFUSED_IN_FP32: Known(
        "The engine cannot read the network that was quantized: nothing of INT8.",
        lambda pairing, steps: False,  # the engine is asked
    ),
    "int8 activations on OpenVINO without VNNI": Known(
        "oneDNN halves the weights of layers with int8 activations where sums could leave int16, "
        "which rounds them to 7 bits; the file cannot ask for anything else.",
        lambda pairing, steps: (
            pairing.engine == "openvino"
            and pairing.rules.activation_dtype == "int8"
            and steps < 4
            and get_backend("openvino").qdq_rules("cpu").saturating
        ),
    ),
}


def pairings() -> tuple[Pairing, ...]:
    """Each CPU engine with its own rules and with portable ones: for both (uint8), and for all."""
    own = [get_backend(name).qdq_rules("cpu") for name in ENGINES]
    signed = portable_rules([*own, get_backend("tensorrt").qdq_rules("cuda:0")])
    shared = (replace(portable_rules(own), name="portable-uint8"), signed)
    found = [Pairing(rules, name) for rules, name in zip(own, ENGINES, strict=True)]
    return (*found, *(Pairing(rules, name) for rules in shared for name in ENGINES))


def search(
    seeds: Sequence[int],
    wanted: Sequence[Pairing],
    *,
    each: bool,
    backends: Mapping[str, Backend] | None = None,
) -> Iterator[Outcome]:
    """Runs networks, each under all pairings or, taking turns, under one.

    Args:
        seeds: Of the networks.
        wanted: Rule sets and engines.
        each: All pairings for each network.
        backends: Engines to look at instead of the real ones, by name.
    """
    engines = {name: get_backend(name) for name in ENGINES} | dict(backends or {})
    for seed in seeds:
        chosen = wanted if each else [wanted[seed % len(wanted)]]
        network = draw(seed)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "network.onnx"
            try:
                source.write_bytes(_normalized(network))
                table = calibrate(source, [network.images], threads=1)
            except EdgeResError:  # e.g. a network whose answer never varies
                continue
            for pairing in chosen:
                qdq = Path(folder) / "qdq.onnx"
                placed = quantize(source, table, pairing.rules, qdq).quantized_nodes
                yield _judge(network, pairing, qdq, engines[pairing.engine], placed)


def _normalized(network: Network) -> bytes:
    """The network in edgeres's normal form, with a free batch.

    A Resize hides the batch from ONNX's shape inference; its networks are freed by hand.
    """
    model = ir.from_proto(network.model)
    try:
        normal_form(model)
    except ModelError as error:
        if "free batch" not in str(error.hint):
            raise
        model = ir.from_proto(network.model)
        normal_form(model, dynamic_batch=False)
        proto = onnx.load_from_string(to_bytes(model))
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        return bytes(proto.SerializeToString())
    return to_bytes(model)


def _judge(
    network: Network, pairing: Pairing, qdq: Path, backend: Backend, placed: Sequence[str]
) -> Outcome:
    model = onnx.load(qdq)
    right = expected(model, network.images)
    steps, problem = float("nan"), ""
    try:
        engine = backend.build(qdq, qdq.with_name(f"engine{backend.engine_suffix}"), _CONFIG)
        steps = right.steps(_answers(backend, engine, network.images))
        if not steps <= 1:
            problem = f"{steps:.1f} times the error of rounding"
        elif network.seed % READ_EVERY == 0 and (unread := _unread(model, backend, engine, placed)):
            problem = f"coverage does not tell the precision of {', '.join(unread)}"
    except EdgeResError as error:
        problem = f"refused: {error}"
    known = ""
    if problem:
        known = next((name for name, rule in KNOWN.items() if rule.applies(pairing, steps)), "")
    if problem.startswith("refused") and _refuses(backend, qdq.with_name("network.onnx")):
        known = REFUSED_IN_FP32
    return Outcome(network.seed, pairing.name, steps, problem, known, network.parts)


def _refuses(backend: Backend, network: Path) -> bool:
    try:
        backend.build(network, network.with_name(f"fp32{backend.engine_suffix}"), _CONFIG)
    except EdgeResError:
        return True
    return False


def _answers(backend: Backend, engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an engine, image by image: one more batch size would be compiled for."""
    with backend.load(engine, _CONFIG) as runner:
        name = runner.inputs[0].name
        runs = [next(iter(runner.infer({name: image[None]}).values())) for image in images]
    return np.concatenate(runs)


def _unread(
    model: onnx.ModelProto, backend: Backend, engine: Engine, placed: Sequence[str]
) -> list[str]:
    """Quantized layers that no layer of the engine accounts for."""
    layers = layers_by_node(backend.layers(engine))
    weighted = {n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    return [
        name
        for name in placed
        if name in weighted and node_precision(layers.get(name, [])) == "unknown"
    ]


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Counts, and each divergence that no rule explains."""
    wrong = [outcome for outcome in outcomes if outcome.problem]
    steps = {}
    for name in sorted({outcome.pairing for outcome in outcomes}):
        values = [o.steps for o in outcomes if o.pairing == name and not o.problem]
        steps[name] = {
            "runs": sum(o.pairing == name for o in outcomes),
            "median": round(float(np.median(values)), 4),
            "p99": round(float(np.quantile(values, 0.99)), 3),
        }
    return {
        "networks": len({outcome.seed for outcome in outcomes}),
        "runs": len(outcomes),
        "divergences": len(wrong),
        "unexplained": sum(not outcome.known for outcome in wrong),
        "under_rules": dict(Counter(outcome.known for outcome in wrong if outcome.known)),
        "steps": steps,
        "unexplained_runs": [asdict(outcome) for outcome in wrong if not outcome.known],
    }


def main() -> int:
    """Runs the search and writes its part of the result; 1 where a divergence is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="all pairings for each network")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    wanted = pairings()
    started = time.monotonic()
    outcomes: list[Outcome] = []
    seeds = range(options.first, options.first + options.networks)
    for outcome in search(seeds, wanted, each=options.each):
        if outcomes and outcome.seed // KEEP_EVERY != outcomes[-1].seed // KEEP_EVERY:
            _write(options.out, outcomes, wanted, started)
        outcomes.append(outcome)
        if outcome.problem:
            print(outcome.seed, outcome.pairing, outcome.problem, outcome.known or "UNEXPLAINED")
            print("    " + " | ".join(outcome.parts), flush=True)
    found = _write(options.out, outcomes, wanted, started)
    print({k: v for k, v in found.items() if k != "unexplained_runs"})
    return 1 if found["unexplained"] else 0


def _write(
    out: Path, outcomes: Sequence[Outcome], wanted: Sequence[Pairing], started: float
) -> dict[str, object]:
    """Writes this CPU's part of the result and leaves the other part as it is."""
    part = "saturating" if wanted[0].rules.saturating else "not_saturating"
    found = summary(outcomes)
    whole = json.loads(out.read_text()) if out.is_file() else {}
    whole[part] = {
        "environment": describe_environment().to_dict(),
        "seeds": [outcomes[0].seed, outcomes[-1].seed],
        "rules": {name: rule.reason for name, rule in KNOWN.items()},
        "minutes": round((time.monotonic() - started) / 60, 1),
        **found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, (json.dumps(whole, indent=1) + "\n").encode())
    return found


if __name__ == "__main__":
    sys.exit(main())
