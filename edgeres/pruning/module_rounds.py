"""Pruning and training of a module without a plan, round by round, in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.models.cost import count_macs, count_parameters
from edgeres.pruning.narrowed import joined, pruned_round
from edgeres.pruning.prune import prune_steps
from edgeres.pruning.rounds import round_settings, steps_of, trainings_of
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.system.progress import ProgressCallback
from edgeres.training.loop import fit
from edgeres.training.objective import Classes, Following


@dataclass(frozen=True)
class ModuleRounds:
    """How a module is pruned and trained.

    Attributes:
        block: The recipe's ``prune:`` block.
        preprocess: How an image becomes numbers.
        shape: One image, ``(C, H, W)``.
        work: Folder of the resumable state and the logs.
        classes: Whether training learns classes; else it follows the dense network's outputs.
        progress: Called with (steps done, steps in all), of pruning and of training.
    """

    block: PruneSettings
    preprocess: Preprocess
    shape: tuple[int, int, int]
    work: Path
    classes: bool
    progress: ProgressCallback

    def run(
        self, dense: nn.Module, data: list[Batch], train_set: Dataset, held_out: Dataset
    ) -> tuple[nn.Module, dict[str, str], dict[str, list[int]]]:
        """Prunes and trains.

        Args:
            dense: The network; it stays as it was where nothing trains it sparse.
            data: Images and labels for importance, statistics and reconstruction.
            train_set: What is learned from.
            held_out: What chooses the epoch.

        Returns:
            The small network, what is known of it text by text, and the channels that each group
            of the dense network kept.

        Raises:
            EdgeResError: As :func:`edgeres.pruning.prune.prune_module` and
                :func:`edgeres.training.loop.fit`.
        """
        block, shape = self.block, self.shape
        trainings = trainings_of(block)
        rounds = len(trainings)
        pruning = prune_steps(dense, round_settings(block, 0.5), data)
        total = sum(steps_of(training, train_set) for training in (block.sparse, *trainings))
        total += rounds * pruning
        done = 0

        def tell(step: int, _: int) -> None:
            self.progress(done + step, total)

        module, notes, kept = dense, dict[str, str](), dict[str, list[int]]()
        if block.sparse is not None:
            module = _trainable(module)
            state, _ = fit(
                module, block.sparse, train_set, held_out, self.work / "sparse",
                preprocess=self.preprocess, progress=tell,
            )  # fmt: skip
            module.load_state_dict(state.best)
            done += steps_of(block.sparse, train_set)
        whole_macs = count_macs(dense, shape)
        notes["dense_macs"] = str(whole_macs)
        notes["dense_parameters"] = str(count_parameters(dense))
        for index, training in enumerate(trainings):
            folder = self.work if rounds == 1 else self.work / f"round-{index + 1}"
            share = block.macs_ratio ** ((index + 1) / rounds) * whole_macs
            share /= count_macs(module, shape)
            if block.allocation == "per_layer" or share < 1:
                settings = round_settings(block, share)
                module, found = pruned_round(module, settings, data, shape, folder, progress=tell)
                kept = joined(kept, found)
            done += pruning
            if training is not None:
                module = _trainable(module)
                state, _ = fit(
                    module, training, train_set, held_out, folder, preprocess=self.preprocess,
                    teacher=dense if training.distill else None, keep_start=True,
                    objective=Classes() if self.classes else Following(), progress=tell,
                )  # fmt: skip
                module.load_state_dict(state.best)
                name = "held_out_top1" if self.classes else "held_out_sqnr_db"
                notes[f"untrained_{name}"] = f"{state.start_score:.4f}"
                notes[name] = f"{state.best_score:.4f}"
                done += steps_of(training, train_set)
        macs = count_macs(module, shape)
        notes["macs"], notes["macs_ratio"] = str(macs), f"{macs / whole_macs:.6f}"
        notes["parameters"] = str(count_parameters(module))
        return module, notes, kept


def _trainable(module: nn.Module) -> nn.Module:
    return module.train().requires_grad_(True)
