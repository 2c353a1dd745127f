"""The container: equal bytes for equal contents, and nothing but its own exact form is taken."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.bundling.archive import MANIFEST, Archive, is_name, write_archive
from edgeres.errors import ArtefactError, StorageError

DATE = (1980, 1, 1, 0, 0, 0)
REGULAR = (stat.S_IFREG | 0o644) << 16


def entry(name: str, content: bytes = b"x", *, mode: int = REGULAR, **attributes):
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr, info.create_system = mode, 3
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def write_zip(path: Path, *entries) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in (entry(MANIFEST, b"{}"), *entries):
            archive.writestr(info, content)
    return path


names = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9._]{1,8})?", fullmatch=True).filter(is_name)


@settings(max_examples=50)
@given(st.dictionaries(names, st.binary(max_size=300), max_size=6), st.randoms())
def test_round_trip_and_equal_bytes(tmp_path_factory, files, shuffle):
    folder = tmp_path_factory.mktemp("archive")
    files = {name: content for name, content in files.items() if name != MANIFEST}
    write_archive(folder / "a", b"{}", files)
    items = list(files.items())
    shuffle.shuffle(items)
    write_archive(folder / "b", b"{}", dict(items))
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    with Archive(folder / "a") as archive:
        assert {n: archive.read(n, limit=300) for n in files} == files
        assert list(archive.sizes) == [MANIFEST, *sorted(files)]
    assert zipfile.ZipFile(folder / "a").testzip() is None


def test_content_from_files(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    write_archive(tmp_path / "a", b"{}", {"f": tmp_path / "f"})
    with Archive(tmp_path / "a") as archive:
        assert archive.read("f", limit=7) == b"content"


LINK = (stat.S_IFLNK | 0o777) << 16
HOSTILE = {
    "way up": [entry("../evil")],
    "way up within": [entry("a/../../evil")],
    "absolute": [entry("/evil")],
    "backslash": [entry("a\\evil")],
    "drive": [entry("c:evil")],
    "hidden": [entry(".bashrc")],
    "link": [entry("link", b"/etc/passwd", mode=LINK)],
    "folder": [entry("folder/", b"")],
    "device": [entry("device", b"", mode=(stat.S_IFCHR | 0o644) << 16)],
    "set user id": [entry("program", b"", mode=(stat.S_IFREG | 0o4755) << 16)],
    "same name in capitals": [entry("A"), entry("a")],
    "out of order": [entry("b"), entry("a")],
    "bomb": [entry("zeros", bytes(10_000_000), compress_type=zipfile.ZIP_DEFLATED)],
    "extra field": [entry("a", extra=b"\x99\x99\x04\x00abcd")],
    "comment": [entry("a", comment=b"hello")],
    "other date": [entry("a", date_time=(2020, 1, 1, 0, 0, 0))],
    "long name": [entry("a" * 300)],
    "deep name": [entry("a/b/c/d/e/f/g")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_entries_are_refused(tmp_path, case):
    path = write_zip(tmp_path / "bad.edgeres", *HOSTILE[case])
    with pytest.raises(ArtefactError, match="not a whole bundle"):
        Archive(path)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.edgeres"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_entry_of_a_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad", entry("a", b"good"), entry("a", b"evil"))
    with pytest.raises(ArtefactError, match="second entry"):
        Archive(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"PK",
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + b"\0",
        lambda whole: b"#!/bin/sh\n" + whole,
        lambda whole: whole[:-2] + b"\x05\x00" + b"hello",
        lambda whole: whole[:-12] + b"\xff\xff" + whole[-10:],
    ],
)
def test_damaged_files_are_refused(tmp_path, damage):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(*entry(MANIFEST, b"{}"))
    (tmp_path / "bad").write_bytes(damage(buffer.getvalue()))
    with pytest.raises(ArtefactError, match="not a whole bundle"):
        Archive(tmp_path / "bad")


def test_entries_that_overlap_are_refused(tmp_path):
    # Two directory records that share one content: 42 bytes that would unpack to many.
    path = write_zip(tmp_path / "bad", entry("a", b"shared"))
    whole = bytearray(path.read_bytes())
    start = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 1)
    record = bytes(whole[start : start + 47])
    whole[start + 47 : start + 47] = record.replace(b"a", b"b")
    end = len(whole) - 22
    whole[end + 8 : end + 12] = b"\3\0\3\0"
    whole[end + 12 : end + 16] = (
        int.from_bytes(whole[end + 12 : end + 16], "little") + 47
    ).to_bytes(4, "little")
    path.write_bytes(whole)
    with pytest.raises(ArtefactError, match="not a whole bundle"):
        Archive(path)


def test_any_single_changed_byte_outside_the_contents_is_refused(tmp_path):
    write_archive(tmp_path / "a", b"{}", {"x/y": b"", "z": b""})
    whole = (tmp_path / "a").read_bytes()
    first = whole.index(b"{}")
    for place in range(len(whole)):
        if place in (first, first + 1):
            continue  # contents: the manifest's hashes and its parser see to them
        changed = bytearray(whole)
        changed[place] ^= 1 << random.Random(place).randrange(8)
        (tmp_path / "b").write_bytes(changed)
        with pytest.raises(ArtefactError):
            Archive(tmp_path / "b")


def test_missing_file_folder_and_pipe(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError, match="no such bundle"):
            Archive(path)


def test_names_that_no_bundle_may_hold_are_not_written(tmp_path):
    for name in ("../a", "a/../b", "/a", MANIFEST, "", "a//b", "a b", "a/."):
        with pytest.raises(ArtefactError, match="cannot be the name"):
            write_archive(tmp_path / "a", b"{}", {name: b""})
    assert list(tmp_path.iterdir()) == []


def test_another_hash_is_refused_and_its_file_goes(tmp_path):
    write_archive(tmp_path / "a", b"{}", {"f": b"content"})
    (tmp_path / "out").mkdir()
    with Archive(tmp_path / "a") as archive:
        with pytest.raises(ArtefactError, match="another SHA-256"):
            archive.extract("f", tmp_path / "out" / "f", "0" * 64)
        with pytest.raises(ArtefactError, match="another SHA-256"):
            archive.check("f", "0" * 64)
    assert list((tmp_path / "out").iterdir()) == []


def test_extraction_replaces_nothing_and_follows_no_link(tmp_path):
    import hashlib

    write_archive(tmp_path / "a", b"{}", {"f": b"content"})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "f").symlink_to(victim)
    with Archive(tmp_path / "a") as archive, pytest.raises(StorageError, match="in the way"):
        archive.extract("f", tmp_path / "f", hashlib.sha256(b"content").hexdigest())
    assert victim.read_text() == "precious"


def test_a_large_entry_is_not_read(tmp_path):
    write_archive(tmp_path / "a", b"{}", {"f": bytes(1000)})
    with Archive(tmp_path / "a") as archive, pytest.raises(ArtefactError, match="at most 999"):
        archive.read("f", limit=999)
