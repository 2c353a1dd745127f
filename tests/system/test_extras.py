"""Packages that are absent or broken, in one line."""

import sys

import pytest

from edgeres.errors import BackendMissingError, one_line
from edgeres.system.extras import import_extra


def package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def test_absent_package_comes_with_a_hint():
    with pytest.raises(BackendMissingError, match="not_there is not installed") as caught:
        import_extra("not_there", extra="fast")
    assert 'pip install "edgeres[fast]"' in caught.value.hint
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    with pytest.raises(BackendMissingError, match=r"a chart needs not_there\.part, which is not"):
        import_extra("not_there.part", extra="fast", user="a chart")


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
        import_extra("broken_runtime", extra="fast")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "broken_runtime" not in sys.modules


def test_long_messages_are_cut():
    text = one_line(ValueError("first\n\n  second\t" + "x" * 1000))
    assert text.startswith("first second xxx")
    assert len(text) == 300


@pytest.mark.parametrize("ending", ["SystemExit(129)", "KeyboardInterrupt()"])
def test_a_signal_while_native_code_is_imported_is_no_broken_package(tmp_path, monkeypatch, ending):
    # What pybind11 makes of an exception in its initialization.
    code = f"try:\n    raise {ending}\nexcept BaseException as e:\n"
    package(tmp_path, "stopped", code + "    raise ImportError('initialization failed') from e")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        import_extra("stopped", extra="fast")
