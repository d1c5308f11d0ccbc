"""A browser in front of a real stack with the real trainer. Runs in the Airflow environment; without Chromium, tests skip."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "dags"), str(REPOSITORY / "dags" / "local"), str(Path(__file__).parent)]

import stack  # noqa: E402 - found by the path above
from airflow_pages import PATIENCE_MS  # noqa: E402
from chromium import ARGUMENTS, NAMES, find_chromium  # noqa: E402
from maskline_airflow.step_log import as_file_name  # noqa: E402

SCREENSHOTS = REPOSITORY / "workspace" / "screenshots"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = find_chromium()
    if found is None:
        pytest.skip(f"no browser is here: none of {', '.join(NAMES)} is on the path")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=ARGUMENTS)


@pytest.fixture(scope="session")
def settings(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Settings]:
    """Airflow and MLflow, up, on free ports and a workspace of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AIRFLOW", "MASKLINE", "MLFLOW"))]:
            patch.delenv(name)
        settings = stack.Settings(tmp_path_factory.mktemp("browser") / "workspace", *free_ports())
        try:
            stack.up(settings)
            yield settings
        finally:
            stack.down(settings)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh window; how it looked in the end is kept in workspace/screenshots/ under the test's name."""
    with browser.new_context(viewport={"width": 1500, "height": 1000}) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        yield page
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        # The last window, where a link has opened one.
        context.pages[-1].screenshot(path=SCREENSHOTS / f"{as_file_name(request.node.name)}.png")
