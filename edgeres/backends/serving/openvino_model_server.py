"""OpenVINO Model Server: ``config.json`` and ``MODEL/1/`` with the IR.

Keys are those that its documentation lists under "Model Server Parameters". Paths are relative to
``config.json``, so the folder works wherever it is mounted.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgeres.backends.base import Engine
from edgeres.backends.serving._model import ServedModel


class OpenVinoModelServer:
    """See :class:`edgeres.backends.serving.Server`."""

    def refusal(self, engine: Engine) -> str | None:
        """It reads other formats too, but their Q/DQ is placed for another engine."""
        return None if engine.backend == "openvino" else "It runs engines of openvino only."

    def write(self, models: list[ServedModel], folder: Path) -> None:
        """Writes one folder for each model, and the configuration of all."""
        entries = []
        for model in models:
            model.copy_into(folder / model.name / "1", (".xml", ".bin"))
            entries.append(
                {
                    "config": {
                        "name": model.name,
                        "base_path": model.name,
                        "target_device": "CPU",
                        # As the engine was proven: no bfloat16 in the layers that stay float.
                        "plugin_config": {
                            "INFERENCE_PRECISION_HINT": "f32",
                            "PERFORMANCE_HINT": "LATENCY",
                        },
                    }
                }
            )
        text = json.dumps({"model_config_list": entries}, indent=1) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")


SERVER = OpenVinoModelServer()
