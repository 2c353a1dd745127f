"""A recipe chooses the device of a target, and what is not here ends before anything is made."""

from __future__ import annotations

import pytest

from edgeres.backends import get_backend
from edgeres.backends.target import open_target
from edgeres.errors import BackendMissingError
from edgeres.recipe.recipe import BuildBlock

pytestmark = pytest.mark.skipif(
    get_backend("openvino").missing() is not None, reason="openvino is not installed"
)


def test_the_device_of_a_recipe_is_taken():
    for asked in (None, "cpu", "auto"):  # which is the CPU where it is alone
        opened = open_target("openvino", settings=BuildBlock(device=asked))
        if asked == "auto" and opened.device != "cpu":
            pytest.skip("this machine has more than a CPU")
        assert (opened.device, opened.config.device) == ("cpu", "cpu")
        assert opened.rules.name == "openvino-cpu"
    assert open_target("openvino", "cpu", BuildBlock(device="npu")).device == "cpu"


def test_a_device_that_is_not_here_is_refused_at_once():
    if "npu" in get_backend("openvino").devices():
        pytest.skip("this machine has an NPU")
    with pytest.raises(BackendMissingError, match="does not list npu here"):
        open_target("openvino", settings=BuildBlock(device="npu"))
