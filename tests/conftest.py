"""What every test shares: the Keras that Model Garden uses, the way to real data, and a small dataset to train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.running.workspace import DatasetDir

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images with masks beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DatasetDir:
    """Four generated scenes to train on and two to evaluate, of 64 x 80 pixels, materialized."""
    # Not at the top: the tests of the DAGs run in an environment without what this needs.
    from tasks.materialize import materialize

    folder = tmp_path_factory.mktemp("dataset")
    source = folder / "scenes.yaml"
    source.write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    materialize(source, folder / "scenes")
    return DatasetDir(folder / "scenes")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workspace of a module's tests, with the MLflow database in it, which takes seconds to make."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKLINE_WORKSPACE", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MASKLINE_MLFLOW_UI", raising=False)
        yield root
