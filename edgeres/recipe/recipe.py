"""What a recipe may say: every block, key, type, range and default.

A recipe is data for one run of :func:`edgeres.convert`. The classes here are the whole schema;
:mod:`edgeres.pipeline.recipe_file` reads YAML into them and turns what is wrong into file, line and
key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeres.backends import target_names
from edgeres.data.preprocess import Layout
from edgeres.errors import RecipeError
from edgeres.recipe.block import Block, Many, OpenShare, complaint
from edgeres.recipe.gates import GatesBlock
from edgeres.recipe.preprocess import PreprocessBlock, Side
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.quantize import QuantizeBlock

if TYPE_CHECKING:
    from edgeres.backends.base import BuildConfig

Axes = Many[Annotated[int, Field(ge=1)]]
LEFT_OUT: Final = object()
"""In place of a value: nobody says the key."""


class ModelBlock(Block):
    """The trained network: an architecture with weights, a checkpoint, code, or an ONNX file."""

    source: str = Field(
        description="Checkpoint or its folder, .onnx, .keras, .pt2, architecture name, or "
        "FILE.py:FUNCTION, code that returns a torch module."
    )
    weights: str | None = Field(
        default=None, description="Weights for a named architecture or for code."
    )
    num_classes: int | None = Field(default=None, ge=2)
    labels: str | None = Field(
        default=None,
        description="File of class names in the order of the scores: one a line, or JSON; what the "
        "checkpoint says where left out.",
    )
    declared_top1: OpenShare | None = Field(
        default=None, description="Top-1 that the model is known to reach, in (0, 1); checked."
    )
    sample_answer: str | None = Field(
        default=None,
        description=".npz with `inputs` (N, C, H, W) and the `outputs` (N, classes) that the "
        "checkpoint's own library gives for them; checked.",
    )
    outputs: Many[str] | None = Field(
        default=None,
        min_length=1,
        description="The outputs of an .onnx file or a module that are kept, where it has several, "
        "or tensors inside the network; a classifier has one.",
    )
    input_size: Annotated[tuple[Side, Side], Field(strict=False)] | None = Field(
        default=None,
        description="[height, width] of an .onnx file or a module that leaves them open; what "
        "the preprocessing gives where left out.",
    )
    given_scales: Literal["remove", "keep"] | None = Field(
        default=None,
        description="Of an .onnx file that another tool has quantized. remove: take its scales out "
        "and quantize it anew; keep: build and judge it with them. Without it such a file is "
        "refused.",
    )


class TaskBlock(Block):
    """What an output means; the keys beside these are the task's own."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(
        description="classification, outputs, regression, embedding and so on; custom with "
        "`function: FILE.py:FUNCTION`."
    )
    output: str | None = Field(
        default=None, description="The output that it reads, where there are several."
    )
    target: str | None = Field(
        default=None, description="The target that it is held against, where there are several."
    )


class DataBlock(Block):
    """Where calibration, validation and training images come from."""

    calibration: str = "fashion-mnist"
    validation: str = "fashion-mnist"
    train: str | None = Field(default=None, description="Needed only where fine-tuning has to run.")
    calibration_samples: int = Field(default=512, ge=2)
    validation_samples: int | None = Field(default=None, ge=1)


class ExportSettings(Block):
    """Torch to ONNX, and what the engines are fed."""

    opset: int = Field(default=20, ge=20, le=24)
    dynamic_batch: bool = True
    input: Literal["float", "uint8"] = Field(
        default="float",
        description="uint8: engines take the resized image as bytes; scale, mean, std and channel "
        "order are inside.",
    )
    input_layout: Layout = Field(
        default="nhwc", description="Of an input of bytes: as images lie in memory, or planes."
    )

    def of_torch(self) -> dict[str, object]:
        """What of it torch's exporter sees, as JSON values."""
        return self.model_dump(mode="json", include={"opset", "dynamic_batch"})

    @model_validator(mode="after")
    def _a_layout_is_of_bytes(self) -> ExportSettings:
        if self.input_layout != "nhwc" and self.input == "float":
            raise ValueError(
                "`input_layout` is of an input of bytes; say `input: uint8`, or leave it out"
            )
        return self


class BenchmarkBlock(Block):
    """How latency is measured."""

    batch_size: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=4.0, gt=0.0, le=120.0, description="For each engine.")


class ReportBlock(Block):
    """What is measured for the report page beside what the verdict needs."""

    layers: bool = Field(
        default=False,
        description="Measure SQNR and sensitivity of every layer; the page shows them.",
    )
    layer_samples: int = Field(default=64, ge=1, description="Validation images for that.")


class ShapesBlock(Block):
    """Shape range of one input, the batch first, for engines that are made for a range."""

    min: Axes
    opt: Axes
    max: Axes

    @model_validator(mode="after")
    def _ranges_rise(self) -> ShapesBlock:
        if len({len(self.min), len(self.opt), len(self.max)}) > 1 or not all(
            low <= usual <= high
            for low, usual, high in zip(self.min, self.opt, self.max, strict=True)
        ):
            raise ValueError("`min`, `opt` and `max` expect one length and rising numbers")
        return self


OptionValue = bool | int | float | str


class BuildBlock(Block):
    """How one target's engine is built and run; the target knows which options there are."""

    device: str | None = Field(
        default=None,
        description="Where it is quantized for, built, proven and measured: cpu, cuda:N, gpu:N, "
        "npu or auto; the target's first if none.",
    )
    options: dict[str, OptionValue | Many[OptionValue]] = Field(
        default={}, description="The target's own options; see its page in docs/."
    )
    shapes: dict[str, ShapesBlock] = Field(
        default={}, description="Shape range by input name; TensorRT only."
    )

    def to_config(self, device: str) -> BuildConfig:
        """The same for a backend: option values as text, lists with commas."""
        from edgeres.backends.base import BuildConfig, ShapeRange

        return BuildConfig(
            device=device,
            shapes={
                name: ShapeRange(block.min, block.opt, block.max)
                for name, block in self.shapes.items()
            },
            options={name: _as_text(value) for name, value in self.options.items()},
        )


class Recipe(Block):
    """One run of the pipeline, from a trained network to proven engines."""

    name: str = "model"
    model: ModelBlock
    preprocess: PreprocessBlock | None = None
    task: Many[TaskBlock] = Field(
        default=(),
        description="What the outputs mean: a task or its name, or a list with one for each head; "
        "classification where left out.",
    )
    data: DataBlock = DataBlock()
    prune: PruneSettings | None = None
    quantize: QuantizeBlock = QuantizeBlock()
    export: ExportSettings = ExportSettings()
    targets: Many[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    build: dict[str, BuildBlock] = Field(
        default={}, description="Options and shapes of a target's engines, by target."
    )
    gates: GatesBlock = GatesBlock()
    benchmark: BenchmarkBlock = BenchmarkBlock()
    report: ReportBlock = ReportBlock()

    @model_validator(mode="after")
    def _targets_exist_once(self) -> Recipe:
        known = (*target_names(), "all")
        for target in self.targets:
            if target not in known:
                raise ValueError(f"`targets`: no target {target!r}; choose of: {', '.join(known)}")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("`targets`: each may be named once")
        for target in self.build:
            if target not in known[:-1]:
                raise ValueError(
                    f"`build`: no target {target!r}; choose of: {', '.join(known[:-1])}"
                )
        wanted = None if self.prune is None else self.prune.latency_on
        if wanted is not None and wanted not in known[:-1]:
            raise ValueError(
                f"`prune.latency_on`: no target {wanted!r}; choose of: {', '.join(known[:-1])}"
            )
        return self

    @field_validator(
        "prune", mode="before", json_schema_input_type=PruneSettings | Literal["auto"] | None
    )
    @classmethod
    def _auto_keeps_what_is_faster(cls, said: object) -> object:
        return {"only_if_faster": True} if said == "auto" else said

    @field_validator(
        "task",
        mode="before",
        json_schema_input_type=str | TaskBlock | tuple[str | TaskBlock, ...] | None,
    )
    @classmethod
    def _one_task_is_a_list(cls, said: object) -> object:
        tasks = () if said is None else [said] if isinstance(said, Mapping | str) else said
        if not isinstance(tasks, list | tuple):
            return tasks
        return [{"name": task} if isinstance(task, str) else task for task in tasks]

    @property
    def is_classifier(self) -> bool:
        """Whether one output with class scores is judged by its labels."""
        return not self.task or (
            len(self.task) == 1
            and self.task[0].model_dump(exclude_none=True) == {"name": "classification"}
        )

    @property
    def kept_outputs(self) -> tuple[str, ...]:
        """Outputs of the network that a run keeps; empty where nobody names any."""
        if self.model.outputs is not None:
            return self.model.outputs
        read = [block.output for block in self.task if block.output is not None]
        return tuple(read) if len(read) == len(self.task) else ()

    @model_validator(mode="after")
    def _a_drop_of_top1_is_a_share(self) -> Recipe:
        drop = self.gates.drop_of("top1")
        if self.is_classifier and self.gates.beside_top1:
            raise ValueError(
                f"`gates`: plain classification gates the drop of top1, not "
                f"{self.gates.beside_top1}; name the output of the scores, "
                "`task: {name: classification, output: NAME}`, to have top1, top5 and balanced "
                "with floors"
            )
        if self.is_classifier and drop is not None and not -100.0 <= drop <= 100.0:
            raise ValueError(
                f"`gates.max_drop`: expected -100 to 100 percentage points of top-1, got {drop:g}"
            )
        return self

    @model_validator(mode="after")
    def _budgets_of_classes_are_for_classifiers(self) -> Recipe:
        block = self.quantize.mixed_precision
        if self.is_classifier or block is None:
            return self
        if block.min_agreement is not None:
            raise ValueError(
                "`quantize.mixed_precision`: `min_agreement` is about classes; for the task "
                f"{self.task[0].name} `max_drop` or `min_sqnr_db` is the budget"
            )
        return self

    @model_validator(mode="after")
    def _a_classifier_has_one_output(self) -> Recipe:
        if self.is_classifier and len(self.model.outputs or ()) > 1:
            raise ValueError(
                "`model.outputs`: a classifier has one; for several say what they mean, "
                "`task: {name: outputs}` or one task for each"
            )
        return self

    @model_validator(mode="after")
    def _kept_scales_are_not_changed(self) -> Recipe:
        block = self.quantize
        changes = {
            "quantize.qat": block.qat is not None,
            "quantize.mixed_precision": block.mixed_precision is not None,
            "quantize.equalize": block.equalize,
            "quantize.precision": block.precision != "int8",
            "export.input": self.export.input != "float",
        }
        asked = [name for name, is_asked in changes.items() if is_asked]
        if self.model.given_scales == "keep" and asked:
            raise ValueError(
                f"`model.given_scales`: kept scales stay as they are; leave {asked[0]} out, or "
                "remove them"
            )
        return self

    @model_validator(mode="after")
    def _a_batch_fits_the_network(self) -> Recipe:
        exported = not is_onnx(self.model.source)
        if exported and self.benchmark.batch_size > 1 and not self.export.dynamic_batch:
            raise ValueError(
                f"`benchmark.batch_size` of {self.benchmark.batch_size} needs "
                "`export: {dynamic_batch: true}`"
            )
        return self

    def override(self, changes: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Returns a copy with dotted keys replaced, e.g. ``{"gates.max_drop": 1.0}``.

        Args:
            changes: New values by dotted key; :data:`LEFT_OUT` takes the key out.
            where: Who says so, for the message.

        Raises:
            RecipeError: The result is not a valid recipe.
        """
        data = self.model_dump(exclude_unset=True)  # what is left out stays left out
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            target = data
            for key in parents:
                if target.get(key) is None:
                    target[key] = {}
                target = target[key]
            target[last] = value
            if value is LEFT_OUT:
                del target[last]
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            raise RecipeError(f"{where}: {complaint(error, Recipe)[1]}") from error


def _as_text(value: OptionValue | tuple[OptionValue, ...]) -> str:
    if isinstance(value, tuple):
        return ",".join(_as_text(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (written to ``recipes/recipe.schema.json``)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(),
        "title": "edgeres recipe",
    }


def is_onnx(source: str) -> bool:
    """True where a model source is an ONNX file rather than a checkpoint or an architecture."""
    return Path(source).suffix.lower() == ".onnx"
