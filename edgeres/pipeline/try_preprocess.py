"""How the images of a network are likely prepared: what it says, or what answers best.

Most files say nothing of it, and a wrong guess costs accuracy without an error. Where images have
labels, the ways that frameworks use are tried on a few of them: first the numbers that pixels
become, then the way in which an image becomes as large as the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.types import Dataset
from edgeres.evaluation.permuted import best_label_map, exchanged_labels
from edgeres.evaluation.predict import BATCH
from edgeres.evaluation.predictions import Predictions
from edgeres.graph.session import open_session, run_session
from edgeres.pipeline.source import ModelFacts

FEWEST, MOST, OF_A_CLASS = 96, 400, 10
"""Labelled images on which ways are tried: so many of a class, between these."""
_ENOUGH_OF_A_CLASS = 5  # with fewer, an exchange of labels explains anything
_SHARE = 0.875  # torchvision's crop of 224 from a shorter side of 256
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE_BGR = (103.939, 116.779, 123.68)
#: A way is told as found where it is this much better than the answer that luck would give.
_ABOVE_LUCK = 2.0


@dataclass(frozen=True)
class Way:
    """One way of preparing images: its words, and the numbers."""

    words: str
    preprocess: Preprocess


@dataclass(frozen=True)
class Tried:
    """How images are likely prepared.

    Attributes:
        preprocess: The likely way.
        reason: Why, in words.
        certain: Whether the network says so itself, or labels showed it.
        shares: Words and share of right answers of each way that was tried, the best first.
        class_names: Names of the classes in the order of the scores, where the answers show that
            the data set numbers them otherwise; empty where they do not.
        note: What a person should know of that.
    """

    preprocess: Preprocess
    reason: str
    certain: bool
    shares: tuple[tuple[str, float], ...] = ()
    class_names: tuple[str, ...] = ()
    note: str = ""


def usual_size(shape: Sequence[int | None], layout: str) -> tuple[int, int] | None:
    """Height and width of a network's input, where the file fixes them."""
    sides = shape[1:3] if layout == "nhwc" else shape[2:4]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    return sides[0], sides[1]


def usual_ways(facts: ModelFacts) -> list[Way]:
    """What frameworks do to pixels, for a network of so many channels."""
    base = {"channels": facts.in_channels, "layout": facts.layout}

    def way(words: str, **values: object) -> Way:
        return Way(words, Preprocess.from_dict({**base, **values}))

    unit, centred = 1 / 255, {"scale": 1 / 255, "mean": [0.5], "std": [0.5]}
    plain = [
        way("pixels from 0 to 1", scale=unit),
        way("pixels from -1 to 1 (TensorFlow, Inception)", **centred),
        way("pixels from 0 to 255", scale=1.0),
    ]
    if facts.in_channels == 1:
        return [
            *plain,
            way("MNIST's mean and deviation", scale=unit, mean=[0.1307], std=[0.3081]),
            way("Fashion-MNIST's mean and deviation", scale=unit, mean=[0.286], std=[0.353]),
        ]
    if facts.in_channels != 3:
        return plain
    mean, std = (list(part) for part in _IMAGENET)
    imagenet = {"scale": unit, "mean": mean, "std": std}
    caffe = {"scale": 1.0, "mean": list(_CAFFE_BGR), "channel_order": "bgr"}
    return [
        way("ImageNet's mean and deviation (torchvision, timm)", **imagenet),
        *plain,
        way("Caffe's: BGR from 0 to 255 less ImageNet's mean (Keras' ResNet)", **caffe),
        way("ImageNet's mean and deviation, in BGR (OpenCV)", **imagenet, channel_order="bgr"),
        way("pixels from 0 to 1, in BGR", scale=unit, channel_order="bgr"),
    ]


def try_preprocess(
    onnx: Path, labelled: Dataset | None, facts: ModelFacts, size: tuple[int, int], *, small: bool
) -> Tried:
    """The likely preprocessing of a network.

    Args:
        onnx: The network in normal form.
        labelled: Images whose classes are the network's; ``None`` where there are none.
        facts: What the network says.
        size: Height and width that it takes.
        small: Whether images have that size already.

    Raises:
        EdgeResError: The network cannot be run, or no image be read.
    """
    if facts.preprocess is not None:
        return Tried(facts.preprocess, "the network says so itself", certain=True)
    ways = [Way(way.words, _sized(way.preprocess, size, small)) for way in usual_ways(facts)]
    if labelled is None:
        reason = "a guess: nothing says it, and without labels it cannot be tried. Check it"
        return Tried(ways[0].preprocess, reason, certain=False)
    wanted = min(MOST, max(FEWEST, OF_A_CLASS * facts.num_classes))
    judge = _Judge(onnx, take(labelled, min(wanted, len(labelled))))
    best, shares = _best(judge, ways)
    if not small and size[0] == size[1]:
        best, sized = _best(judge, [best, *_other_sizes(best, size[0])])
        shares += sized[1:] if sized[0][0] == best.words else sized
    share = max(value for _, value in shares)
    luck = judge.luck(best.preprocess)
    certain = share >= min(_ABOVE_LUCK * luck, (1 + luck) / 2)
    reason = (
        f"{best.words}: {share:.0%} right, the best of {len(shares)} ways on {judge.count} images"
        if certain
        else f"a guess: no usual way was right more often than luck ({share:.0%} at best). Say "
        "what the training did"
    )
    ordered = tuple(sorted(shares, key=lambda pair: -pair[1]))
    answers = judge.answers(best.preprocess)
    is_exchanged = judge.sees_order and bool(exchanged_labels(answers))
    if not is_exchanged or not answers.class_names:
        return Tried(best.preprocess, reason, certain, ordered)
    mapping, _ = best_label_map(answers)
    names = {new: answers.class_names[old] for old, new in enumerate(mapping)}
    note = (
        f"with the classes in the data set's order {float(answers.correct.mean()):.0%} are right, "
        f"in another order {share:.0%}. The recipe names them in the order that the answers show: "
        "look whether that is right."
    )
    in_order = tuple(names[number] for number in range(len(names)))
    return Tried(best.preprocess, reason, certain, ordered, in_order, note)


def _sized(preprocess: Preprocess, size: tuple[int, int], small: bool) -> Preprocess:
    if small:
        return preprocess
    if size[0] != size[1]:
        return replace(preprocess, resize=size)
    return replace(preprocess, resize=round(size[0] / _SHARE), crop=size[0])


def _other_sizes(best: Way, side: int) -> list[Way]:
    whole = replace(best.preprocess, resize=(side, side), crop=None)
    shorter = replace(best.preprocess, resize=side, crop=side)
    return [
        Way(f"{best.words}, the whole image squeezed to {side} x {side}", whole),
        Way(f"{best.words}, the shorter side {side}", shorter),
    ]


class _Judge:
    """How well a network answers labelled images, for one way of preparing them after the other."""

    def __init__(self, onnx: Path, dataset: Dataset) -> None:
        self._session = open_session(onnx.read_bytes())
        self._dataset = dataset
        self.count = len(dataset)
        counts = np.bincount(dataset.labels)
        #: Whether there are enough images of each class to see one order of classes for another.
        self.sees_order = int(counts[counts > 0].min()) >= _ENOUGH_OF_A_CLASS

    def answers(self, preprocess: Preprocess) -> Predictions:
        """The network's answers to images that are prepared in one way."""
        found: list[NDArray[np.float32]] = []
        given: list[NDArray[np.int64]] = []
        skipped = BadImages(max_share=0.5)
        for images, labels in batches(self._dataset, preprocess, BATCH, skipped=skipped):
            (scores,) = run_session(self._session, images).values()
            scores = scores.reshape(len(images), -1)
            if scores.shape[1] == 1:  # the probability of class 1 of two
                scores = np.concatenate([1 - scores, scores], axis=1)
            found.append(scores)
            given.append(labels)
        return Predictions(
            logits=np.concatenate(found),
            labels=np.concatenate(given),
            class_names=tuple(self._dataset.class_names),
        )

    def luck(self, preprocess: Preprocess) -> float:
        """Share of right answers that labels in any order would give, or the commonest label."""
        answers = self.answers(preprocess)
        mixed = np.random.default_rng(0).permutation(answers.labels)
        share, _ = self._judged(replace(answers, labels=mixed))
        return max(share, float(np.bincount(mixed).max()) / len(mixed))

    def __call__(self, preprocess: Preprocess) -> tuple[float, float]:
        """Share of right answers, and by how much the right score leads, for equal shares.

        Where the images show it, of whatever order the labels are in.
        """
        return self._judged(self.answers(preprocess))

    def _judged(self, answers: Predictions) -> tuple[float, float]:
        labels = answers.labels
        share = float(answers.correct.mean())
        if self.sees_order:
            mapping, share = best_label_map(answers)
            labels = np.array(mapping)[labels]
        scores = answers.logits.astype(np.float64)
        own = scores[np.arange(len(labels)), labels]
        lead = (own - scores.max(axis=1)) / (scores.std(axis=1) + 1e-12)
        return share, float(lead.mean())


def _best(judge: _Judge, ways: Sequence[Way]) -> tuple[Way, list[tuple[str, float]]]:
    found = [(judge(way.preprocess), way) for way in ways]
    _, best = max(found, key=lambda pair: pair[0])
    return best, [(way.words, share) for (share, _), way in found]
