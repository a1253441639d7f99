"""The screenshots of the README: the report of a run, and the page to try its model.

    python -m benchmarks.screenshots [--run outputs/demo]

Writes `docs/report.png` and `docs/page.png`; needs chromium and chromedriver (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.browser import MISSING, Browser, open_browser
from benchmarks.datasets import ROOT
from benchmarks.outcomes import run
from lagamc.app import LabelPage
from lagamc.classifier import LagamcClassifier
from lagamc.report_page import write_report
from lagamc.serving import example_texts, launch

TEXT = "Where can I park at your shop? The kettle came cracked, and I want my money back."
PARKING = ("parking", "Parking: the customer asks where to park at the shop.")


def shoot(browser: Browser, path: Path) -> None:
    """What the window shows, as a PNG of few colours."""
    with tempfile.TemporaryDirectory() as folder:
        browser.driver.execute_script("document.documentElement.style.scrollbarWidth = 'none'")
        browser.driver.save_screenshot(f"{folder}/full.png")
        with Image.open(f"{folder}/full.png") as picture:
            path.parent.mkdir(exist_ok=True)
            picture.convert("RGB").quantize(128).save(path, optimize=True)


def shoot_report(run: str, path: Path) -> None:
    """The report from its summary on."""
    with tempfile.TemporaryDirectory() as folder, open_browser(1150, 1630) as browser:
        browser.driver.get(write_report(run, folder).as_uri())
        browser.driver.execute_script("document.getElementById('summary').scrollIntoView()")
        shoot(browser, path)


def shoot_page(run: str, path: Path) -> None:
    """The page with a predicted text and an added label."""
    page = LabelPage(LagamcClassifier.from_pretrained(run), example_texts(run), "LAGAMC: demo").build()
    address = launch(page, port=7897)
    with open_browser(1300, 1720) as browser:
        browser.driver.get(address)
        browser.find("#text textarea").send_keys(TEXT)
        browser.find("#new-label textarea, #new-label input").send_keys(PARKING[0])
        browser.find("#new-description textarea, #new-description input").send_keys(PARKING[1])
        browser.find("#add").click()
        browser.wait(lambda: PARKING[0] in browser.text("#scores"))
        browser.driver.execute_script("window.scrollTo(0, 0)")
        shoot(browser, path)
    page.close(verbose=False)


def main() -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="outputs/demo", help="output folder of a training run, as of `make demo`")
    options = parser.parse_args()
    if MISSING:
        raise SystemExit(MISSING)
    pictures = {"report": ROOT / "docs" / "report.png", "page": ROOT / "docs" / "page.png"}
    shoot_report(options.run, pictures["report"])
    shoot_page(options.run, pictures["page"])
    print(json.dumps({name: path.stat().st_size for name, path in pictures.items()}))


if __name__ == "__main__":
    run(main)
