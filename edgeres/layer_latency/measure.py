"""Fills a latency table: builds each layer at several widths for a target and times it.

Each point is timed as the difference between three copies of the layer and one, in engines that
take turns, so that the call, the quantization of the input and the ends cancel out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends.base import BuildConfig, ShapeRange
from edgeres.backends.classifier import single_input
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import Latency, MeasureSettings, measure
from edgeres.errors import ArtefactError, UsageError
from edgeres.layer_latency.shapes import LayerShape, NetworkLayer
from edgeres.layer_latency.synthetic import assumed_ranges, write_copies
from edgeres.layer_latency.table import (
    LatencyTable,
    MeasurementContext,
    Multiples,
    Precision,
    ShapeTimes,
)
from edgeres.quantization.quantize import quantize
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.environment import describe_environment
from edgeres.system.progress import ProgressCallback
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.backends.target import Target

SHARES = (0.125, 0.5, 1.0)
"""Widths that are measured, as shares of the widest layer of a shape."""
LAYER_TIMES = MeasureSettings(
    seconds=0.1, rounds=5, min_runs=12, max_seconds=3.0, warmup_seconds=0.1
)
_COPIES = 3
_LEAST_WIDTH = 8
_STEPS = (8, 16, 32)
_SAME = 0.05  # times that differ by less are of one step of the device


def measurement_context(
    target: Target, *, precision: Precision, threads: int | None = None, batch: int = 1
) -> MeasurementContext:
    """The place that a table for this target on this machine belongs to."""
    paths = target.backend.path_options
    machine = describe_environment(())
    return MeasurementContext(
        backend=target.name,
        device=target.device,
        precision=precision,
        threads=threads,
        batch=batch,
        cpu=machine.cpu,
        cores=machine.threads,
        isa=machine.isa,
        versions={**target.backend.versions(), **target.backend.place(target.device)},
        rules=target.rules.to_dict() if precision == "int8" else {},
        options={k: v for k, v in _options(target, precision).items() if k not in paths},
        shapes={
            name: {end: list(size) for end, size in asdict(shapes).items()}
            for name, shapes in target.config.shapes.items()
        },
    )


def measure_layers(
    layers: Sequence[NetworkLayer],
    target: Target,
    place: MeasurementContext,
    *,
    path: Path | None = None,
    settings: MeasureSettings = LAYER_TIMES,
    progress: ProgressCallback | None = None,
) -> LatencyTable:
    """Measures the layers of a network that a table does not have yet.

    Args:
        layers: Of the network.
        target: Backend and device.
        place: Of the table; see :func:`measurement_context`.
        path: File of the table: read where it exists, written after each shape, so that a killed
            run goes on. ``None`` measures everything and keeps nothing.
        settings: How long each engine is timed.
        progress: Called with (shapes done, shapes in all).

    Raises:
        ArtefactError: The file is of another place.
        BackendMissingError: Engines of this target cannot run here.
        EdgeResError: As the backend's ``build`` and ``load``.
    """
    table = open_table(path, place)
    shapes = {layer.shape.key: layer.shape for layer in layers}
    missing = {key: shape for key, shape in shapes.items() if key not in table.shapes}
    done = 0

    def keep(grown: LatencyTable) -> LatencyTable:
        nonlocal done
        done += 1
        if path is not None:
            grown.save(path)
        if progress is not None:
            progress(done, total)
        return grown

    total = len(missing) + (table.multiples is None)
    if table.multiples is None:
        table = keep(_with_multiples(table, layers, target, settings))
    for key, shape in missing.items():
        grid = width_grid([layer for layer in layers if layer.shape.key == key])
        times = _times(shape, *grid, target, place, settings)
        table = keep(table.with_shape(shape, times))
    return table


def open_table(path: Path | None, place: MeasurementContext) -> LatencyTable:
    """The table in a file, or an empty one where there is none.

    Raises:
        ArtefactError: The file is of another place, or damaged.
    """
    if path is None or not path.exists():
        return LatencyTable(place)
    table = LatencyTable.load(path)
    if table.place != place:
        differing = [
            name for name, value in vars(place).items() if getattr(table.place, name) != value
        ]
        raise ArtefactError(
            f"{path}: the latency table was measured elsewhere; {', '.join(differing)} differ.",
            hint="Remove it to measure here, or name another file.",
        )
    return table


def width_grid(layers: Sequence[NetworkLayer]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output channels at which layers of one shape are measured.

    Raises:
        UsageError: The layers are of several shapes, or none.
    """
    shapes = {layer.shape for layer in layers}
    if len(shapes) != 1:
        raise UsageError(f"expected layers of one shape, got {len(shapes)} shapes.")
    (shape,) = shapes
    step = max(_LEAST_WIDTH, shape.unit)
    fixed_inputs = {layer.inputs for layer in layers if layer.reads_image}
    fixed_outputs = {layer.outputs for layer in layers if layer.gives_logits}
    outputs = _axis([layer.outputs for layer in layers], fixed_outputs, step)
    if shape.unit:
        return (0,), outputs  # a grouped convolution has as many inputs as outputs
    return _axis([layer.inputs for layer in layers], fixed_inputs, step), outputs


def time_models(
    models: Mapping[str, Path],
    target: Target,
    place: MeasurementContext,
    folder: Path,
    settings: MeasureSettings,
    *,
    signed_input: bool = True,
    shapes: Mapping[str, ShapeRange] | None = None,
) -> dict[str, Latency]:
    """Latencies of FP32 models, built in the precision of a place, that take turns.

    They are built with the target's options, and for ``shapes`` where their inputs have these.

    Raises:
        EdgeResError: As the quantizer and the backend's ``build`` and ``load``.
    """
    options = _options(target, place.precision)
    config = BuildConfig(target.device, place.threads, shapes or {}, options)
    with ExitStack() as stack:
        runners = {}
        for name, model in models.items():
            source = model
            if place.precision == "int8":
                source = folder / f"{name}.qdq.onnx"
                plain = QuantizeSettings(bias_correction="off")
                ranges = assumed_ranges(model, signed_input=signed_input)
                quantize(model, ranges, target.rules, source, plain)
            engine = target.backend.build(
                source, folder / f"{name}{target.backend.engine_suffix}", config
            )
            runners[name] = stack.enter_context(target.backend.load(engine, config))
        images = made_up_inputs(single_input(next(iter(runners.values()))), place.batch, count=2)
        return measure(runners, images, settings=settings)


def _options(target: Target, precision: Precision) -> dict[str, str]:
    """Options that engines are built with; for floats those that say their arithmetic."""
    if precision == "int8":
        return dict(target.config.options)
    left_out = target.backend.precision_options
    names = {"float16": "fp16", "bfloat16": "bf16"}
    builds = target.backend.float_builds(target.device)
    half = builds[names[precision]] if precision in names else {}
    return {k: v for k, v in target.config.options.items() if k not in left_out} | dict(half)


def liked_multiple(times: Mapping[int, float]) -> int:
    """The largest of 8, 16, 32 in whose multiples the time rises.

    Args:
        times: Milliseconds by number of channels, in steps of 8 from one multiple of 32 to the
            next.
    """
    for step in reversed(_STEPS):
        ends = {width: -(-width // step) * step for width in times}
        if all(times[w] >= (1 - _SAME) * times[end] for w, end in ends.items()):
            return step
    return _STEPS[0]


def _axis(widths: Sequence[int], fixed: set[int], step: int) -> tuple[int, ...]:
    if fixed and set(widths) <= fixed:
        return tuple(sorted(fixed))
    widest = max(widths)
    steps = {max(step, round(widest * share / step) * step) for share in SHARES[:-1]}
    return tuple(sorted({*(w for w in steps if w < widest), widest}))


def _times(
    shape: LayerShape,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    target: Target,
    place: MeasurementContext,
    settings: MeasureSettings,
) -> ShapeTimes:
    rows = []
    for width in inputs:
        points = [(width or out, out) for out in outputs]
        if shape.unit:  # inputs differ from point to point, and so do the images
            rows.append(tuple(_layer_ms(shape, [p], target, place, settings)[0] for p in points))
        else:
            rows.append(tuple(_layer_ms(shape, points, target, place, settings)))
    return ShapeTimes(inputs, outputs, tuple(rows))


def _layer_ms(
    shape: LayerShape,
    points: Sequence[tuple[int, int]],
    target: Target,
    place: MeasurementContext,
    settings: MeasureSettings,
) -> list[float]:
    """Milliseconds of one layer at points that share their input channels.

    From the least times: the second thread of a short engine sometimes wakes when the first has
    done all the work, so its median can be that of one thread where whole networks use both.
    """
    with temporary_folder() as folder:
        models = {}
        for (number, point), copies in product(enumerate(points), (1, _COPIES)):
            model = folder / f"{number}-{copies}.onnx"
            write_copies(shape, *point, copies, model, batch=place.batch)
            models[f"{number}-{copies}"] = model
        latencies = time_models(models, target, place, folder, settings, signed_input=shape.image)
    # Noise can make the difference of two short times negative; a layer takes some time at least.
    return [
        max(1e-4, (latencies[f"{n}-{_COPIES}"].min_ms - latencies[f"{n}-1"].min_ms) / (_COPIES - 1))
        for n in range(len(points))
    ]


def _with_multiples(
    table: LatencyTable, layers: Sequence[NetworkLayer], target: Target, settings: MeasureSettings
) -> LatencyTable:
    """Probes the convolution that does most work, at neighbouring widths."""
    plain = [
        layer
        for layer in layers
        if layer.shape.op == "Conv" and not layer.shape.unit and not layer.reads_image
    ]
    if not plain:
        return replace(table, multiples=Multiples())
    probe = max(plain, key=_work)
    longer = replace(settings, seconds=2 * settings.seconds)
    widths = dict(zip(("inputs", "outputs"), _probed_widths(probe), strict=True))
    middle = {side: axis[0] for side, axis in widths.items()}
    times: dict[str, dict[int, float]] = {}
    points = [(middle["inputs"], w) for w in widths["outputs"]]
    output_ms = _layer_ms(probe.shape, points, target, table.place, longer)
    times["outputs"] = dict(zip(widths["outputs"], output_ms, strict=True))
    times["inputs"] = {
        w: _layer_ms(probe.shape, [(w, middle["outputs"])], target, table.place, longer)[0]
        for w in widths["inputs"]
    }
    return replace(
        table,
        multiples=Multiples(
            inputs=liked_multiple(times["inputs"]), outputs=liked_multiple(times["outputs"])
        ),
        probes={
            side: {str(width): ms for width, ms in by_width.items()}
            for side, by_width in times.items()
        },
    )


def _work(layer: NetworkLayer) -> int:
    """Products a pixel of input; enough to choose the heaviest by."""
    shape = layer.shape
    area = shape.kernel[0] * shape.kernel[1] / (shape.strides[0] * shape.strides[1])
    return int(shape.size[0] * shape.size[1] * area * layer.inputs * layer.outputs)


def _probed_widths(layer: NetworkLayer) -> Iterator[tuple[int, ...]]:
    """From one multiple of 32 to the next in steps of 8, about half the layer's width."""
    for width in (layer.inputs, layer.outputs):
        first = max(32, width // 2 // 32 * 32)
        yield tuple(range(first, first + 32 + 1, 8))
