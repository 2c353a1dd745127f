"""What a task cannot judge ends `convert` with one line that names it, and makes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from .conftest import invoke
from .many_outputs import with_outputs, write_images

SAMPLES = 40
RECIPE = """\
name: bad
model: {{source: net.onnx}}
preprocess: {{mean: [0.286], std: [0.353], channels: 1}}
task: {task}
data: {{validation: "{data}", calibration: "{calibration}", calibration_samples: 16}}
targets: [onnxruntime]
"""
TOP1 = "{name: classification, output: logits, target: label}"
CODE = {
    "raises.py": "def data(split):\n    raise KeyError('no split ' + split)\n",
    "item.py": (
        "import numpy as np\n\nclass Set:\n    def __len__(self):\n        return 20\n\n"
        "    def __getitem__(self, i):\n        raise ValueError(f'sample {i} is not there')\n\n"
        "def data():\n    return Set()\n"
    ),
    "vector.py": "def f(outputs, targets):\n    return outputs['logits']\n",
    "text.py": "def f(outputs, targets):\n    return ['good'] * len(outputs['logits'])\n",
}


@pytest.fixture(scope="module")
def place(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    network = with_outputs(workplace / "out" / "baseline" / "model.onnx", groups=True)
    onnx.save(network, folder / "net.onnx")
    write_images(folder, SAMPLES)
    for name, code in CODE.items():
        (folder / name).write_text(code)
    lines = (folder / "masks.csv").read_text().splitlines()
    Image.new("L", (28, 30)).save(folder / "images" / "tall.png")
    Image.new("L", (28, 28), 12).save(folder / "images" / "twelve.png")
    for name, mask in {"tall": "images/tall.png", "twelve": "images/twelve.png"}.items():
        other = [*lines[:-1], f"{lines[-1].split(',')[0]},{mask}"]
        (folder / f"{name}.csv").write_text("\n".join(other) + "\n")
    files = [line.split(",")[0] for line in lines[1:]]
    for name, cell in {"label": "12", "answer": "2", "half": "0.5", "age": "nan"}.items():
        rows = [f"{file},{index % 2}" for index, file in enumerate(files[:-1])]
        text = "\n".join([f"path,{name}", *rows, f"{files[-1]},{cell}"])
        (folder / f"{name}.csv").write_text(text + "\n")
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(20, 1, 28, 30)).astype(np.float32)
    np.savez(folder / "wide.npz", inputs=wide, labels=np.arange(20) % 10)
    flat = rng.normal(size=(20, 5)).astype(np.float32)
    np.savez(folder / "flat.npz", inputs=flat, labels=np.arange(20) % 10)
    return folder


@pytest.mark.parametrize(
    ("task", "data", "told"),
    [
        ("{name: segmentation, output: map}", "list:tall.csv", ["tall.png", "28x28, got 30x28"]),
        ("{name: segmentation, output: map}", "list:twelve.csv", ["10 classes", "masks hold 12"]),
        (TOP1, "list:label.csv", ["targets from 0 to 9, got 0 to 12"]),
        ("{name: binary, output: footwear}", "list:answer.csv", ["from 0 to 1, got 0 to 2"]),
        ("{name: binary, output: footwear}", "list:half.csv", ["whole numbers from 0 to 1"]),
        ("{name: regression, output: footwear}", "list:age.csv", ["finite number", "'nan'"]),
        ("{name: multilabel, output: groups}", "list:answer.csv", ["has 3 classes"]),
        ("{name: outputs}", "tensors:wide.npz", ["28, 28", "28, 30"]),
        ("{name: outputs}", "tensors:flat.npz", ["[1, 28, 28]", "[5]", "features' shape"]),
        (TOP1, "python:raises.py:data", ["raises.py", "KeyError", "no split validation"]),
        (TOP1, "python:item.py:data", ["item.py", "sample"]),
        ("{name: custom, function: 'vector.py:f'}", "list:table.csv", ["shape (40, 10)"]),
        ("{name: custom, function: 'text.py:f'}", "list:table.csv", ["text.py:f", "ValueError"]),
    ],
)
def test_it_is_named_in_one_line(place, tmp_path, task, data, told) -> None:
    recipe = place / "recipe.yaml"
    features = data.startswith("tensors")
    calibration = data if features else "npz:images.npz"
    recipe.write_text(RECIPE.format(task=task, data=data, calibration=calibration))
    arguments = ("convert", recipe, "--output", tmp_path / "out", "--trust-recipe")
    result = invoke(*arguments)
    assert result.exit_code in (2, 3), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in told:
        assert part in line
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_float_network_that_answers_at_random_is_stopped_unless_it_may(place, tmp_path) -> None:
    labels = [line.split(",") for line in (place / "table.csv").read_text().splitlines()[1:]]
    rows = [f"{file},{(index * 7) % 50}" for index, (file, *_) in enumerate(labels)]
    (place / "ages.csv").write_text("\n".join(["path,age", *rows]) + "\n")
    recipe = place / "ages.yaml"
    task = "{name: regression, output: footwear, unit: years}"
    text = RECIPE.format(task=task, data="list:ages.csv", calibration="npz:images.npz")
    recipe.write_text(text)
    result = invoke("convert", recipe, "--output", tmp_path / "out")
    assert result.exit_code == 3, result.output
    words = " ".join(result.output.split())
    assert "one answer for everything reaches" in words
    assert "the column and the unit of the targets" in words
    recipe.write_text(text + "gates: {untrained: true, max_drop: 5}\n")
    assert invoke("convert", recipe, "--output", tmp_path / "out").exit_code in (0, 1)


def test_a_set_of_one_answer_is_judged_without_auc_and_that_is_said(place, tmp_path) -> None:
    header, *rows = (place / "every.csv").read_text().splitlines()
    column = header.split(",").index("footwear")
    yes = [row.split(",")[0] + ",1" for row in rows if row.split(",")[column] == "1"]
    (place / "yes.csv").write_text("\n".join(["path,footwear", *yes]) + "\n")
    recipe = place / "yes.yaml"
    task = "{name: binary, output: footwear}"
    text = RECIPE.format(task=task, data="list:yes.csv", calibration="npz:images.npz")
    recipe.write_text(text + "gates: {max_drop: 60}\n")
    result = invoke("convert", recipe, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = f"area under ROC is left out: the {len(yes)} samples lack what it needs"
    assert said in " ".join(result.stderr.split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["targets"]["onnxruntime"]["metrics"]) == ["accuracy"]
    engine = tmp_path / "out" / "onnxruntime" / "model.onnx"
    options = ("--data", f"list:{place / 'yes.csv'}", "--max-drop", 60)
    again = invoke("validate", engine, *options)
    assert again.exit_code == 0, again.output
    assert said in " ".join(again.output.replace("│", " ").split())
