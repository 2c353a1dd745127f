"""A backend's options are checked."""

import pytest

from edgeres.backends._vendor import read_options
from edgeres.errors import UsageError


def test_options():
    allowed = {"batch": ("one", "any"), "speed": ("fast",)}
    assert read_options({}, allowed, backend="x") == {"batch": "one", "speed": "fast"}
    assert read_options({"batch": "any"}, allowed, backend="x")["batch"] == "any"
    with pytest.raises(UsageError, match="x has no option 'bath'") as caught:
        read_options({"bath": "any"}, allowed, backend="x")
    assert "batch, speed" in caught.value.hint
    with pytest.raises(UsageError, match="expected one of one, any, got 'all'"):
        read_options({"batch": "all"}, allowed, backend="x")
