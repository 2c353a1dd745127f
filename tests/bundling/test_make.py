"""A bundle of a real conversion: what is in it, equal bytes, signature, and refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import edgeres
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.bundling.manifest import parse_manifest
from edgeres.bundling.open import OpenBundle
from edgeres.data.samples import scores_from_json, scores_to_json
from edgeres.errors import ArtefactError, EdgeResError, UsageError


def test_the_same_folder_gives_the_same_bytes(output, bundle_file, tmp_path):
    again = edgeres.bundle(output, tmp_path / "again.edgeres")
    assert again.path.read_bytes() == bundle_file.read_bytes()
    assert again.sha256 == hashlib.sha256(bundle_file.read_bytes()).hexdigest()


def test_every_part_is_there_and_is_what_convert_wrote(output, bundle_file):
    report = json.loads((output / "report.json").read_text())
    with zipfile.ZipFile(bundle_file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    manifest = parse_manifest(content.pop("manifest.json"), bundle_file)
    assert content.keys() == manifest.files.keys()
    for name, entry in manifest.files.items():
        assert hashlib.sha256(content[name]).hexdigest() == entry.sha256
    assert content["report.json"] == (output / "report.json").read_bytes()
    table = (output / "baseline" / "calibration_table.json").read_bytes()
    assert content["calibration_table.json"] == table
    assert json.loads(content["preprocess.json"]) == dict(manifest.preprocess)
    assert json.loads(content["labels.json"]) == list(manifest.class_names)
    assert manifest.class_names[0] == "T-shirt/top"
    assert manifest.outputs == "logits"
    assert len(manifest.samples) == 4
    assert manifest.engines.keys() == report["targets"].keys()
    for target, entry in manifest.engines.items():
        assert entry.proven == report["targets"][target]
        engine = output / report["targets"][target]["engine"]
        assert content[entry.engine] == engine.read_bytes()
        assert hashlib.sha256(content[entry.qdq]).hexdigest() == read_engine(engine).source_sha256
        assert entry.expected_from == target
        needed = json.loads(sidecar_path(engine).read_text())["files"]
        assert {name.rpartition("/")[2] for name in entry.files} >= set(needed)


def test_the_card_says_what_was_measured(output, bundle_file):
    report = json.loads((output / "report.json").read_text())
    with OpenBundle(bundle_file) as opened:
        card = opened.read("MODEL_CARD.md").decode()
        notes = opened.read("LICENCES.md").decode()
    assert f"FP32 top-1 {100 * report['baseline']['top1']:.2f} %" in card
    assert "100 labelled images" in card
    for target, part in report["targets"].items():
        assert target in card
        assert f"{100 * part['top1']:.2f}" in card
    assert "Ankle boot" in card
    assert report["environment"]["cpu"] in card
    assert "Zalando" in notes
    assert "numpy" in notes


def test_one_target_own_labels_and_licence(output, tmp_path):
    target = next(iter(json.loads((output / "report.json").read_text())["targets"]))
    labels = [f"thing {index}" for index in range(10)]
    made = edgeres.bundle(
        output, tmp_path / "one", targets=[target], class_names=labels, license_name="CC0-1.0"
    )
    assert list(made.manifest.engines) == [target]
    assert made.manifest.class_names == tuple(labels)
    with OpenBundle(made.path) as opened:
        assert "CC0-1.0" in opened.read("MODEL_CARD.md").decode()
        opened.check_all()


def _copy(output: Path, tmp_path: Path) -> Path:
    shutil.copytree(output, tmp_path / "out", ignore=shutil.ignore_patterns(".stages"))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("report", "no report"),
        ("sidecar", "not a finished engine"),
        ("engine", "not the ones that were built"),
        ("qdq", "not the file that"),
        ("samples", "no self-test samples"),
        ("table", "calibration_table.json"),
        ("preprocess", "preprocess.json"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(output, tmp_path, damage, word):
    folder = _copy(output, tmp_path)
    report = json.loads((folder / "report.json").read_text())
    engine = folder / next(iter(report["targets"].values()))["engine"]
    if damage == "report":
        (folder / "report.json").unlink()
    elif damage == "sidecar":
        sidecar_path(engine).unlink()
    elif damage == "engine":
        whole = bytearray(engine.read_bytes())
        whole[len(whole) // 2] ^= 1
        engine.write_bytes(whole)
    elif damage == "qdq":
        engine.with_name("model.qdq.onnx").write_bytes(b"other")
    elif damage == "samples":
        shutil.rmtree(folder / "baseline" / "samples")
    else:
        name = {"table": "calibration_table.json", "preprocess": "preprocess.json"}[damage]
        (folder / "baseline" / name).unlink()
    with pytest.raises(ArtefactError, match=word):
        edgeres.bundle(folder)
    assert not (folder / "bundle.edgeres").exists()


def test_a_report_that_names_an_engine_elsewhere_is_refused(output, tmp_path):
    folder = _copy(output, tmp_path)
    report = json.loads((folder / "report.json").read_text())
    target = next(iter(report["targets"]))
    report["targets"][target]["engine"] = "../../etc/engine"
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(ArtefactError, match="outside"):
        edgeres.bundle(folder)


def test_wrong_targets_and_labels_are_usage_errors(output, tmp_path):
    with pytest.raises(UsageError, match="no engine for 'tpu'"):
        edgeres.bundle(output, tmp_path / "b", targets=["tpu"])
    with pytest.raises(UsageError, match="2 class names"):
        edgeres.bundle(output, tmp_path / "b", class_names=["a", "b"])


def test_scores_keep_every_bit():
    scores = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    assert (scores_from_json(scores_to_json(scores), "", samples=3) == scores).all()
    with pytest.raises(ArtefactError, match="not finite"):
        scores_to_json(scores * np.nan)
    for content in (b"", b"{}", b'{"scores": [[1]]}', b'{"scores": [["x"]]}', b'{"scores": 1e999}'):
        with pytest.raises(ArtefactError):
            scores_from_json(content, "here", samples=3)


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_signature_holds_for_this_bundle_and_key_only(output, changed, tmp_path, keys):
    private, public = keys
    signed = edgeres.bundle(output, tmp_path / "signed.edgeres", key=private)
    assert signed.signature is not None
    with OpenBundle(signed.path, key=public) as opened:
        opened.check_all()
    other = changed(lambda manifest, files: files.update({"MODEL_CARD.md": b"lies"}))
    shutil.copyfile(signed.signature, other.with_name(other.name + ".sig"))
    with pytest.raises(ArtefactError, match="not one of this bundle"):
        OpenBundle(other, key=public)
    signed.signature.write_bytes(b"x" * 64)
    with pytest.raises(ArtefactError, match="not one of this bundle"):
        OpenBundle(signed.path, key=public)
    signed.signature.unlink()
    with pytest.raises(ArtefactError, match="no signature"):
        OpenBundle(signed.path, key=public)


def test_openssl_can_check_the_signature(output, tmp_path, keys):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    private, public = keys
    signed = edgeres.bundle(output, tmp_path / "signed.edgeres", key=private)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(zipfile.ZipFile(signed.path).read("manifest.json"))
    command = [
        "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin",
        "-in", manifest, "-sigfile", signed.signature,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_no_key_is_a_usage_error(output, bundle_file, tmp_path, keys):
    private, public = keys
    (tmp_path / "text").write_text("no key")
    for wrong in (tmp_path / "text", tmp_path / "none", private):
        with pytest.raises(UsageError):
            OpenBundle(bundle_file, key=wrong)
    with pytest.raises(UsageError):
        edgeres.bundle(output, tmp_path / "b", key=public)


def test_damage_anywhere_in_a_bundle_is_found(bundle_file, tmp_path):
    whole = bundle_file.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b").write_bytes(changed)
        with pytest.raises(EdgeResError), OpenBundle(tmp_path / "b") as opened:
            opened.check_all()
