"""Answers to the parts of one set, put together as if one process had given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeres.errors import DataError
from edgeres.evaluation.predictions import Predictions
from edgeres.tasks.answers import Answers


def joined(
    parts: Sequence[Predictions | Answers], *, name: str, model_sha256: str, data_fingerprint: str
) -> Predictions | Answers:
    """Puts parts together in their order.

    Args:
        parts: Answers of one engine to parts of one set, all of one task.
        name: What answered, for messages and reports.
        model_sha256: Hash of the file that answered.
        data_fingerprint: Of the whole set.

    Raises:
        DataError: There are none, or they are of several tasks.
    """
    if not parts:
        raise DataError("no sample was answered: none can be decoded.", hint="Repair the data set.")
    sketches = [part.sketches for part in parts if part.sketches is not None]
    about: dict[str, Any] = {
        "name": name,
        "model_sha256": model_sha256,
        "data_fingerprint": data_fingerprint,
        "class_names": parts[0].class_names,
        "sketches": np.concatenate(sketches) if len(sketches) == len(parts) else None,
    }
    classes = [part for part in parts if isinstance(part, Predictions)]
    if len(classes) == len(parts):
        logits = np.concatenate([part.logits for part in classes])
        labels = np.concatenate([part.labels for part in classes])
        return Predictions(logits, labels, **about)
    rows = [part.rows for part in parts if isinstance(part, Answers)]
    if len(rows) < len(parts) or any(one.keys() != rows[0].keys() for one in rows):
        raise DataError("the parts are answers for different tasks.", hint="Run again.")
    return Answers({row: np.concatenate([one[row] for one in rows]) for row in rows[0]}, **about)
