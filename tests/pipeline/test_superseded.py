"""What belongs to an earlier run is set aside, whole, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

from edgeres.pipeline.superseded import made_from_a_run, to_set_aside
from edgeres.system.publish import handover


def test_what_was_made_from_a_run_is_moved_and_kept(tmp_path: Path) -> None:
    assert to_set_aside(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        (tmp_path / "MODEL_CARD.md").write_text(text)
        (tmp_path / "serve-triton" / "net" / "1").mkdir(parents=True)
        (tmp_path / "mine.md").write_text("mine")
        (tmp_path / "serve-mine").mkdir(exist_ok=True)
        with handover(tmp_path) as waiting:
            waiting.aside |= to_set_aside(tmp_path)
    kept = tmp_path / "superseded"
    assert [(kept / n / "MODEL_CARD.md").read_text() for n in "12"] == ["first", "second"]
    assert (kept / "2" / "serve-triton" / "net" / "1").is_dir()
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"mine.md", "serve-mine", "superseded"}


def test_every_fixed_name_is_known() -> None:
    names = made_from_a_run()
    assert {"report.html", "report.md", "MODEL_CARD.md", "bundle.edgeres"} < set(names)
    assert any(name.startswith("bundle.edgeres.") for name in names)
