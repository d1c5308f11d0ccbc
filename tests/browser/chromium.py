"""The browser: Debian's, or whatever Chromium is on the path; Playwright brings none."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing but this machine's own pages: the rest would ask the world for updates.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)
