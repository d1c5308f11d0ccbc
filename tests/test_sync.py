"""The step `sync` on a run of two models that MLflow has missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.records.record_set import materialized
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, read_json
from tasks.sync import sync
from tasks.tracking import comparison_url, model_run, open_pipeline_run, pipeline_run_identity
from tests.tracking.conftest import DIGEST, log_steps, make_dataset

AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def run(workspace: Path) -> RunDir:
    """Opened and trained, two models of three and of four steps, while MLflow was away."""
    run, dataset = RunDir(workspace / "runs" / "missed"), make_dataset(workspace, "fruits", DIGEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", AWAY)
        open_pipeline_run(run, dataset)
        for name, steps in (("a", 3), ("b", 4)):
            with model_run(ModelDir(run.root / name), materialized(dataset), "train") as child:
                log_steps(child, ModelDir(run.root / name), range(1, steps + 1))
    return run


def test_while_mlflow_is_away_a_person_is_told_what_waits(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    with pytest.raises(UserError, match=r"MLflow does not answer(.|\n)*4 entries of .*/a/train/tracking.jsonl wait") as told:
        sync(run.root)
    assert f"see that the MLflow server at {AWAY} runs" in told.value.fix


def test_a_model_is_sent_with_the_run_it_belongs_to_and_then_the_rest_once(
    workspace: Path, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")
    first, second = ModelDir(run.root / "a"), ModelDir(run.root / "b")
    done = sync(first.root)
    # Its run, the dataset, the steps and the end.
    assert (done.status, done.summary["entries"], done.summary["numbers"]) == ("done", 4, 3)
    run_id = read_json(first.tracking)["run_id"]
    assert done.summary["mlflow_url"] == read_json(first.tracking)["url"]
    parent = pipeline_run_identity(run)
    assert parent is not None
    assert client.get_run(run_id).data.tags["pipeline_run"] == parent.run_id
    assert not second.tracking.exists()

    capsys.readouterr()
    done = sync(run.root)
    # Besides, the dataset of the run, two artifacts and the views.
    assert (done.status, done.summary["entries"], done.summary["numbers"]) == ("done", 8, 4)
    assert done.summary["mlflow_url"] == comparison_url(parent)
    assert capsys.readouterr().out.splitlines() == [
        "model a: MLflow has all of it",
        "model b: 4 entries, 4 numbers sent",
        "pipeline run missed: 4 entries, 0 numbers sent",
        f"MLflow: {comparison_url(parent)}",
    ]
    for model, steps in ((first, 3), (second, 4)):
        points = client.get_metric_history(read_json(model.tracking)["run_id"], "Loss/0")
        assert [point.step for point in points] == list(range(1, steps + 1))

    again = sync(run.root)
    assert (again.status, again.summary["entries"], again.summary["numbers"]) == ("skipped", 0, 0)
    assert len(client.get_metric_history(run_id, "Loss/0")) == 3


def test_a_folder_that_mlflow_was_never_to_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} holds nothing that was to go to MLflow"):
        sync(tmp_path)
