"""Where a run came from, in a checkout and in an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tracking.provenance import commit


def test_in_an_image_it_is_the_commit_that_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    monkeypatch.delenv("MASKLINE_COMMIT", raising=False)
    assert commit() is None
    monkeypatch.setenv("MASKLINE_COMMIT", "0123abcd-dirty")
    assert commit() == "0123abcd-dirty"
