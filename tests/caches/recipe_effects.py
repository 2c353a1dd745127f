"""What each key of a recipe changes: the network to try, another value, the stages done again."""

from __future__ import annotations

from typing import Any

from edgeres.recipe.preprocess import LogMelBlock

NO_STAGE: frozenset[str] = frozenset()
LAYERS = {"compare_layers", "sensitivity"}
FORWARD = {"parity", "calibrate", "quantize", "evaluate", *LAYERS}  # what reads preprocessed images
PREPARED = {"calibrate", "mixed_precision"}
TRAINED = {"prune", "calibrate", "qat"}

# Key: recipe, its new value (or several keys that only go together; `None` where these networks
# can have no other), and the stages whose own key changes.
EFFECT: dict[str, tuple[str, Any, set[str] | frozenset[str]]] = {
    "name": ("onnx", "another", NO_STAGE),
    "model.source": ("onnx", "{place}/other.onnx", {"load", "parity"}),
    "model.weights": ("trained", "{place}/other.safetensors", {"load"}),
    "model.num_classes": ("trained", 10, {"load"}),
    "model.labels": ("trained", "{place}/labels.txt", {"load"}),
    "model.declared_top1": ("onnx", 0.05, NO_STAGE),
    "model.sample_answer": ("trained", "{place}/answer.npz", {"load"}),
    "model.outputs": ("onnx", ["logits"], {"load"}),
    "model.input_size": ("onnx", [28, 28], {"load"}),
    "model.given_scales": ("onnx", "remove", {"load"}),
    "preprocess.scale": ("onnx", 0.01, FORWARD),
    "preprocess.mean": ("onnx", [0.5], FORWARD),
    "preprocess.std": ("onnx", [0.5], FORWARD),
    # An open size is that of the images; this file's is not open, so the same comes out.
    "preprocess.resize": ("onnx", 30, {"load", *FORWARD}),
    "preprocess.crop": ("onnx", 24, {"load", *FORWARD}),
    "preprocess.crop_pct": (
        "onnx",
        {"preprocess.crop_pct": 0.8, "preprocess.crop": 24},
        {"load", *FORWARD},
    ),
    "preprocess.channel_order": ("onnx", None, FORWARD),
    "preprocess.layout": ("onnx", "nhwc", {"load", *FORWARD}),
    "preprocess.interpolation": ("onnx", "bicubic", FORWARD),
    "preprocess.antialias": ("onnx", False, FORWARD),
    "preprocess.letterbox": ("onnx", 30, {"load", *FORWARD}),
    "preprocess.letterbox_fill": ("onnx", 7, FORWARD),
    "preprocess.channels": ("trained", 1, NO_STAGE),  # said already by the checkpoint
    "preprocess.features": ("onnx", None, FORWARD),  # these networks take images
    **{f"preprocess.log_mel.{key}": ("onnx", None, FORWARD) for key in LogMelBlock.model_fields},
    "data.calibration": ("onnx", "npz:{place}/more.npz", {"overlap", "calibrate", "quantize"}),
    "data.validation": ("onnx", "npz:{place}/more.npz", {"overlap", "parity", "evaluate", *LAYERS}),
    "data.train": ("trained", "npz:{place}/more.npz", {"prune", "qat"}),
    "data.calibration_samples": ("onnx", 20, {"overlap", "calibrate", "quantize"}),
    "data.validation_samples": ("onnx", 20, {"overlap", "evaluate"}),  # layers see the first ten
    "prune.importance": ("trained", "l1", {"prune"}),
    "prune.normalization": ("trained", "mean", {"prune"}),
    "prune.allocation": ("trained", "uniform", {"prune"}),
    "prune.macs_ratio": ("trained", 0.7, {"prune"}),
    "prune.widths": (
        "trained",
        {"prune.widths": {"stage1": 8}, "prune.allocation": "per_layer"},
        {"prune"},
    ),
    "prune.round_to": ("trained", 4, {"prune"}),
    "prune.iterative_steps": ("trained", 2, {"prune"}),
    "prune.samples": ("trained", 32, {"prune"}),
    "prune.reconstruct": ("trained", False, {"prune"}),
    "prune.finetune.distill": ("trained", False, {"prune"}),
    "prune.finetune.distill_weight": ("trained", 0.5, {"prune"}),
    "prune.finetune.distill_temperature": ("trained", 2.0, {"prune"}),
    "prune.finetune.held_out": ("trained", 20, {"prune"}),
    # The layers are measured first, a stage that the other run does not have; pruning is last.
    "prune.target_latency": (
        "trained",
        {"prune.target_latency": 0.5, "prune.allocation": "latency"},
        {"latency", "prune", "export", "calibrate", "build", "evaluate", "qat"},
    ),
    "prune.latency_on": ("timed", "openvino", {"latency"}),
    "prune.only_if_faster": ("trained", True, NO_STAGE),
    "prune.min_share": ("trained", 0.2, {"prune"}),
    "prune.ignored_groups": ("trained", ["stage1"], {"prune"}),
    "prune.seed": ("trained", 1, {"prune"}),
    "prune.epochs_between": (
        "trained",
        {"prune.epochs_between": 1, "prune.iterative_steps": 2},
        {"prune"},
    ),
    "prune.sparse.strength": ("trained", 0.01, {"prune"}),
    "quantize.precision": (
        "plain",
        "fp32",
        {"quantize", "keep_float", "build", "evaluate", "inspect", *LAYERS},
    ),
    "quantize.calibrator": ("onnx", "minmax", {"calibrate", "quantize", "sensitivity"}),
    "quantize.bias_correction": ("onnx", "off", {"quantize", "sensitivity"}),
    "quantize.saturation_safe": ("onnx", "on", {"quantize", "sensitivity"}),
    "quantize.activations": ("plain", "int8", {"quantize", "sensitivity"}),
    "quantize.portable": ("plain", True, {"quantize", "sensitivity"}),
    "quantize.rounding": ("onnx", "nearest", {"quantize"}),
    "quantize.equalize": ("onnx", False, {"equalize"}),
    "quantize.measured_samples": ("onnx", 5, {"quantize"}),
    "quantize.qat.distill": ("trained", False, {"qat"}),
    "quantize.qat.distill_weight": ("trained", 0.5, {"qat"}),
    "quantize.qat.distill_temperature": ("trained", 2.0, {"qat"}),
    "quantize.qat.held_out": ("trained", 20, {"qat"}),
    "quantize.mixed_precision.max_drop": ("mixed", 1.0, {"mixed_precision"}),
    "quantize.mixed_precision.min_agreement": ("mixed", 0.5, {"mixed_precision"}),
    "quantize.mixed_precision.min_sqnr_db": ("mixed", 20.0, {"mixed_precision"}),
    "quantize.mixed_precision.samples": ("mixed", 10, {"mixed_precision"}),
    "quantize.mixed_precision.candidates": ("mixed", 3, {"mixed_precision"}),
    "quantize.mixed_precision.seconds": ("mixed", 0.1, {"mixed_precision"}),
    "export.opset": ("trained", 21, {"export"}),
    "export.dynamic_batch": ("trained", False, {"export"}),
    # The network and the preprocessing are others from here on.
    "export.input": (
        "plain",
        "uint8",
        {"pixels", "calibrate", "quantize", "build", "inspect", "evaluate", *LAYERS},
    ),
    "export.input_layout": (
        "plain",
        {"export.input": "uint8", "export.input_layout": "nchw"},
        {"pixels", "calibrate", "quantize", "build", "inspect", "evaluate", *LAYERS},
    ),
    # What the other run asks for up to the first stage of the second target.
    "targets": ("plain", ["onnxruntime", "openvino"], {"quantize", "build", "evaluate", *LAYERS}),
    "build.onnxruntime.device": ("onnx", None, NO_STAGE),  # only where there is another device
    "build.onnxruntime.options": ("onnx", {"graph_optimization": "basic"}, {"build"}),
    "build.onnxruntime.shapes": ("onnx", None, NO_STAGE),  # only for backends that specialize
    "task": (
        "onnx",
        None,
        NO_STAGE,
    ),  # stored answers are of another kind: tests/pipeline/test_task_key.py
    "gates.metric": ("onnx", ["top1"], NO_STAGE),
    "gates.floor": ("onnx", None, NO_STAGE),  # only for tasks that are named
    "gates.max_drop": ("onnx", 1.0, NO_STAGE),
    "gates.confidence": ("onnx", 0.9, NO_STAGE),
    "gates.min_int8_coverage": ("mixed", 0.5, {"mixed_precision"}),
    "gates.min_fused_adds": ("onnx", 0.5, NO_STAGE),
    "gates.max_p99_ms": ("onnx", 5.0, NO_STAGE),
    "gates.min_speedup": ("onnx", 1.0, NO_STAGE),
    "gates.max_size_bytes": ("onnx", 10**9, NO_STAGE),
    "gates.untrained": ("mixed", False, NO_STAGE),
    "benchmark.batch_size": ("mixed", 2, {"mixed_precision"}),
    "benchmark.threads": ("mixed", 1, {"mixed_precision"}),
    "benchmark.seconds": ("mixed", 0.1, NO_STAGE),
    "report.layers": ("onnx", False, LAYERS),
    "report.layer_samples": ("onnx", 20, LAYERS),
}

# What every training knows, in each block that trains.
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "warmup_fraction": 0.3,
    "final_fraction": 0.1,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "label_smoothing": 0.1,
    "flip": False,
    "crop_padding": 1,
    "erase_probability": 0.5,
    "erase_area": [0.1, 0.2],
    "time_shift": 1,
    "time_mask": 1,
    "frequency_mask": 1,
    "ema_decay": 0.9,
    "precision": "float32",
    "device": "cpu",
    "threads": 1,
    "seed": 1,
}
for _block, _stage in (
    ("prune.finetune", "prune"),
    ("prune.sparse", "prune"),
    ("quantize.qat", "qat"),
):
    for _key, _value in TRAINING.items():
        _effect = NO_STAGE if _key in ("device", "threads") else {_stage}
        EFFECT[f"{_block}.{_key}"] = ("trained", _value, _effect)
EFFECT["quantize.qat.precision"] = ("trained", None, {"qat"})  # float32 alone
