"""The user's own object: every kind of item, what else it may have, and code that misbehaves."""

import sys
import threading

import numpy as np
import pytest
from PIL import Image

from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.features import Features, spread_of
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.data.targets import target_names, targets_of
from edgeres.errors import DataError, UsageError

GREY = Preprocess(scale=1.0, channels=1)
HEAD = "import numpy as np\nfrom PIL import Image\n"


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(code, split="validation"):
        (tmp_path / "mine.py").write_text(HEAD + code)
        return open_dataset(f"python:{tmp_path}/mine.py:make", split=split)

    return make


@pytest.mark.parametrize(
    ("items", "first", "targets", "labels"),
    [
        ("(np.full((2, 3), i, np.uint8), i)", np.zeros((1, 2, 3)), [0, 1, 2], [0, 1, 2]),
        ("(Image.new('L', (3, 2), i), i / 2)", np.zeros((1, 2, 3)), [0.0, 0.5, 1.0], [-1] * 3),
        ("(np.full((2, 3, 1), i, np.uint8), [i, 1])", np.zeros((1, 2, 3)), None, [-1] * 3),
        ("(np.full(5, i, np.float64), np.int8(i))", np.zeros(5), [0, 1, 2], [0, 1, 2]),
        ("[np.full((4, 5), i, np.float16), True]", np.zeros((4, 5)), [1, 1, 1], [-1] * 3),
        ("(np.full(5, i, np.float64), -i)", np.zeros(5), [0, -1, -2], [0, -1, -1]),
    ],
)
def test_items_of_every_kind(opened, items, first, targets, labels):
    dataset = opened(f"def make():\n    return [{items} for i in range(3)]\n")
    ((inputs, seen),) = batches(dataset, GREY, 4, workers=2)
    np.testing.assert_array_equal(inputs, np.stack([first + i for i in range(3)]))
    assert seen.tolist() == dataset.labels.tolist() == labels
    found = targets_of(dataset, np.arange(3), GREY)[""]
    assert found.tolist() == (targets or [[0, 1], [1, 1], [2, 1]])
    assert dataset.subset([2, 0]).labels.tolist() == [labels[2], labels[0]]
    assert target_names(dataset) == ("",)


def test_an_input_alone_has_no_target(opened):
    dataset = opened("def make():\n    return [np.full(4, i, np.float32) for i in range(3)]\n")
    assert targets_of(dataset, np.arange(3), GREY) == {}
    assert dataset.labels.tolist() == [-1] * 3


def test_heads_and_masks(opened):
    dataset = opened(
        "def item(i):\n"
        "    image = np.arange(24, dtype=np.uint8).reshape(4, 6) + i\n"
        "    return image, {'age': 2.0 * i, 'seg': image.astype(np.int64)}\n"
        "def make():\n    return [item(i) for i in range(3)]\n"
    )
    preprocess = Preprocess(scale=1.0, channels=1, crop=(2, 8))
    found = targets_of(dataset.subset([2, 1]), np.array([1, 0]), preprocess)
    assert found["age"].tolist() == [2.0, 4.0]
    assert target_names(dataset) == ("age", "seg")
    ((images, _),) = batches(dataset, preprocess, 3, indices=[1, 2])
    inside = found["seg"] != 255
    assert inside.sum() == 2 * 2 * 6
    np.testing.assert_array_equal(images[:, 0][inside], found["seg"][inside])


def test_what_the_object_says_is_taken(opened):
    dataset = opened(
        "class Mine:\n"
        "    fingerprint = 'v1'\n    targets = [1, 0, 1]\n    classes = ['no', 'yes']\n"
        "    def __len__(self): return 3\n"
        "    def __getitem__(self, i):\n"
        "        if i: raise RuntimeError('read in vain')\n"
        "        return np.zeros((2, 2), np.uint8), 1\n"
        "make = Mine\n"
    )
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.class_names == ("no", "yes")
    assert take(dataset, 2).labels.tolist() == [0, 1]
    assert dataset.fingerprint != dataset.subset([1, 0, 2]).fingerprint


def test_the_fingerprint_covers_code_content_and_order(opened):
    code = "def make():\n    return [(np.full(3, {0} + i, np.float32), {1}) for i in range(3)]\n"
    texts = [code.format(0, 1), code.format(1, 1), code.format(0, 2), "\n" + code.format(0, 1)]
    sets = [opened(text) for text in texts]
    found = {each.fingerprint for each in sets} | {sets[0].subset([1, 0, 2]).fingerprint}
    assert len(found) == 5
    assert opened(texts[0]).fingerprint in found


@pytest.mark.parametrize("split", ["train", "validation", "calibration"])
def test_a_factory_may_ask_for_the_split(opened, split):
    dataset = opened("def make(split):\n    return [(np.zeros(len(split)), 0)]\n", split=split)
    assert dataset.image(0).values.shape == (len(split),)


def test_neighbours_can_be_imported_and_threads_come_one_at_a_time(opened, tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 7\n")
    dataset = opened(
        "import threading\n"
        "class Mine:\n"
        "    busy = threading.Lock()\n"
        "    def __len__(self): return 40\n"
        "    def __getitem__(self, i):\n"
        "        from neighbour_of_mine import VALUE\n"
        "        assert self.busy.acquire(blocking=False)\n"
        "        threading.Event().wait(0.001)\n"
        "        self.busy.release()\n"
        "        return np.full(2, VALUE + i, np.float32), 0\n"
        "make = Mine\n"
    )
    assert threading.active_count() < 50
    found = np.concatenate([x for x, _ in batches(dataset, GREY, 8, workers=4)])
    assert found[:, 0].tolist() == list(range(7, 47))


def test_features_know_their_spread(opened):
    dataset = opened(
        "def make():\n    r = np.random.default_rng(0)\n"
        "    return [r.normal(5, 30, 100) for i in range(20)]\n"
    )
    assert isinstance(dataset.image(0), Features)
    assert 27 < spread_of(dataset.subset([3])) < 33


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def make():\n    raise ValueError('no disk\\nat all')\n", "make: ValueError: no disk at"),
        ("def make():\n    raise SystemExit(3)\n", "make: SystemExit: 3"),
        ("def make():\n    return 3\n", "make: TypeError: .*len"),
        ("def make():\n    return {1, 2}\n", "make: AttributeError: .*__getitem__"),
        ("def make(path):\n    return []\n", "make: TypeError: .*path"),
        ("def make():\n    return [3, 'x']\n", r"make\[0\]: expected an array of numbers"),
        ("def make():\n    return [('x', 1)]\n", r"make\[0\]: expected an array of numbers"),
        ("def make():\n    return [(None, 1)]\n", r"make\[0\]: expected an array of numbers"),
        ("def make():\n    return [([[1], [1, 2]], 1)]\n", r"make\[0\]: its input is no array"),
        (
            "def make():\n    return [(np.zeros((0, 3), np.uint8), 1)]\n",
            r"make\[0\]: expected an",
        ),
        ("def make():\n    return [(np.zeros((3, 9, 9), np.uint8), 1)]\n", "Put the channels last"),
        ("def make():\n    return [(np.full(3, np.nan), 1)]\n", r"make\[0\]: 3 of 3 numbers"),
        (
            "def make():\n    return [(np.zeros(3), 'cat')]\n",
            r"make\[0\]: its target: expected a",
        ),
        ("def make():\n    return [(np.zeros(3), np.nan)]\n", r"make\[0\]: its target is NaN"),
        (
            "def make():\n    return [(np.zeros(3), {'a': object()})]\n",
            r"target 'a': expected",
        ),
        ("def make():\n    return []\n", "empty set"),
        (
            "class Mine:\n    def __len__(self): return 2\n"
            "    def __getitem__(self, i): return np.random.rand(3), 0\nmake = Mine\n",
            r"make\[0\]: gives something else each time",
        ),
        (
            "class Mine:\n    def __len__(self): return 2\n"
            "    def __getitem__(self, i): return self.files[i]\nmake = Mine\n",
            r"make\[0\]: AttributeError: .*files",
        ),
        (
            "class Mine:\n    def __len__(self): return -1\n"
            "    def __getitem__(self, i): return 0\nmake = Mine\n",
            "make: ValueError",
        ),
    ],
)
def test_code_that_misbehaves_is_told_in_one_line(opened, code, reason):
    with pytest.raises(DataError, match=reason) as caught:
        opened(code)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def other():\n    pass\n", "has no function 'make'"),
        ("make = 3\n", "has no function 'make'"),
        ("import no_such_module_of_mine\n", "cannot be imported: ModuleNotFoundError"),
        ("def make(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_called_is_a_usage_error(opened, code, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        opened(code)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["fingerprint", "class_names"])
@pytest.mark.parametrize("end", ["raise ValueError('odd')", "raise SystemExit(0)"])
def test_attributes_that_raise_are_named(opened, what, end):
    code = (
        "class Mine:\n    def __len__(self): return 2\n"
        "    def __getitem__(self, i): return np.full(3, i, np.float32), 0\n"
        f"    @property\n    def {what}(self): {end}\nmake = Mine\n"
    )
    with pytest.raises(DataError, match=r"make.*(ValueError: odd|SystemExit: 0)"):
        _ = opened(code).fingerprint


def test_labels_that_raise_are_asked_one_by_one(opened):
    code = (
        "class Mine:\n    def __len__(self): return 2\n"
        "    def __getitem__(self, i): return np.full(3, i, np.float32), i\n"
        "    @property\n    def labels(self): raise SystemExit(0)\nmake = Mine\n"
    )
    assert opened(code).labels.tolist() == [0, 1]


def test_an_error_that_cannot_tell_itself_is_one_line(opened):
    code = "class Odd(Exception):\n    def __str__(self): raise ValueError\ndef make(): raise Odd\n"
    with pytest.raises(DataError, match="make: Odd: Odd"):
        opened(code)


@pytest.mark.parametrize("spec", ["python:mine.py", "python:none.py:make", "python::make"])
def test_a_slip_in_the_words_is_a_usage_error(spec):
    with pytest.raises(UsageError):
        open_dataset(spec, split="validation")


def test_items_of_changing_shape_are_named(opened):
    dataset = opened("def make():\n    return [(np.zeros(3 + (i > 1)), 0) for i in range(4)]\n")
    with pytest.raises(DataError, match=r"size of the first, \(3,\), got \(4,\) .*make\[2\]"):
        list(batches(dataset, GREY, 4))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("{'a': 1} if i else {'b': 1}", r"make\[1\]: expected targets 'b' as in mine.py:make\[0\]"),
        ("None if i else 1", r"make\[1\]: expected targets '' .* got none"),
        ("np.zeros(2 + i)", r"make\[1\]: expected a target of shape \(2,\)"),
    ],
)
def test_targets_that_change_are_named(opened, target, reason):
    dataset = opened(f"def make():\n    return [(np.zeros(3), {target}) for i in range(2)]\n")
    with pytest.raises(DataError, match=reason):
        targets_of(dataset, np.arange(2), GREY)


def test_a_mask_of_another_size_is_named(opened):
    dataset = opened(
        "def make():\n    return [(np.zeros((4, 4), np.uint8), np.zeros((4, 4 + i), int))"
        " for i in range(2)]\n"
    )
    with pytest.raises(DataError, match=r"make\[1\]: expected a mask in the size .*\(4, 5\)"):
        targets_of(dataset, np.arange(2), GREY)


def test_an_item_that_raises_is_counted_like_a_bad_image(opened):
    dataset = opened(
        "class Mine:\n    def __len__(self): return 200\n"
        "    def __getitem__(self, i):\n"
        "        if i == 7: raise OSError('bad sector')\n"
        "        return np.full(3, i, np.float32), i % 5\nmake = Mine\n"
    )
    skipped = BadImages()
    assert sum(len(x) for x, _ in batches(dataset, GREY, 64, skipped=skipped)) == 199
    assert list(skipped.reasons) == ["mine.py:make[7]"]
    assert dataset.labels[7] == -1
    assert len(dataset.fingerprint) == 64


def test_a_pillow_image_is_taken_as_a_viewer_shows_it(opened, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 2)).save(tmp_path / "a.png", exif=exif)
    dataset = opened(f"def make():\n    return [Image.open({str(tmp_path / 'a.png')!r})]\n")
    assert dataset.image(0).size == (2, 5)
