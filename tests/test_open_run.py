"""Opening a run: the dataset's page beside `run.json` and in MLflow, and what becomes of the run when there is none."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from tasks import open_run as step
from tasks.open_run import open_run
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, RunDir
from tests.records.small_records import square, write_dataset


@pytest.fixture
def run(workspace, request):
    return RunDir(workspace / "runs" / request.node.name)


@pytest.fixture
def dataset(tmp_path):
    folder = DatasetDir(tmp_path / "tiny")
    write_dataset(folder, {"train": [[square(1, 9)]]}, {1: "cat"})
    folder.label_map.write_text('item { id: 1 name: "cat" }\n')
    return folder


def artifacts(workspace, run_id):
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")
    return {file.path for file in client.list_artifacts(run_id, "dataset")}


def test_the_page_goes_with_the_run(workspace, run, dataset):
    result = open_run(run, dataset)
    assert result.outputs["dataset_page"] == str(run.root / "dataset.html")
    assert '<td class="name">cat</td>' in run.dataset_page.read_text()
    held = artifacts(workspace, result.summary["mlflow_run_id"])
    assert held == {"dataset/manifest.json", "dataset/label_map.pbtxt", "dataset/dataset.html"}


def test_a_page_that_cannot_be_drawn_is_said_and_made_later(workspace, run, dataset, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(step, "dataset_page", lambda *_: 1 / 0)
        result = open_run(run, dataset)
    assert (result.status, result.outputs) == ("done", {"run": str(run.root)})
    assert "WARNING: there is no page of the dataset: ZeroDivisionError" in capsys.readouterr().err
    result = open_run(run, dataset)
    assert result.status == "skipped"
    assert "dataset/dataset.html" in artifacts(workspace, result.summary["mlflow_run_id"])


def test_broken_records_open_no_run(run, dataset):
    shard = dataset.root / "train.record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="is cut off or damaged"):
        open_run(run, dataset)
    assert not run.root.exists()


def test_the_page_of_another_dataset_stays(run, dataset, tmp_path):
    open_run(run, dataset)
    before = run.dataset_page.read_bytes()
    dataset.manifest.write_text(dataset.manifest.read_text().replace("0123456789abcdef", "f" * 16))
    with pytest.raises(UserError, match="compares models of dataset tiny"):
        open_run(run, dataset)
    assert run.dataset_page.read_bytes() == before
