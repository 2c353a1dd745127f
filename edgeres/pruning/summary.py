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
class PruneSummary:
    """What pruning and fine-tuning gave.

    Attributes:
        macs_ratio: Multiply-adds after over before.
        held_out_top1: After fine-tuning, on the held-out images; ``None`` without fine-tuning.
        dense_latency_ms: Measured, of the dense network; ``None`` where latency did not count.
        predicted_latency_ms: Of the pruned network, before it was built; likewise.
        confirmed: How the widths were measured; ``None`` where they were not.
        metadata: All that the checkpoint says of it, text by text.
    """

    macs_ratio: float
    held_out_top1: float | None
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
            held_out_top1=_number(texts, "held_out_top1", where),
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
