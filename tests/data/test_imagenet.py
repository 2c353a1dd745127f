"""ImageNet's validation images in one folder: three files that say their classes, and damage."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from edgeres.data.imagefolder import open_imagefolder
from edgeres.data.imagenet import META, SOLUTION, SYNSETS, TRUTH
from edgeres.errors import DataError

WNIDS = [f"n{10_000_000 + 7 * k:08}" for k in range(1000)]
ORDER = np.random.default_rng(0).permutation(1000)  # the devkit's number k + 1 is WNIDS[ORDER[k]]
SHOWN = (5, 999, 0, 421)  # sorted class of images 1 to 4


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "val"
    images.mkdir()
    for number in range(1, 5):
        Image.new("RGB", (4, 4)).save(images / f"ILSVRC2012_val_{number:08}.JPEG")
    return images


def write_meta(path, *, rows=1000):
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    table = np.zeros((rows + 1, 1), kinds)
    for k in range(rows):
        table[k, 0] = (k + 1, WNIDS[ORDER[k]], f"thing {ORDER[k]}", 0)
    table[rows, 0] = (1001, "n00000001", "all things", 2)
    savemat(path, {"synsets": table})


def write_truth(path):
    number = {int(of): k + 1 for k, of in enumerate(ORDER)}
    path.write_text("".join(f"{number[k]}\n" for k in SHOWN))


def test_the_devkits_numbers_are_in_another_order(folder):
    devkit = folder.parent / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    write_truth(devkit / TRUTH)
    write_meta(devkit / META)
    found = open_imagefolder(folder, "validation")
    assert tuple(found.labels) == SHOWN
    assert found.class_names[421] == "thing 421"
    assert tuple(open_imagefolder(folder, "calibration").labels) == (-1,) * 4


def test_numbers_without_the_devkits_table_are_refused(folder):
    write_truth(folder / TRUTH)
    with pytest.raises(DataError, match="the devkit's own order") as caught:
        open_imagefolder(folder, "validation")
    assert META in caught.value.hint
    write_meta(folder / META, rows=999)
    with pytest.raises(DataError, match="got 999"):
        open_imagefolder(folder, "validation")
    (folder / META).write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(DataError, match="a damaged file"):
        open_imagefolder(folder, "validation")


def every_wnid(line):
    """All 1,000 synsets, those of the images first."""
    rest = [k for k in range(1000) if k not in SHOWN]
    return "".join(line(n, WNIDS[k]) for n, k in enumerate((*SHOWN, *rest), 1))


def test_synsets_by_name_and_by_order(folder):
    text = every_wnid(lambda n, wnid: f"ILSVRC2012_val_{n:08},{wnid} 1 2 3 4\n")
    (folder.parent / SOLUTION).write_text(f"ImageId,PredictionString\n{text}")
    assert tuple(open_imagefolder(folder, "validation").labels) == SHOWN
    (folder.parent / SOLUTION).unlink()
    (folder / SYNSETS).write_text(every_wnid(lambda _, wnid: f"{wnid}\n"))
    found = open_imagefolder(folder, "validation")
    assert tuple(found.labels) == SHOWN
    assert found.class_names == tuple(WNIDS)
    lines = (folder / SYNSETS).read_text().splitlines()
    (folder / SYNSETS).write_text("\n".join(lines[:700]))
    with pytest.raises(DataError, match="got 700: their order numbers the classes"):
        open_imagefolder(folder, "validation")


def test_without_any_of_them_it_says_which(folder):
    with pytest.raises(DataError, match="nothing that says their classes") as caught:
        open_imagefolder(folder, "validation")
    assert all(name in caught.value.hint for name in (TRUTH, META, SOLUTION, SYNSETS))
