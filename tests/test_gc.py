"""What `gc` removes of a workspace with a run of each kind, and what it must never touch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from tasks.gc import gc
from tasks.housekeeping import garbage as found_garbage
from tasks.running.errors import UserError
from tasks.running.lease import leased
from tasks.tracking import store

DAY = 86400.0
CONFIG = "mask_rcnn_inception_v2_coco"


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if ".mlflow" not in path.name}


def put(file: Path, text: str = "x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def age(folder: Path, days: float) -> None:
    moment = time.time() - days * DAY
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (moment, moment))


def make_run(workspace: Path, name: str, dataset: str, start: Path | None = None, days: float = 40) -> Path:
    model = workspace / "runs" / name / CONFIG
    records = f"{workspace}/datasets/{dataset}/train.record-?????-of-00001"
    experiment = {"task": {"train_data": {"input_path": records}, "init_checkpoint": str(start or "")}}
    put(model / "experiment.yaml", yaml.safe_dump(experiment))
    for step in (10, 20, 30):
        put(model / "train" / f"ckpt-{step}.index")
        put(model / "train" / f"ckpt-{step}.data-00000-of-00001", "x" * 1000)
    put(model / "train" / "evaluations.json", json.dumps({"best": {"checkpoint": "ckpt-20"}}))
    put(model / "train" / "result.json", "{}")
    age(workspace / "runs" / name, days)
    return model


@pytest.fixture
def filled(workspace: Path) -> Path:
    """`champion` began with the weights of `first`, and both with the data set `shapes`; nothing refers to `old` and `unused`."""
    for dataset in ("shapes", "unused", "fresh", "measured"):
        put(workspace / "datasets" / dataset / "manifest.json", "{}")
        put(workspace / "datasets" / dataset / "train.record-00000-of-00001", "x" * 5000)
        age(workspace / "datasets" / dataset, 3 if dataset == "fresh" else 50)
    make_run(workspace, "old", "unused")
    make_run(workspace, "young", "shapes", days=29)
    first = make_run(workspace, "first", "shapes")
    champion = make_run(workspace, "champion", "shapes", first / "train" / "ckpt-30")
    make_run(workspace, "scheduled", "shapes")
    make_run(workspace, "unsent", "shapes")
    put(workspace / "runs" / "unsent" / CONFIG / "train" / "tracking.jsonl", '{"do": "open"}\n')
    age(workspace / "runs" / "unsent", 40)
    # A model of somebody else, evaluated and not trained here; of the second one MLflow has not heard.
    for name, days in (("judged", 5), ("untold", 40)):
        other = workspace / "runs" / name / "model"
        put(other / "evaluation" / "metrics.json", json.dumps({"records": [f"{workspace}/datasets/measured/val.record-00000-of-00001"]}))
        put(other / "tracking" / "tracking.jsonl", '{"do": "open"}\n')
        age(workspace / "runs" / name, days)
    kept = {"run": str(workspace / "runs" / "scheduled"), "ingredients": {"data": {}, "configs": {}, "settings": {}, "code": {}}}
    put(workspace / "schedules" / "weekly.json", json.dumps(kept))
    put(workspace / "steps" / "manual__1" / "train" / "1" / "log.txt")
    age(workspace / "steps", 40)
    put(workspace / "runs" / ".other.a1b2c3d4" / "experiment.yaml")
    age(workspace / "runs" / ".other.a1b2c3d4", 40)
    client = store.client()
    if not client.search_registered_models():
        client.create_registered_model("shapes")
        version = client.create_model_version("shapes", source=str(champion / "train"), tags={"model_dir": str(champion)})
        client.set_registered_model_alias("shapes", "champion", version.version)
    return workspace


def things(summary: dict, workspace: Path) -> dict[str, list[str]]:
    return {kind: [str(Path(one).relative_to(workspace)) for one in those] for kind, those in summary["things"].items()}


CHECKPOINTS = [f"runs/{run}/{CONFIG}/train/ckpt-10.index" for run in ("champion", "first", "scheduled", "unsent")]
EXPECTED = {
    "run": ["runs/old"],
    "data set": ["datasets/unused"],
    "checkpoint": CHECKPOINTS,
    "log": ["steps/manual__1"],
    "leftover": ["runs/.other.a1b2c3d4"],
}


def test_without_delete_all_stays_and_is_told(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(filled)
    result = gc(filled)
    assert tree(filled) == before
    assert result.status == "skipped"
    assert things(result.summary, filled) == EXPECTED
    told = capsys.readouterr().out
    for line in (
        "stays    runs/champion: champion of shapes",
        f"stays    runs/first: {CONFIG} of the run champion was made of it",
        "stays    runs/scheduled: last good run of the schedule weekly",
        "stays    runs/unsent: MLflow does not have all of it: maskline sync",
        "stays    runs/untold: MLflow does not have all of it: maskline sync",
        "stays    datasets/measured: model of the run ",
        "stays    runs/young: written to 29 days ago",
        "stays    datasets/fresh: written to 3 days ago",
        "can go   run runs/old, 0.0 MB, 40 days old: nothing refers to it",
        "--delete removes them",
    ):
        assert line in told


def test_delete_removes_that_and_nothing_else(filled: Path) -> None:
    result = gc(filled, delete=True)
    assert things(result.summary, filled) == EXPECTED
    for name in ("runs/old", "datasets/unused", "steps/manual__1", "runs/.other.a1b2c3d4"):
        assert not (filled / name).exists()
    left = sorted(file.name for file in (filled / "runs" / "champion" / CONFIG / "train").glob("ckpt-*"))
    assert left == [f"ckpt-{step}.{end}" for step in (20, 30) for end in ("data-00000-of-00001", "index")]
    assert len(list((filled / "runs" / "young").rglob("ckpt-*.index"))) == 3
    assert gc(filled, delete=True).summary == {"bytes": 0, "things": {}}


def test_named_runs_and_those_that_are_trained_stay_with_their_data(filled: Path) -> None:
    assert "data set" not in gc(filled, keep=["old"]).summary["things"]
    model = filled / "runs" / "old" / CONFIG
    put(model / ".training.lock")
    age(filled / "runs" / "old", 40)
    with leased(model / ".training.lock", "is trained"):
        age(filled / "runs" / "old", 40)
        assert "run" not in gc(filled).summary["things"]
    age(filled / "runs" / "old", 40)
    assert things(gc(filled).summary, filled)["run"] == ["runs/old"]


def test_what_somebody_writes_to_meanwhile_stays(filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = found_garbage.garbage

    def written_meanwhile(*given: object) -> list[found_garbage.Garbage]:
        found = find(*given)
        put(filled / "runs" / "old" / "new.txt")
        return found

    monkeypatch.setattr("tasks.gc.garbage", written_meanwhile)
    assert "run" not in gc(filled, delete=True).summary["things"]
    assert "stays    runs/old: somebody has written to it just now" in capsys.readouterr().out
    assert (filled / "runs" / "old" / CONFIG / "train" / "ckpt-30.index").exists()


def test_who_does_not_know_removes_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for told in ("a month", "3", "5h", "-1d"):
        with pytest.raises(UserError, match="--older-than is"):
            gc(filled, told, delete=True)
    with pytest.raises(UserError, match=r"--keep is nobody, and .* has no such run"):
        gc(filled, keep=["nobody"], delete=True)
    with pytest.raises(UserError, match="is no workspace of maskline"):
        gc(tmp_path, delete=True)
    damaged = put(filled / "runs" / "champion" / CONFIG / "experiment.yaml", "task: [")
    with pytest.raises(UserError, match=r"experiment\.yaml is not what a step of maskline writes"):
        gc(filled, delete=True)
    damaged.unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="MLflow does not answer"):
        gc(filled, delete=True)
    assert (filled / "runs" / "old").is_dir()
