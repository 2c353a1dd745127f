"""Every link between documents leads somewhere: to a file that is there, to a heading of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    file
    for part in ("*.md", "docs/*.md", "benchmarks/**/*.md", "calibration/*.md", "examples/*.md")
    for file in ROOT.glob(part)
)


def _tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield token
        yield from token.children or ()


@cache
def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Python-Markdown make them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    found: set[str] = set()
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = re.sub(r"[^\w\s-]", "", inline.content.replace("`", "").lower()).strip()
            found.add(re.sub(r"[-\s]+", "-", words))
    return found


def _dead(page: Path) -> Iterator[str]:
    for token in _tokens(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if not isinstance(target, str) or re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        whole = file.suffix == ".md" and file.is_file() and anchor in _anchors(file)
        if not (whole if anchor else file.exists()):
            yield target


def test_no_link_is_dead() -> None:
    assert len(PAGES) > 25
    links = sum(bool(t.attrs.get("href")) for page in PAGES for t in _tokens(page))
    assert links > 100
    dead = {str(page.relative_to(ROOT)): found for page in PAGES if (found := list(_dead(page)))}
    assert dead == {}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c!\n\n[a](#a-b-c) [b](#b) [c](other.md) ![d](d.png) [e](https://e)\n")
    assert list(_dead(page)) == ["#b", "other.md", "d.png"]
