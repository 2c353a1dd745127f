"""The recipe's `prune:`, which is what the pruning stage takes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from edgeres.recipe.block import Block, Many, OpenShare
from edgeres.recipe.training import FinetuneSettings, SparseSettings

Importance = Literal["l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian"]
Normalization = Literal["none", "mean", "lamp"]
Allocation = Literal["uniform", "global", "latency", "per_layer"]


class PruneSettings(Block):
    """Structured channel pruning: how much, where, what is kept, how accuracy is recovered."""

    # Which device counts is in the key by its latency table; what is kept is decided after all.
    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset({"latency_on", "only_if_faster"})

    importance: Importance = Field(default="taylor_hessian", description="What a channel is worth.")
    normalization: Normalization = Field(
        default="none",
        description="Makes scores of groups comparable; the taylor ones are in units of the loss.",
    )
    allocation: Allocation = Field(
        default="global",
        description="uniform: the same share of every group; global: what loses least importance "
        "for the multiply-adds it saves; latency: for the milliseconds; per_layer: `widths`.",
    )
    macs_ratio: OpenShare = Field(
        default=0.5, description="MACs kept, as a share of the dense (uniform, global)."
    )
    widths: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={},
        description="Kept channels by group, which has the name of its first convolution "
        "(per_layer); a group that is not named stays whole.",
    )
    round_to: int = Field(default=8, ge=1, description="Widths are multiples of this.")
    iterative_steps: int = Field(
        default=1, ge=1, le=100, description="Importance is computed again before each."
    )
    samples: int = Field(
        default=1024, ge=2, description="Images for importance and for batch normalization."
    )
    reconstruct: bool = Field(
        default=True,
        description="Fit what is left to the dense network's layers by least squares; no labels.",
    )
    finetune: FinetuneSettings | None = Field(
        default=FinetuneSettings(), description="None trains nothing."
    )
    target_latency: OpenShare | None = Field(
        default=None, description="Share of the dense INT8 latency to reach (latency)."
    )
    latency_on: str | None = Field(
        default=None, description="Target whose latency counts; the first that runs here if none."
    )
    min_share: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Least share of a group's channels that stays."
    )
    ignored_groups: Many[str] = Field(default=(), description="Groups that stay whole.")
    only_if_faster: bool = Field(
        default=False,
        description="Keep the dense network where pruning makes no INT8 engine 3 % faster.",
    )
    seed: int = Field(default=0, description="Chooses the images for importance.")
    epochs_between: int = Field(
        default=0, ge=0, description="Epochs of training after each step but the last."
    )
    sparse: SparseSettings | None = Field(
        default=None, description="Sparse learning first; best with importance: bn_scale."
    )

    @model_validator(mode="after")
    def _allocation_has_what_it_needs(self) -> PruneSettings:
        for name, allocation in (("target_latency", "latency"), ("widths", "per_layer")):
            if (self.allocation == allocation) != bool(getattr(self, name)):
                raise ValueError(f"`{name}` goes with `allocation: {allocation}`, and only with it")
        if "macs_ratio" in self.model_fields_set and self.allocation not in ("global", "uniform"):
            raise ValueError(
                "`macs_ratio` goes with `allocation: global` or `uniform`; "
                f"{self.allocation} goes by something else"
            )
        if self.latency_on is not None and self.allocation != "latency":
            raise ValueError("`latency_on` goes with `allocation: latency`, and only with it")
        return self

    @model_validator(mode="after")
    def _training_between_has_a_between(self) -> PruneSettings:
        if self.epochs_between and (self.finetune is None or self.iterative_steps == 1):
            raise ValueError("`epochs_between` needs `finetune` and `iterative_steps` above 1")
        return self
