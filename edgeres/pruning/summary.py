"""What is known of a pruned network, as its checkpoint carries it. No torch is imported here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from edgeres.errors import ArtefactError
from edgeres.pruning.confirmed import ConfirmedWidths
from edgeres.system.child import JsonValue

CONFIRMED = "confirmed_widths"
"""Metadata: how widths by latency were measured before they were kept (JSON)."""
_SETTINGS = "pruning"


@dataclass(frozen=True)
class Sizes:
    """Multiply-adds of one image and parameters, each before and after."""

    macs: tuple[int, int]
    parameters: tuple[int, int]

    @staticmethod
    def of(texts: Mapping[str, str], where: str) -> Sizes | None:
        """Reads them of metadata; ``None`` where a figure is not there.

        Raises:
            ArtefactError: A figure is no number.
        """
        names = ("dense_macs", "macs", "dense_parameters", "parameters")
        found = [_number(texts, name, where) for name in names]
        numbers = [int(number) for number in found if number is not None]
        if len(numbers) < len(names):
            return None
        return Sizes((numbers[0], numbers[1]), (numbers[2], numbers[3]))

    def __str__(self) -> str:
        macs, parameters = (f"{a:,} of {b:,}" for b, a in (self.macs, self.parameters))
        return f"({macs}), {parameters} parameters"


@dataclass(frozen=True)
class PruneSummary:
    """What pruning and fine-tuning gave.

    Attributes:
        macs_ratio: Multiply-adds after over before.
        sizes: What the network was and is, where the metadata say so.
        dense_top1: Before pruning, on the held-out images.
        untrained_top1: After pruning and before fine-tuning, on those.
        held_out_top1: After fine-tuning, on those; ``None`` without fine-tuning.
        sqnr_db: How near the outputs are to the dense network's, where it was an ONNX file.
        agreement: Share of equal classes, likewise.
        dense_latency_ms: Measured, of the dense network; ``None`` where latency did not count.
        predicted_latency_ms: Of the pruned network, before it was built; likewise.
        confirmed: How the widths were measured; ``None`` where they were not.
        metadata: All that the checkpoint says of it, text by text.
    """

    macs_ratio: float
    sizes: Sizes | None
    dense_top1: float | None
    untrained_top1: float | None
    held_out_top1: float | None
    sqnr_db: float | None
    agreement: float | None
    dense_latency_ms: float | None
    predicted_latency_ms: float | None
    confirmed: ConfirmedWidths | None
    metadata: Mapping[str, str]

    @staticmethod
    def of(metadata: Mapping[str, str], where: str) -> PruneSummary:
        """Reads the metadata of a pruned checkpoint.

        Args:
            metadata: The texts; the settings of pruning among them are left out.
            where: What they are of, for the error.

        Raises:
            ArtefactError: A figure is missing, or is no number.
        """
        texts = {key: value for key, value in metadata.items() if key != _SETTINGS}
        ratio = _number(texts, "macs_ratio", where)
        if ratio is None:
            raise ArtefactError(f"{where}: macs_ratio: is missing.", hint="Prune it again.")
        return PruneSummary(
            macs_ratio=ratio,
            sizes=Sizes.of(texts, where),
            dense_top1=_number(texts, "dense_held_out_top1", where),
            untrained_top1=_number(texts, "untrained_held_out_top1", where),
            held_out_top1=_number(texts, "held_out_top1", where),
            sqnr_db=_number(texts, "sqnr_db", where),
            agreement=_number(texts, "agreement", where),
            dense_latency_ms=_number(texts, "dense_latency_ms", where),
            predicted_latency_ms=_number(texts, "predicted_latency_ms", where),
            confirmed=ConfirmedWidths.from_json(texts[CONFIRMED], f"{where}: {CONFIRMED}")
            if CONFIRMED in texts
            else None,
            metadata=texts,
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """The metadata as JSON values, what was measured of the widths spelled out."""
        confirmed = {} if self.confirmed is None else {CONFIRMED: self.confirmed.to_dict()}
        return {**self.metadata, **confirmed}

    def lines(self) -> tuple[str, ...]:
        """What a person reads: size, and top-1 on the held-out images, before and after."""
        size = f"{100 * self.macs_ratio:.1f} % of the multiply-adds"
        if self.sizes is not None:
            size += f" {self.sizes}"
        steps = (
            (self.dense_top1, "dense"),
            (self.untrained_top1, "pruned"),
            (self.held_out_top1, "fine-tuned"),
        )
        told = [f"{100 * top1:.2f} % {what}" for top1, what in steps if top1 is not None]
        lines = [size]
        if told:
            lines.append(f"top-1 on the held-out images: {', '.join(told)}")
        if self.sqnr_db is not None:
            lines.append(f"outputs there against the dense network's: {self.sqnr_db:.1f} dB")
        if self.agreement is not None:
            lines[-1] += f", {100 * self.agreement:.2f} % equal classes"
        return tuple(lines)

    def to_json(self) -> str:
        """The metadata as they are; read them with ``dict[str, str]`` and :meth:`of`."""
        return json.dumps(dict(self.metadata), indent=1)


def _number(texts: Mapping[str, str], name: str, where: str) -> float | None:
    if name not in texts:
        return None
    try:
        return float(texts[name])
    except ValueError as error:
        raise ArtefactError(
            f"{where}: {name}: expected a number, got {texts[name]!r}.", hint="Prune it again."
        ) from error
