"""A shard of two records, and a workspace for the indexes of records that lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.input.samples import record


@pytest.fixture(autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace for every test."""
    root = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(root))
    return root


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train.record-00000-of-00001"
    empty = {f"image__object__{name}": [] for name in ("bbox__ymin", "bbox__xmin", "bbox__ymax", "bbox__xmax", "class__text", "mask")}
    tall = tf.io.encode_png(np.zeros((8, 6, 3), np.uint8)).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record())
        writer.write(record(image__encoded=[tall], **empty))
    return path
