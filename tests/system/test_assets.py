"""Shipped files are found in a checkout and in an installed package, and nothing else is."""

import pytest

from edgeres.errors import ArtefactError, UsageError
from edgeres.system import assets
from edgeres.system.assets import asset_folder, asset_path


def test_a_checkout_has_them_beside_the_package():
    path = asset_path("calibration", "README.md")
    assert path.is_absolute()
    assert "Licence" in path.read_text("utf-8")
    assert asset_folder("recipes").is_dir()


def test_an_installed_package_has_them_inside_and_first(tmp_path, monkeypatch):
    package = tmp_path / "edgeres"
    inside = package / "assets" / "recipes"
    inside.mkdir(parents=True)
    (inside / "a.yaml").write_text("inside")
    monkeypatch.setattr(assets, "_PACKAGE", package)
    assert asset_path("recipes", "a.yaml").read_text() == "inside"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("beside")
    (tmp_path / "pyproject.toml").write_text("")
    assert asset_path("recipes", "a.yaml").read_text() == "inside"


def test_a_folder_beside_an_installed_package_is_not_ours(tmp_path, monkeypatch):
    """site-packages/recipes may belong to anybody."""
    (tmp_path / "recipes").mkdir()
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "edgeres")
    with pytest.raises(ArtefactError, match="shipped recipes") as caught:
        asset_folder("recipes")
    assert "install edgeres again" in caught.value.hint


def test_a_missing_file_lists_what_there_is():
    with pytest.raises(ArtefactError, match=r"'none\.gz'") as caught:
        asset_path("calibration", "none.gz")
    assert "fmnist-test-images.idx3-ubyte.gz" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../pyproject.toml", "/etc/passwd", "a/../../b", "..\\b"])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(UsageError):
        asset_path("recipes", name)
