"""Where the annotations of a test lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """An empty folder, once on disk and once in a store that is reached by URL."""
    return UPath(tmp_path) if request.param == "disk" else UPath(f"memory:/{tmp_path}")
