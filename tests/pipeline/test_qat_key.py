"""The key of a training holds what it depends on and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgeres.backends.base import QdqRules
from edgeres.data.preprocess import Preprocess
from edgeres.pipeline import qat
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.training import QatSettings

RULES = QdqRules("r", "uint8", False, frozenset({"Conv"}), "int32", "both", True)


class _AskedError(Exception):
    """Ends the call where the stage would begin."""


def key(tmp_path, monkeypatch, **settings) -> dict:
    asked = {}

    def stage(name, *, settings, **_):
        asked.update(settings)
        raise _AskedError

    monkeypatch.setattr(qat, "training_fingerprint", lambda *_: "images")
    table = tmp_path / "table.json"
    table.write_text("{}")
    block = QuantizeBlock(qat=QatSettings(), **settings)
    recipe = SimpleNamespace(quantize=block, data=SimpleNamespace(train="images"))
    network = SimpleNamespace(sha256="0", onnx=None)
    facts = SimpleNamespace(class_names=())
    networks = SimpleNamespace(quantized=network, preprocess=Preprocess(), facts=facts)
    with pytest.raises(_AskedError):
        qat.qat_parameters(
            SimpleNamespace(recipe=recipe, stage=stage, hashes=None, task=None),
            networks,
            table,
            RULES,
        )
    return asked


@pytest.mark.parametrize("without_effect", [{"equalize": True}, {"portable": True}])
def test_what_training_does_not_use_is_not_in_its_key(tmp_path, monkeypatch, without_effect):
    assert key(tmp_path, monkeypatch, **without_effect) == key(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "used", [{"bias_correction": "off"}, {"calibrator": "minmax"}, {"saturation_safe": "on"}]
)
def test_what_its_start_depends_on_is(tmp_path, monkeypatch, used):
    assert key(tmp_path, monkeypatch, **used) != key(tmp_path, monkeypatch)
