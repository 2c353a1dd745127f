"""What a user may write with edgeres: mypy checks it strictly, nothing runs it."""

from __future__ import annotations

import sys

import edgeres


def main(photo: str) -> None:
    """Converts, judges on own data, times and runs."""
    recipe: edgeres.Recipe = edgeres.load_recipe("recipe.yaml")
    report: edgeres.Report = edgeres.convert(recipe, "out")
    images: edgeres.Dataset = edgeres.open_dataset("imagefolder:photos", split="validation")
    pixels = edgeres.Preprocess(scale=1 / 255, resize=256, crop=224)
    engine = "out/onnxruntime/model.onnx"
    try:
        found = edgeres.validate(engine, images, pixels, limits=edgeres.Limits(max_drop=1.0))
        times = edgeres.benchmark([engine])
    except edgeres.BackendMissingError as error:
        sys.exit(f"{error} {error.hint}")
    print(found.verdict, times)
    if recipe.preprocess is not None:
        edgeres.prune(
            "net.safetensors",
            "small.safetensors",
            settings=edgeres.PruneSettings(
                macs_ratio=0.3, finetune=edgeres.FinetuneSettings(epochs=5, weight_decay=1e-4)
            ),
            train_data="imagefolder:photos",
            preprocess=recipe.preprocess,
            work="pruning",
        )
        pixels = recipe.preprocess.complete()
    smaller = edgeres.QuantizeBlock(calibrator="mse", qat=edgeres.QatSettings(epochs=1))
    print(recipe.replace(quantize=smaller, gates=recipe.gates.replace(max_drop=1.0)))
    edgeres.bundle("out", "model.edgeres")
    with edgeres.Session("model.edgeres") as session:
        for answers in session.classify([photo]):
            print(answers[0])
    sys.exit(report.exit_code)
