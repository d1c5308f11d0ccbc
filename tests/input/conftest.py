"""A workspace for the indexes of records that lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace for every test."""
    root = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(root))
    return root
