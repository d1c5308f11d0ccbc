"""Writes the README's pictures anew: `make screenshots`, after `make demo`, with the stack up or not.

docs/images/trigger_form.png     the form of the DAG `mask_rcnn_zoo`
docs/images/backbones.png        MLflow's charts of the demo's models
docs/images/found.png            a validation picture of the model that came first: truth on the left, what was found on the right
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "dags" / "local"), str(Path(__file__).parent)]

import stack  # noqa: E402 - found by the path above
from airflow_pages import PATIENCE_MS, TriggerForm, open_dag  # noqa: E402
from chromium import ARGUMENTS, NAMES, find_chromium  # noqa: E402
from mlflow_rest import comparison_page  # noqa: E402

IMAGES = REPOSITORY / "docs" / "images"
PICTURE = 7
"""Of the first model's pictures, counted from 0."""


def main() -> int:
    settings = stack.Settings.from_environment()
    demo = settings.workspace / "runs" / "demo"
    if not (demo / "compare" / "comparison.json").exists():
        print(f"error: {demo} holds no comparison\n  fix: run `make demo` first", file=sys.stderr)
        return 2
    best = json.loads((demo / "compare" / "comparison.json").read_text())["rows"][0]["config"]
    IMAGES.mkdir(exist_ok=True)
    shutil.copy(sorted((demo / best / "evaluation" / "pictures").iterdir())[PICTURE], IMAGES / "found.png")
    started = stack.up(settings)
    try:
        with window() as page:
            open_dag(page, settings, stack.DAG_ID)
            TriggerForm(page).dialog.screenshot(path=IMAGES / "trigger_form.png")
            tracked = json.loads((demo / "run.json").read_text())["tracking"]
            page.set_viewport_size({"width": 1600, "height": 1900})  # MLflow draws what is in the window only
            page.goto(comparison_page(settings.mlflow_url, tracked["experiment_id"], tracked["run_id"]))
            page.get_by_label("Close").first.click()
            for text in ("mask_ap", "pictures/01"):
                page.get_by_text(text, exact=True).first.wait_for()
            page.wait_for_timeout(3000)  # the charts are drawn after their frames
            page.screenshot(path=IMAGES / "backbones.png")
    finally:
        if started:
            stack.down(settings)
    print(f"written: {', '.join(sorted(str(path) for path in IMAGES.iterdir()))}")
    return 0


@contextmanager
def window() -> Iterator[Page]:
    found = find_chromium()
    if found is None:
        raise stack.StackError(f"none of {', '.join(NAMES)} is on the path; install Chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found, args=ARGUMENTS) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        yield page


if __name__ == "__main__":
    try:
        sys.exit(main())
    except stack.StackError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
