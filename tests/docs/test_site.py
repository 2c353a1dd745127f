"""The documents as a site: every page has its place, the one on Python names all that is public."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML

import edgeres

ROOT = Path(__file__).parents[2]


def _pages(entries: list[object]) -> list[str]:
    found = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found += _pages(value) if isinstance(value, list) else [str(value)]
    return found


def test_every_document_is_in_the_navigation_once() -> None:
    pages = _pages(YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(pages) == len(set(pages))
    assert [page for page in pages if not (ROOT / page).is_file()] == []
    documents = {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")}
    assert documents <= set(pages)


def test_the_index_leads_to_every_document() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    linked = set(re.findall(r"\]\(([a-z-]+\.md)", text))
    asked_by_few = {"architecture.md", "index.md", "security.md", "scale-out.md", "report.md"}
    every = {file.name for file in (ROOT / "docs").glob("*.md")}
    assert every - linked == asked_by_few


def test_the_page_on_python_has_every_public_name() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    named = re.findall(r"^::: edgeres\.(\w+)$", text, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == set(edgeres.__all__) - {"__version__"}


def test_what_is_laid_out_for_the_site_holds_every_page(load_program, tmp_path: Path) -> None:
    load_program(ROOT / "scripts" / "docs_site.py").main(tmp_path / "site")
    pages = _pages(YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())["nav"])
    for page in [*pages, "benchmarks/results/zoo.json", "docs/report.png"]:
        assert (tmp_path / "site" / page).read_bytes() == (ROOT / page).read_bytes()
