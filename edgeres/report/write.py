"""Writes what ``edgeres report`` makes: the page, the Markdown and the model card."""

from __future__ import annotations

from pathlib import Path

from edgeres.report.history import read_history
from edgeres.report.markdown import report_markdown
from edgeres.report.model_card import model_card
from edgeres.report.page import read_output, report_page
from edgeres.system.files import write_atomic

PAGE, MARKDOWN, CARD = "report.html", "report.md", "MODEL_CARD.md"


def write_reports(
    folder: Path, target: Path, *, license_name: str = "", history: Path | None = None
) -> dict[str, Path]:
    """Writes ``report.html``, ``report.md`` and ``MODEL_CARD.md``.

    Args:
        folder: Output folder of ``convert``.
        target: Where the files go; made where it is not there.
        license_name: SPDX name of the weights' licence, for the card.
        history: SQLite file of results over time to show; ``None`` for none.

    Returns:
        The files by kind: ``html``, ``markdown`` and ``model_card``.

    Raises:
        ArtefactError: The folder holds no report, or a damaged file.
        BackendMissingError: The packages that draw the page are not installed.
        StorageError: A file cannot be written.
    """
    output = read_output(folder)
    rows = read_history(history) if history is not None else []
    name = str(output.recipe.get("name") or output.report.model.name)
    texts = {
        "html": (PAGE, report_page(output, rows)),
        "markdown": (MARKDOWN, report_markdown(output.report, name=name)),
        "model_card": (CARD, model_card(output.report, name=name, license_name=license_name)),
    }
    files = {}
    for kind, (file_name, text) in texts.items():
        files[kind] = target / file_name
        write_atomic(files[kind], text.encode())
    return files
