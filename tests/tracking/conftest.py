"""What tests of tracking share: a dataset's folder without records, which no run reads, and the numbers of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.records.manifest import Manifest, Split, write_manifest
from tasks.records.statistics import Statistics
from tasks.running.line_file import append_lines
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.tracking import ModelRun

DIGEST = "0123456789abcdef" * 4
SPLITS = {"train": {"images": 6, "objects": 11}, "val": {"images": 2, "objects": 3}}


def make_dataset(workspace: Path, name: str, digest: str) -> DatasetDir:
    folder = DatasetDir(workspace / "datasets" / f"{name}-{digest[:4]}")
    splits = {
        split: Split(
            (),
            "",
            **counts,
            empty_images=0,
            crowd_objects=0,
            objects_per_category={},
            findings={},
            quarantined={},
            statistics=Statistics(),
        )
        for split, counts in SPLITS.items()
    }
    write_manifest(folder.manifest, Manifest(name, digest, "PNG_MASKS", (), splits))
    folder.label_map.write_text('item { id: 1 name: "apple" }\n')
    return folder


@pytest.fixture
def dataset(workspace: Path) -> DatasetDir:
    return make_dataset(workspace, "fruits", DIGEST)


def log_steps(run: ModelRun, model: ModelDir, steps: range, start: float = 1e9, figures: int = 1) -> None:
    """A loop of steps as training logs it: the loss of step n is 1 / n, which takes a second that begins n seconds after `start`."""
    rows = [{"step": n, "time": start + n, "compiled": True, **{f"Loss/{k}": k + 1 / n for k in range(figures)}} for n in steps]
    file = model.train / "metrics.jsonl"
    run.log_steps(file, *append_lines(file, map(json.dumps, rows)))
