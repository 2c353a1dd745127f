"""Runtimes that are absent or broken, their words in one line, their options checked."""

import sys

import pytest

from edgeres.backends._vendor import import_runtime, one_line, read_options
from edgeres.errors import BackendMissingError, UsageError


def package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def test_absent_package_comes_with_a_hint():
    with pytest.raises(BackendMissingError, match="not_there is not installed") as caught:
        import_runtime("not_there", extra="fast")
    assert "pip install 'edgeres[fast]'" in caught.value.hint
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libfoo.so.1:\\n cannot open shared object file')", "does not load"),
        ("raise OSError('libbar.so: wrong ELF class')", "does not load: libbar.so: wrong ELF"),
        ("import not_there_either", "needs not_there_either, which is not"),
    ],
)
def test_broken_package_says_why_in_one_line(tmp_path, monkeypatch, code, message):
    package(tmp_path, "broken_runtime", code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendMissingError, match=message) as caught:
        import_runtime("broken_runtime", extra="fast")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "broken_runtime" not in sys.modules


def test_long_messages_are_cut():
    text = one_line(ValueError("first\n\n  second\t" + "x" * 1000))
    assert text.startswith("first second xxx")
    assert len(text) == 300


def test_options():
    allowed = {"batch": ("one", "any"), "speed": ("fast",)}
    assert read_options({}, allowed, backend="x") == {"batch": "one", "speed": "fast"}
    assert read_options({"batch": "any"}, allowed, backend="x")["batch"] == "any"
    with pytest.raises(UsageError, match="x has no option 'bath'") as caught:
        read_options({"bath": "any"}, allowed, backend="x")
    assert "batch, speed" in caught.value.hint
    with pytest.raises(UsageError, match="expected one of one, any, got 'all'"):
        read_options({"batch": "all"}, allowed, backend="x")
