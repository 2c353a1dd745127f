"""Time of one ResNet-20 training step: memory layout, precision, batch size and kept memory.

Run it on a quiet machine: ``python benchmarks/training_step.py --threads 2 --out FILE``. The
variants take turns within each round, so a change of the machine's load meets all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeres.models.build import build_model, plan_for
from edgeres.system.freed_memory import freed_memory_kept


@dataclass(frozen=True)
class Variant:
    """One way to take a step."""

    name: str
    batch_size: int = 256
    channels_last: bool = True
    bfloat16: bool = False
    keep_memory: bool = True


VARIANTS = (
    Variant("as edgeres trains on a CPU"),
    Variant("memory returned to the kernel", keep_memory=False),
    Variant("channels first", channels_last=False),
    Variant("bfloat16 autocast", bfloat16=True),
    Variant("batch 128", batch_size=128),
)


def make_step(variant: Variant) -> Callable[[], None]:
    """A closure that trains one step on random images (N, 1, 28, 28)."""
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    module = build_model(plan_for("resnet20", num_classes=10, in_channels=1))
    module = module.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(variant.batch_size, 1, 28, 28).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (variant.batch_size,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=variant.bfloat16):
            logits = module(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    """Measures every variant and prints or writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = {variant: make_step(variant) for variant in VARIANTS}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    faults: dict[Variant, list[int]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant, step in steps.items():
            with freed_memory_kept() if variant.keep_memory else nullcontext():
                for _ in range(2):  # the heap grows again after its settings changed
                    step()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                begun = time.perf_counter()
                step()
                seconds[variant].append(time.perf_counter() - begun)
                faults[variant].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    result = {
        "machine": {
            "processor": _processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "threads": arguments.threads,
        },
        "rounds": arguments.rounds,
        "variants": [
            {
                "name": variant.name,
                "images_per_second_median": round(variant.batch_size / statistics.median(times)),
                "step_ms_median": round(1000 * statistics.median(times), 1),
                "step_ms_min": round(1000 * min(times), 1),
                "page_faults_median": int(statistics.median(faults[variant])),
            }
            for variant, times in seconds.items()
        ],
    }
    text = json.dumps(result, indent=2) + "\n"
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")


def _processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
