"""The pruning stage: a trained network in, the same network with fewer channels out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeres.errors import DataError, ModelError, UsageError, one_line
from edgeres.layer_latency.bench import NetworkBench
from edgeres.layer_latency.predict import LatencyModel
from edgeres.models.build import build_model, read_plan
from edgeres.models.cost import count_parameters, layer_macs
from edgeres.models.plan import ChannelPlan
from edgeres.pruning.budget import Cost, MacsCost
from edgeres.pruning.confirm import confirm
from edgeres.pruning.confirmed import ConfirmedWidths
from edgeres.pruning.groups import ChannelGraph, ChannelGroup
from edgeres.pruning.latency_cost import LatencyCost, predicted_ms
from edgeres.pruning.masking import check_equal, silenced
from edgeres.pruning.recalibrate import recalibrate
from edgeres.pruning.reconstruct import FITTED, reconstruct
from edgeres.pruning.scores import needs_gradients, score_channels
from edgeres.pruning.signals import Batch
from edgeres.pruning.widths import chosen_widths, latency_problem, width_choices_of
from edgeres.recipe.prune import PruneSettings
from edgeres.system.progress import ProgressCallback

# Groups in layers with less than this share of the multiply-adds stay whole: narrowing the middle
# of a squeeze-and-excitation gate costs accuracy and saves nothing.
_NEGLIGIBLE = 5e-4
_PARITY = 1e-5


@dataclass(frozen=True)
class PruneResult:
    """A narrowed network and what was taken out of it.

    Attributes:
        module: An ordinary module in evaluation mode, batch normalization recalibrated.
        kept: Channels that stay, by group name and as indices into the original group.
        macs: Multiply-adds of one image, before and after.
        parameters: Before and after.
        latency_ms: Predicted, before and after, where a latency model was given.
        confirmed: How the widths were measured, where there was a bench to measure them on.
    """

    module: nn.Module
    kept: dict[str, tuple[int, ...]]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    latency_ms: tuple[float, float] | None = None
    confirmed: ConfirmedWidths | None = None

    @property
    def macs_ratio(self) -> float:
        """Multiply-adds after over before."""
        return self.macs[1] / self.macs[0]


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network of a known plan.

    Attributes:
        module: In evaluation mode, built from ``plan``.
        plan: From which :func:`~edgeres.models.build.build_model` builds one of the same shape.
        result: What was taken out.
    """

    module: nn.Module
    plan: ChannelPlan
    result: PruneResult


def prune(
    module: nn.Module,
    plan: ChannelPlan,
    settings: PruneSettings,
    batches: Iterable[Batch],
    *,
    latency: LatencyModel | None = None,
    bench: NetworkBench | None = None,
    progress: ProgressCallback | None = None,
) -> PrunedNetwork:
    """Prunes a network of a known plan and proves that the new plan rebuilds it.

    Args:
        module: Built from ``plan``; stays as it was.
        plan: Of that module.
        settings: How much and where.
        batches: Training images ``(N, C, H, W) float32``, preprocessed, and labels ``(N,) int64``;
            never test images.
        latency: What widths take on the device, for allocation ``latency``; of this very network,
            or of a wider one that it was narrowed from.
        bench: Where widths by latency are built and measured before they are kept; ``None`` trusts
            the prediction.
        progress: Called with (batches done, batches in all).

    Returns:
        The pruned module, its plan, and the account of what was taken out.

    Raises:
        UsageError: A budget below the floor, nothing that can be pruned, or allocation
            ``latency`` without a latency model.
        ModelError: An operation or shared weights that cannot be pruned; nothing was changed.
        DataError: No batches.
    """
    data = _take(batches, settings.samples)
    result = prune_module(module, settings, data, latency=latency, bench=bench, progress=progress)
    narrowed = read_plan(result.module, plan)
    rebuilt = build_model(narrowed)
    rebuilt.load_state_dict(result.module.state_dict())
    images = torch.from_numpy(data[0][0][:2])
    with torch.no_grad():
        expected = result.module(images.to(_device(result.module))).cpu()
        distance = float((rebuilt.eval()(images) - expected).abs().max())
    if not distance <= _PARITY * (1 + float(expected.abs().max())):
        raise ModelError(
            f"The network rebuilt from the pruned plan differs by {distance:.2g} in its outputs.",
            hint="The module was not built from the plan that was given.",
        )
    return PrunedNetwork(rebuilt, narrowed, result)


def prune_module(
    module: nn.Module,
    settings: PruneSettings,
    batches: Iterable[Batch],
    *,
    latency: LatencyModel | None = None,
    bench: NetworkBench | None = None,
    progress: ProgressCallback | None = None,
) -> PruneResult:
    """Prunes any residual classifier, of whatever library, without needing a plan.

    Args and Raises: as :func:`prune`.
    """
    data = _take(batches, settings.samples)
    channels, height, width = data[0][0].shape[1:]
    shape = (channels, height, width)
    narrow = copy.deepcopy(module).eval()
    whole_macs = sum(layer_macs(narrow, shape).values())
    whole_parameters = count_parameters(narrow)
    kept: dict[str, tuple[int, ...]] = {}
    whole: dict[str, int] = {}  # channels before the first round
    whole_groups: Sequence[ChannelGroup] = ()
    whole_module = copy.deepcopy(module)  # in evaluation mode while weights are fitted to it
    by_latency = settings.allocation == "latency"
    if by_latency and latency is None:
        raise UsageError(
            "Allocation 'latency' needs a latency model of the network.",
            hint="Use `edgeres convert` or `edgeres prune`, or give latency_model(...).",
        )
    dense_cost = latency.dense_ms if by_latency and latency is not None else whole_macs
    share = settings.target_latency if settings.target_latency is not None else settings.macs_ratio
    budget = share * dense_cost
    confirmed: ConfirmedWidths | None = None
    steps = settings.iterative_steps
    done = _Counter(progress, prune_steps(module, settings, data))
    for step in range(steps):
        graph = ChannelGraph(narrow, shape)
        costs = MacsCost(graph.groups, layer_macs(narrow, shape))
        groups = _prunable(graph.groups, costs, settings)
        whole_groups = whole_groups or graph.groups
        scores = score_channels(
            narrow,
            groups,
            done.watch(data) if needs_gradients(settings.importance) else data,
            kind=settings.importance,
            normalization=settings.normalization,
        )
        # Equal factors: each round takes the same share of what is left.
        step_budget = max(dense_cost * share ** ((step + 1) / steps), budget)
        whole.update({g.name: g.channels for g in groups if g.name not in whole})
        last = step + 1 == steps
        cost: Cost = costs
        if by_latency and latency is not None:
            cost = LatencyCost(graph.groups, latency)
        if by_latency and latency is not None and bench is not None and last:
            choices = width_choices_of(groups, scores, settings, whole)
            problem = latency_problem(graph.groups, choices, costs, latency, step_budget)
            confirmed = confirm(problem, latency, bench)
            widths = dict(confirmed.widths)
        else:
            widths = chosen_widths(groups, scores, cost, settings, step_budget, whole)
        removed = {g.name: _weakest(scores[g.name], g, widths[g.name]) for g in groups}
        for group in groups:
            before = kept.get(group.name, tuple(range(group.channels)))
            gone = set(removed[group.name])
            kept[group.name] = tuple(c for i, c in enumerate(before) if i not in gone)
        _remove(graph, removed, data[0][0][:4])
        if not (
            settings.reconstruct
            and _reconstructed(narrow, whole_module, whole_groups, kept, data, done.one)
        ):
            recalibrate(narrow, data)
    done.finish()
    for name, parameter in narrow.named_parameters():
        parameter.requires_grad_(module.get_parameter(name).requires_grad)
    return PruneResult(
        module=narrow,
        kept=kept,
        macs=(whole_macs, sum(layer_macs(narrow, shape).values())),
        parameters=(whole_parameters, count_parameters(narrow)),
        latency_ms=None
        if latency is None
        else (
            predicted_ms(module, latency),
            predicted_ms(narrow, latency) if confirmed is None else confirmed.predicted_ms,
        ),
        confirmed=confirmed,
    )


def _remove(
    graph: ChannelGraph, removed: dict[str, list[int]], images: NDArray[np.float32]
) -> None:
    """Narrows the graph's module and compares it with the module before, channels silenced."""
    module = graph.module
    sample = torch.from_numpy(images).to(_device(module))
    with torch.no_grad():
        with silenced(module, graph.groups, removed):
            expected = module(sample)
        graph.remove(removed)
        try:
            answers = module(sample)
        except RuntimeError as error:
            raise ModelError(
                f"The pruned network does not run: {one_line(error)}.",
                hint="Channels are coupled in a way that the dependency graph does not see.",
            ) from error
    check_equal(expected, answers)


def _reconstructed(
    narrow: nn.Module,
    dense: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    data: Sequence[Batch],
    fitted: Callable[[], None],
) -> bool:
    """Reconstructs; where the code of a network cannot be followed, says so and changes nothing."""
    try:
        reconstruct(narrow, dense, groups, kept, data, fitted=fitted)
    except ModelError as error:
        warnings.warn(f"The layers are not reconstructed: {error.message}", stacklevel=2)
        return False
    return True


def _prunable(
    groups: Sequence[ChannelGroup], costs: MacsCost, settings: PruneSettings
) -> list[ChannelGroup]:
    """Groups that may be narrowed; every name in the settings must be a group's."""
    names = {group.name for group in groups}
    for name in (*settings.ignored_groups, *settings.widths):
        if name not in names:
            raise UsageError(
                f"Expected the name of a channel group, got '{name}'.",
                hint=f"Groups are named by their first convolution: {', '.join(sorted(names))}.",
            )
    return [
        group
        for group in groups
        if group.name not in settings.ignored_groups
        and (group.name in settings.widths or costs.share_of(group) >= _NEGLIGIBLE)
    ]


def _weakest(scores: NDArray[np.float64], group: ChannelGroup, width: int) -> list[int]:
    """Channels to remove so that ``width`` stay: whole units, the lowest scores first."""
    order = np.argsort(scores.reshape(-1, group.unit).sum(axis=1), kind="stable")
    units = order[: (group.channels - width) // group.unit]
    return sorted(int(u) * group.unit + i for u in units for i in range(group.unit))


def _take(batches: Iterable[Batch], samples: int) -> list[Batch]:
    """The first ``samples`` images, kept in memory: they are run more than once."""
    taken: list[Batch] = []
    for images, labels in batches:
        taken.append((images[:samples], labels[:samples]))
        samples -= len(taken[-1][0])
        if samples <= 0:
            break
    if not taken:
        raise DataError("Pruning needs images; got none.", hint="Give training images.")
    return taken


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def prune_steps(module: nn.Module, settings: PruneSettings, batches: Sequence[Batch]) -> int:
    """How many steps a pruning tells: batches that are looked at and layers that are fitted."""
    looked_at = len(batches) if needs_gradients(settings.importance) else 0
    fitted = sum(isinstance(part, FITTED) for part in module.modules())
    return settings.iterative_steps * (looked_at + (fitted if settings.reconstruct else 0)) + 1


class _Counter:
    """Counts steps for the progress callback."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def watch(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Passes the batches on and reports each."""
        for batch in batches:
            yield batch
            self.one()

    def one(self) -> None:
        """Reports one step."""
        self._done = min(self._done + 1, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        """Reports the end."""
        self._done = self._total - 1
        self.one()
