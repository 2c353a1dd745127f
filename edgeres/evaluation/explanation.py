"""Why an engine failed against its baseline: the images first, then the layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import EdgeResError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.preprocess_check import images_differ
from edgeres.tasks.answers import Answers

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset
    from edgeres.evaluation.layerwise import LayerComparison


@dataclass(frozen=True)
class Explanation:
    """What was found.

    Attributes:
        images: What is wrong with the images themselves; empty where nothing is. Then no layer was
            looked at: their distances would be those of images that no layer was made for.
        layers: The engine layer by layer against its FP32 network, where the files are there.
    """

    images: str
    layers: LayerComparison | None

    @property
    def text(self) -> str:
        """What to look at first, in one sentence; empty where nothing could be found out."""
        if self.images:
            return self.images
        if self.layers is None:
            return ""
        if self.layers.suspects:
            return self.layers.suspects[0].text
        first = self.layers.worst_first[0]
        return (
            f"no layer stands out; most noise of its own comes from {first.node} "
            f"({first.own_sqnr_db:.1f} dB)."
        )


def explain(
    engine: Path,
    baseline: Predictions | Answers,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    baseline_file: Path | None = None,
    source: Path | None = None,
    threads: int | None = None,
    isolate: bool = False,
) -> Explanation:
    """Looks for the cause of a failed verdict.

    Args:
        engine: The engine file, in the output folder of ``edgeres convert`` or without it.
        baseline: Answers that it was judged by.
        dataset: The images.
        preprocess: How they became numbers.
        baseline_file: Where those answers came from; what lies beside it is looked at, too.
        source: ONNX file that the engine was built from, where it does not lie beside it.
        threads: CPU threads; ``None`` leaves the choice to the runtimes.
        isolate: Whether what is read first runs once in a child process, where it may crash or
            hang.
    """
    from edgeres.evaluation.layerwise import SAMPLES
    from edgeres.evaluation.layerwise import compare as layer_by_layer

    run = run_folder.run_of(engine)
    folders = [run / run_folder.BASELINE]
    if baseline_file is not None and baseline_file.suffix == ".npz":
        folders.append(baseline_file.resolve().parent)
    images = ""
    for folder in dict.fromkeys(folders):
        try:
            images = images or images_differ(
                folder,
                baseline,
                dataset,
                preprocess,
                samples=SAMPLES,
                threads=threads,
                isolate=isolate,
            )
        except EdgeResError:  # it explains and does not judge: what it cannot run tells nothing
            continue
    fp32 = next((f for name in run_folder.QUANTIZED if (f := run / name).is_file()), None)
    if images or fp32 is None:
        return Explanation(images, None)
    sample = dataset.subset(range(min(SAMPLES, len(dataset))))
    sources = [] if source is None else [source]
    try:
        layers = layer_by_layer(
            fp32, engine, sample, preprocess, sources=sources, threads=threads, isolate=isolate
        )
    except EdgeResError:  # the Q/DQ file was not kept, or what it builds to look inside failed
        return Explanation("", None)
    return Explanation("", layers)
