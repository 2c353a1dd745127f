"""The code blocks of a document, each with the comment in front of it that says how it is tested.

    <!-- run -->                    it runs, in a folder that has what the documents talk of
    <!-- run: slow -->              the same, only with the slow tests
    <!-- run: exit 1, REASON -->    it runs and ends with this code
    <!-- run by: tests/FILE.py -->  another test runs it
    <!-- not run: REASON -->        it cannot run here

A comment does not show on the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

CODE = {"console", "sh", "bash", "python", "pycon"}  # has to say how it is tested
TOLD = {"text", "yaml", "json", "toml", "cpp", "html", "dockerfile", "ini"}
_MARK = re.compile(r"<!--\s*(run by|not run|run)(?::\s*(.*?))?\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The document.
        line: Where it begins, from 1 on.
        language: Behind the fence.
        code: Its text.
        kind: ``run``, ``run by``, ``not run``; empty without a comment.
        reason: What the comment says behind that.
    """

    page: Path
    line: int
    language: str
    code: str
    kind: str
    reason: str

    @property
    def slow(self) -> bool:
        return self.kind == "run" and self.reason == "slow"

    @property
    def exit_code(self) -> int:
        told = re.match(r"exit (\d+), \S", self.reason)
        return int(told[1]) if told else 0

    @property
    def shell(self) -> str:
        """The commands alone: of a console, what stands behind the prompt and goes on below it."""
        if self.language != "console":
            return self.code
        lines, goes_on = [], False
        for line in self.code.splitlines():
            if line.startswith("$ ") or goes_on:
                lines.append(line.removeprefix("$ "))
                goes_on = line.endswith("\\")
        return "\n".join(lines) + "\n"

    def problem(self) -> str:
        """What is wrong with how it says that it is tested; empty where nothing is."""
        if not self.language:
            return "has no language; `text` is one"
        if self.language not in CODE | TOLD:
            return f"has a language that no test knows, {self.language}"
        if self.language not in CODE:
            return "is no code, but says that it is run" if self.kind == "run" else ""
        if not self.kind:
            return "says neither that it runs nor why not"
        if self.kind == "not run" and len(self.reason.split()) < 2:
            return "is not run and does not say why"
        if self.kind == "run" and self.reason not in ("", "slow") and not self.exit_code:
            return f"runs in a way that is not known, {self.reason}"
        return ""


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in its order."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence":
            mark = None
            if before is not None and before.type == "html_block":
                mark = _MARK.fullmatch(before.content.strip())
            kind, reason = (mark[1], " ".join((mark[2] or "").split())) if mark else ("", "")
            line = (token.map or [0])[0] + 1
            found.append(Block(page, line, token.info.strip(), token.content, kind, reason))
    return found
