"""Recipes: what is right loads, what is wrong is named with file, line, key and a suggestion."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import RecipeError
from edgeres.pipeline.recipe_file import load_recipe, stage_recipe
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import Recipe, json_schema
from edgeres.system.assets import asset_folder, asset_path
from edgeres.system.yaml_file import MAX_BYTES

GOOD = """\
model: {source: net.onnx}
targets: [onnxruntime]
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def test_the_smallest_recipe(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert recipe.targets == ("onnxruntime",)
    assert recipe.prune is None
    assert (recipe.gates.max_drop, recipe.gates.max_top1_drop_pp) == (None, 0.5)
    assert Path(recipe.model.source) == tmp_path / "net.onnx"


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (
            GOOD + "quantize: {bias_correction: maybe}\n",
            3,
            ["quantize.bias_correction", "'analytic'"],
        ),
        (GOOD + "quantise: {}\n", 3, ["unknown key `quantise`", "Did you mean `quantize`?"]),
        (GOOD + "gates:\n  max_drp: 1\n", 4, ["gates.max_drp", "Did you mean `max_drop`"]),
        (GOOD + "gates:\n  max_drop_pp: 1\n", 4, ["gates.max_drop_pp", "called `max_drop`"]),
        (GOOD + "checks:\n  max_drop_pp: 1\n", 3, ["`checks`", "called `gates`"]),
        (GOOD + "gates:\n  zzz: 1\n", 4, ["gates.zzz", "Known keys: metric, max_drop"]),
        (GOOD + "name: a\nname: b\n", 4, ["duplicate key"]),
        ("modell: {}\ntargets: [openvino]\n", 1, ["unknown key `modell`", "Did you mean `model`"]),
        ("targets: [onnxruntime]\n", 1, ["`model` is missing"]),
        ("model: {source: a.onnx}\ntargets: []\n", 2, ["targets"]),
        (GOOD + "gates: {max_drop: .nan}\n", 3, ["gates.max_drop", "nan"]),
        (GOOD + "gates: {confidence: 1.0}\n", 3, ["gates.confidence", "equal to 0.999999"]),
        (GOOD + "prune: {macs_ratio: 1.0}\n", 3, ["prune.macs_ratio"]),
        (GOOD + "prune: {macs_ratio: -1}\n", 3, ["prune.macs_ratio"]),
        (GOOD + "data: {calibration_samples: 1}\n", 3, ["data.calibration_samples"]),
        (GOOD + "name: !!python/object:os.system x\n", 3, ["tags are not allowed"]),
        (GOOD + "data: &a {}\n", 3, ["anchors and aliases"]),
        (GOOD + "name: [\n", 4, ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named(write, text, line, parts):
    file = write(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert f"{file}:{line}:" in message
    for part in parts:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", b"\xff\xfe\x00", "a: " + "[" * 5000])
def test_what_is_no_recipe_is_refused(write, text):
    with pytest.raises(RecipeError):
        load_recipe(write(text))


def test_huge_file_is_refused_unread(write):
    with pytest.raises(RecipeError, match="bytes"):
        load_recipe(write("#" * (MAX_BYTES + 1)))


def test_missing_file_names_the_embedded_recipes(tmp_path):
    with pytest.raises(RecipeError, match=r"no such recipe.*default"):
        load_recipe(tmp_path / "none.yaml")


def test_scientific_notation_is_a_number(write):
    recipe = load_recipe(write(GOOD + "prune: {finetune: {learning_rate: 1e-3}}\n"))
    assert recipe.prune is not None
    assert recipe.prune.finetune.learning_rate == 0.001


@pytest.mark.parametrize(
    "text",
    [
        "model: {source: /etc/passwd.onnx}\ntargets: [onnxruntime]\n",
        "model: {source: ../net.onnx}\ntargets: [onnxruntime]\n",
        GOOD + "data: {validation: 'imagefolder:/home'}\n",
        GOOD + "data: {validation: 'idx:a,../b'}\n",
        GOOD + "data: {validation: /home}\n",
        GOOD + "data: {calibration: ../images}\n",
        GOOD + "data: {calibration: ~/images}\n",
        GOOD + "data: {calibration: 'imagefolder:~'}\n",
    ],
)
def test_paths_out_of_the_folder_need_trust(write, text):
    file = write(text)
    with pytest.raises(RecipeError, match="leaves the recipe's folder"):
        load_recipe(file)
    load_recipe(file, trusted=True)


def test_a_bare_folder_lies_beside_the_recipe(write, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    recipe = load_recipe(write(GOOD + "data: {calibration: images, validation: fashion-mnist}\n"))
    assert recipe.data.calibration == str(tmp_path / "images")
    assert recipe.data.validation == "fashion-mnist"
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe(write(GOOD + "data: {calibration: mine, validation: fashion-mnst}\n"))
    assert recipe.data.calibration == str(tmp_path / "mine"), "not the caller's"
    assert recipe.data.validation == "fashion-mnst", "which the data set's own message names"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("true", "analytic"),
        ("false", "off"),
        ("off", "off"),
        ("analytic", "analytic"),
        ("empirical", "empirical"),
    ],
)
def test_bias_correction_has_names_and_keeps_its_older_words(write, said, meant):
    text = GOOD + f"quantize: {{bias_correction: {said}}}\n"
    recipe = load_recipe(write(text))
    assert recipe.quantize.bias_correction == meant
    assert recipe.quantize.needs_images == (meant == "empirical")
    value = {"true": True, "false": False}.get(said, said)
    document = {"model": {"source": "net.onnx"}, "targets": ["onnxruntime"]}
    jsonschema.validate({**document, "quantize": {"bias_correction": value}}, json_schema())
    assert recipe.override({"quantize.rounding": "learned"}).quantize.bias_correction == meant


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "precision: fp32, equalize: true",
            "`equalize` has no effect together with `precision: fp32`",
        ),
        ("precision: fp32, qat: {}", "`qat` has no effect together with `precision: fp32`"),
        ("qat: {}, rounding: learned", "`rounding: learned` has no effect together with `qat`"),
        ("qat: {}, bias_correction: empirical", "`bias_correction: empirical` has no effect"),
        ("qat: {}, mixed_precision: {min_sqnr_db: 9}", "`mixed_precision` and `qat` do not go"),
        (
            "rounding: learned, mixed_precision: {min_sqnr_db: 9}",
            "`mixed_precision` and `rounding: learned` do not go together",
        ),
        (
            "bias_correction: empirical, mixed_precision: {min_sqnr_db: 9}",
            "`mixed_precision` and `bias_correction: empirical` do not go together",
        ),
    ],
)
def test_settings_that_would_not_be_in_force_are_refused(write, settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(GOOD + f"quantize: {{{settings}}}\n"))


@pytest.mark.parametrize(
    "settings", ["qat: {}, equalize: true", "equalize: true, mixed_precision: {min_sqnr_db: 9}"]
)
def test_settings_of_the_network_before_calibration_go_with_all(write, settings):
    assert load_recipe(write(GOOD + f"quantize: {{{settings}}}\n")).quantize.equalize


def test_overrides_win_and_are_checked(write):
    recipe = load_recipe(write(GOOD), {"gates.max_drop": 2.0, "prune.macs_ratio": 0.7})
    assert recipe.gates.max_drop == 2.0
    assert recipe.prune is not None
    assert recipe.prune.macs_ratio == 0.7
    with pytest.raises(RecipeError, match=r"command line.*max_drop"):
        load_recipe(write(GOOD), {"gates.max_drop": -101})


def _embedded():
    return sorted(asset_folder("recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", _embedded(), ids=lambda file: file.stem)
def test_embedded_recipes_are_valid_and_match_the_schema(file):
    from ruamel.yaml import YAML

    recipe = load_recipe(file)
    assert recipe == load_recipe(file.stem)
    jsonschema.validate(YAML(typ="safe").load(file.read_text()), json_schema())


def test_the_main_job_lends_no_network_its_widths_and_threads():
    own = load_recipe()
    assert own.prune is not None
    assert own.prune.widths
    assert own.benchmark.threads == 1
    other = load_recipe(None, {"model.source": "net.onnx"})
    assert other.prune is None
    assert other.benchmark == Recipe.model_fields["benchmark"].default
    stage = stage_recipe(None, {"prune.macs_ratio": 0.25})
    assert stage.prune == PruneSettings(macs_ratio=0.25)
    assert stage.benchmark == other.benchmark
    assert stage.gates == own.gates


def test_schema_file_is_up_to_date():
    stored = asset_path("recipes", "recipe.schema.json").read_text()
    assert json.loads(stored) == json_schema(), "write it anew with scripts/write_schema.py"


@given(st.text(max_size=200))
def test_any_text_gives_a_recipe_or_a_recipe_error(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("any") / "r.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    message = ""
    try:
        assert isinstance(load_recipe(file), Recipe)
    except RecipeError as error:
        message = str(error)
    assert "\n" not in message
