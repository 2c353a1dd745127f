"""Takes the pictures of docs/report.md and README.md from a report page, with Chromium.

    edgeres convert --layers --output OUT
    edgeres report OUT
    python scripts/report_pictures.py OUT/report.html

Take them from a run on a quiet machine: doubts about the times are on the page, and in the picture.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = 1100
_STILL = "nav{position:static!important}.tall{max-height:19rem!important}"


def main(report: Path) -> None:
    """Writes ``docs/report.png``, its beginning, and ``docs/report_layers.png``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.add_style_tag(content=_STILL)
        layers = page.locator("div.layers").first
        page.locator("#layers summary").first.click()
        layers.locator("select").select_option("weights")
        layers.locator("th", has_text="Noise").locator("button").click()
        page.evaluate("scrollTo(0, 0)")
        _save(page, "report.png", 0, _top(page, "#flips"))
        _save(page, "report_summary.png", 0, _top(page, "#summary h3 >> text=Findings"))
        _save(page, "report_layers.png", _top(page, "#layers"), _top(page, "#layers h3 >> nth=1"))
        browser.close()


def _top(page: Page, place: str) -> float:
    box = page.locator(place).bounding_box()
    if box is None:
        raise SystemExit(f"The page has no {place}: make it from `edgeres convert --layers`.")
    return box["y"]


def _save(page: Page, name: str, start: float, end: float) -> None:
    clip = {"x": 0.0, "y": start, "width": float(WIDTH), "height": end - start}
    shot = page.screenshot(full_page=True, clip=clip)
    few = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(DOCS / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
