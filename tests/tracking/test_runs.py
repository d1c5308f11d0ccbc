"""What a real MLflow store holds after the calls that the steps make."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from PIL import Image

from tasks.records.record_set import materialized
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir
from tasks.tracking import close_pipeline_run, comparison_url, model_run, open_pipeline_run, original_name, pipeline_run_identity
from tasks.tracking.runs import flatten
from tests.tracking.conftest import DIGEST, SPLITS, make_dataset

AIRFLOW = {
    "MASKLINE_AIRFLOW_DAG_ID": "mask_rcnn_zoo",
    "MASKLINE_AIRFLOW_RUN_ID": "manual__1",
    "MASKLINE_AIRFLOW_TASK_ID": "train",
    "MASKLINE_AIRFLOW_TRY_NUMBER": "2",
    "MASKLINE_AIRFLOW_URL": "http://127.0.0.1:8080/dags/mask_rcnn_zoo/runs/manual__1/tasks/train",
}


@pytest.fixture(scope="module")
def workspace(workspace):
    """Outside of any Airflow task."""
    with pytest.MonkeyPatch.context() as patch:
        for name in AIRFLOW:
            patch.delenv(name, raising=False)
        yield workspace


@pytest.fixture
def client(workspace):
    return MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")


@pytest.fixture
def run(workspace, request):
    return RunDir(workspace / "runs" / request.node.name)


def artifacts(client, run_id, folder=None):
    return {file.path for file in client.list_artifacts(run_id, folder)}


def test_parent_and_child_as_mlflow_holds_them(workspace, client, dataset, run, monkeypatch):
    for name, value in AIRFLOW.items():
        monkeypatch.setenv(name, value)
    parent = open_pipeline_run(run, dataset)
    model = ModelDir(run.root / "mask_rcnn_resnet50_atrous_coco")
    picture = workspace / "picture.png"
    picture.write_bytes(b"png")
    with model_run(model, materialized(dataset), "train") as child:
        child.log_params({"task": {"model": {"num_classes": 3, "scales": [0.5, 1.0]}}, "runtime": {}})
        for step in (10, 20):
            child.log_metrics({"Loss/RPNLoss/localization_loss": 1.0 / step, "learning_rate": 0.1}, step)
        child.flush()
        assert client.get_run(child.identity.run_id).info.status == "RUNNING"
    with model_run(model, materialized(dataset), "evaluate") as resumed:
        assert resumed.identity == child.identity
        resumed.log_metrics({"DetectionMasks_Recall/AR@100 (small)": 0.25}, 20)
        resumed.log_artifacts(picture, "pictures")

    experiment = client.get_experiment_by_name("fruits")
    assert parent.experiment_id == child.identity.experiment_id == experiment.experiment_id
    assert experiment.artifact_location == (workspace / "mlartifacts" / "fruits").as_uri()

    held = client.get_run(child.identity.run_id)
    assert held.info.run_name == "mask_rcnn_resnet50_atrous_coco"
    assert held.info.status == "FINISHED"
    assert held.data.params == {"task.model.num_classes": "3", "task.model.scales": "[0.5, 1.0]", "runtime": "{}"}
    history = client.get_metric_history(held.info.run_id, "Loss/RPNLoss/localization_loss")
    assert [(point.step, point.value) for point in history] == [(10, 0.1), (20, 0.05)]
    names = {original_name(name): value for name, value in held.data.metrics.items()}
    assert names["DetectionMasks_Recall/AR@100 (small)"] == 0.25
    assert artifacts(client, held.info.run_id, "pictures") == {"pictures/picture.png"}
    (used,) = held.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("fruits", DIGEST[:36])
    assert json.loads(used.dataset.source) == {"uri": str(dataset.root)}
    assert json.loads(used.dataset.profile) == SPLITS
    tags = held.data.tags
    # Not nested: MLflow's page of runs would hide it under the other.
    assert "mlflow.parentRunId" not in tags
    assert (tags["role"], tags["pipeline"], tags["pipeline_run"]) == ("backbone", run.name, parent.run_id)
    assert tags["dataset.digest"] == DIGEST
    assert tags["airflow.dag_id"] == "mask_rcnn_zoo"
    assert tags["airflow.run_id"] == "manual__1"
    assert tags["airflow.try_number"] == "2"
    assert tags["airflow.url"] == AIRFLOW["MASKLINE_AIRFLOW_URL"]
    assert f"({AIRFLOW['MASKLINE_AIRFLOW_URL']})" in tags["mlflow.note.content"]
    assert f"({comparison_url(parent)})" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] == "maskline evaluate"
    assert tags["version.python"] == ".".join(map(str, sys.version_info[:3]))
    assert child.identity.url == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs/{held.info.run_id}?workflowType=machine_learning"
    )

    top = client.get_run(parent.run_id)
    assert top.info.run_name == run.name
    assert top.info.status == "RUNNING"
    assert (top.data.tags["role"], top.data.tags["pipeline_run"]) == ("pipeline", parent.run_id)
    assert top.data.metrics == {}
    assert artifacts(client, parent.run_id, "dataset") == {"dataset/manifest.json", "dataset/label_map.pbtxt"}
    assert [used.dataset.name for used in top.inputs.dataset_inputs] == ["fruits"]


def test_opening_twice_gives_one_parent(client, dataset, run):
    first = open_pipeline_run(run, dataset)
    assert open_pipeline_run(run, dataset) == first == pipeline_run_identity(run)
    found = client.search_runs([first.experiment_id], f"attributes.run_name = '{run.name}'")
    assert [held.info.run_id for held in found] == [first.run_id]


def test_a_folder_of_another_dataset_is_refused(workspace, dataset, run):
    open_pipeline_run(run, dataset)
    changed = make_dataset(workspace, "fruits", "f" * 64)
    with pytest.raises(UserError, match=r"compares models of dataset fruits \(0123456789ab\), not of fruits \(ffffffffffff\)"):
        open_pipeline_run(run, changed)


def test_a_parent_that_the_store_lost_is_made_anew(client, dataset, run):
    lost = open_pipeline_run(run, dataset)
    client.delete_run(lost.run_id)
    assert open_pipeline_run(run, dataset).run_id != lost.run_id


def test_a_model_outside_any_pipeline_run_is_in_the_view_of_all(client, dataset, run):
    with model_run(ModelDir(run.root / "alone"), materialized(dataset), "train") as child:
        pass
    tags = client.get_run(child.identity.run_id).data.tags
    assert tags["role"] == "backbone"
    assert not {"pipeline", "pipeline_run", "mlflow.parentRunId"} & tags.keys()
    experiment = client.get_experiment(child.identity.experiment_id).tags
    assert experiment["mlflow.experimentKind"] == "custom_model_development"
    assert "mlflow.sharedViewState.backbones" in experiment


def test_a_run_of_an_earlier_version_is_found_beside_the_others(client, dataset, run):
    parent = open_pipeline_run(run, dataset)
    model = ModelDir(run.root / "model")
    with model_run(model, materialized(dataset), "train") as child:
        pass
    for tag in ("role", "pipeline", "pipeline_run"):
        client.delete_tag(child.identity.run_id, tag)
    client.set_tag(child.identity.run_id, "mlflow.parentRunId", parent.run_id)
    close_pipeline_run(run, complete=True, description="")
    (found,) = client.search_runs([parent.experiment_id], f"tags.pipeline_run = '{parent.run_id}' AND tags.role = 'backbone'")
    assert found.info.run_id == child.identity.run_id
    assert "mlflow.parentRunId" not in found.data.tags


@pytest.mark.parametrize(("error", "status"), [(ValueError("loss is NaN"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_an_exception_passes_through_and_marks_the_run(client, dataset, run, error, status):
    model = ModelDir(run.root / "model")
    with pytest.raises(type(error)), model_run(model, materialized(dataset), "train") as child:
        raise error
    held = client.get_run(child.identity.run_id)
    assert held.info.status == status
    assert held.data.tags["error"].startswith(type(error).__name__)
    with model_run(model, materialized(dataset), "train"):
        pass
    held = client.get_run(child.identity.run_id)
    assert held.info.status == "FINISHED"
    assert "error" not in held.data.tags


def test_more_params_than_a_call_takes_and_values_too_long(client, dataset, run):
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        child.log_params({f"p{i}": i for i in range(230)} | {"long": "x" * 7000})
    held = client.get_run(child.identity.run_id).data.params
    assert len(held) == 231
    assert held["p229"] == "229"
    assert held["long"] == "x" * 5997 + "..."


def test_a_changed_param_is_said_and_the_others_logged(client, dataset, run, capsys):
    model = ModelDir(run.root / "model")
    with model_run(model, materialized(dataset), "train") as child:
        child.log_params({"steps": 10})
    with model_run(model, materialized(dataset), "train") as child:
        child.log_params({"steps": 20, "seed": 1})
    assert client.get_run(child.identity.run_id).data.params == {"steps": "10", "seed": "1"}
    assert "1 of run" in (warning := capsys.readouterr().err)
    assert "differ now: steps" in warning


def test_closing_the_parent(client, dataset, run, tmp_path):
    parent = open_pipeline_run(run, dataset)
    (tmp_path / "comparison.md").write_text("| config |")
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        pass
    close_pipeline_run(run, complete=False, artifacts=tmp_path, tags={"best.config": "a"}, description="the table")
    held = client.get_run(parent.run_id)
    assert held.info.status == "FAILED"
    assert held.data.tags["best.config"] == "a"
    assert artifacts(client, parent.run_id, "compare") == {"compare/comparison.md"}
    links, table = held.data.tags["mlflow.note.content"].split("\n\n")
    assert table == "the table"
    assert f"({comparison_url(parent)})" in links
    assert f"/#/compare-runs?runs=%5B%22{child.identity.run_id}%22%5D&experiments=%5B%22{parent.experiment_id}%22%5D" in links

    close_pipeline_run(run, complete=True, tags={"best.config": ""}, description="no best")
    assert "best.config" not in client.get_run(parent.run_id).data.tags


def test_figures_of_a_person_stand_beside_the_original_s(client, dataset, run):
    model = ModelDir(run.root / "model")
    with model_run(model, materialized(dataset), "evaluate") as child:
        child.log_metrics({"DetectionMasks_Precision/mAP": 0.123456}, 300)
        child.log_summary({"mask_ap": 0.123456, "box_ap": None, "steps": 200_001})
    with model_run(model, materialized(dataset), "evaluate") as child:
        child.log_summary({"mask_ap": 0.1})
    held = client.get_run(child.identity.run_id).data.metrics
    assert held == {"DetectionMasks_Precision/mAP": 0.123456, "mask_ap": 0.1, "steps": 200_001}
    assert [(point.step, point.value) for point in client.get_metric_history(child.identity.run_id, "mask_ap")] == [(0, 0.1235), (0, 0.1)]


def test_pictures_have_one_name_in_every_run(client, dataset, run, tmp_path):
    """The grid of MLflow sets equal names side by side; they stand in the names of its files: key+step+N+..."""
    for number in (31, 5):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{number:04d}.png")
    keys = []
    for name in ("one", "two"):
        with model_run(ModelDir(run.root / name), materialized(dataset), "evaluate") as child:
            child.log_pictures(tmp_path)
            child.log_pictures(tmp_path / "missing")
        assert client.get_run(child.identity.run_id).data.tags["mlflow.loggedImages"] == "True"
        keys.append({file.split("+timestamp+")[0] for file in artifacts(client, child.identity.run_id, "images")})
    assert keys[0] == keys[1] == {"images/pictures~01+step+0", "images/pictures~02+step+0"}


def test_a_name_that_mlflow_refuses_leaves_the_others_alone(client, dataset, run, capsys):
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        child.log_metrics({"good": 1.0, "a" * 300: 2.0, "after": 3.0}, 1)
        child.log_metrics({"later": 4.0}, 2)
        child.log_params({"p": 1, "b" * 300: 2, "q": 3})
    held = client.get_run(child.identity.run_id)
    assert held.data.metrics == {"good": 1.0, "after": 3.0, "later": 4.0}
    assert held.data.params == {"p": "1", "q": "3"}
    said = capsys.readouterr().err
    assert said.count("WARNING: MLflow did not take metric 'aaa") == 1
    assert said.count("WARNING: MLflow did not take param 'bbb") == 1
    assert "has not taken all" not in said


def test_a_dataset_that_mlflow_refuses_does_not_leave_the_model_untracked(client, dataset, run, monkeypatch, capsys):
    monkeypatch.setattr(MlflowClient, "log_inputs", lambda *_, **__: (_ for _ in ()).throw(ValueError("no such name")))
    parent = open_pipeline_run(run, dataset)
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        child.log_metrics({"loss": 1.0}, 1)
    assert client.get_run(child.identity.run_id).data.metrics == {"loss": 1.0}
    assert artifacts(client, parent.run_id, "dataset") == {"dataset/manifest.json", "dataset/label_map.pbtxt"}
    said = capsys.readouterr().err
    for what in (f"pipeline run {run.name}", "model model"):
        assert said.count(f"WARNING: MLflow did not take the dataset of {what}: no such name") == 1
    assert "1 entry of" in said
    # It is not given up: the next step tries again.
    monkeypatch.undo()
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        pass
    assert [used.dataset.name for used in client.get_run(child.identity.run_id).inputs.dataset_inputs] == ["fruits"]


def test_a_store_that_cannot_be_opened_stops_nothing(dataset, run, monkeypatch, capsys):
    uri = f"sqlite:///{dataset.manifest}/mlflow.db"  # Under a file no folder can be made.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert open_pipeline_run(run, dataset) is None
    assert pipeline_run_identity(run) is None
    with model_run(ModelDir(run.root / "model"), materialized(dataset), "train") as child:
        child.log_params({"steps": 1})
        child.log_metrics({"loss": 1.0}, 1)
        child.log_artifacts(dataset.manifest)
    assert child.identity is None
    warnings = capsys.readouterr().err
    assert warnings.count("WARNING: MLflow does not answer") == 2
    assert f"fix: see that {uri} can be written" in warnings
    assert f"`maskline sync {run.root / 'model'}`" in warnings


WRITER = """
import sys
from pathlib import Path
from tasks.records.record_set import materialized
from tasks.tracking import model_run
from tasks.running.workspace import DatasetDir, ModelDir
with model_run(ModelDir(Path(sys.argv[1])), materialized(DatasetDir(Path(sys.argv[2]))), "train") as run:
    for step in range(30):
        run.log_metrics({"a": step, "b": -step}, step)
"""


def test_two_processes_make_the_store_and_write_at_once(tmp_path):
    dataset = make_dataset(tmp_path, "fruits", DIGEST)
    environment = {**os.environ, "MASKLINE_WORKSPACE": str(tmp_path / "new")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    models = [ModelDir(tmp_path / "run" / name) for name in ("one", "two")]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(model.root), str(dataset.root)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for model in models
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, "WARNING: MLflow" in errors) == (0, False), errors
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    for model in models:
        run_id = json.loads(model.tracking.read_text())["run_id"]
        assert [point.value for point in client.get_metric_history(run_id, "b")] == [-float(s) for s in range(30)]


def test_flattened_params():
    nested = {"a": {"b": {"c": 1}, "d": None}, "e": [1, {"f": True}], "g": {}, "h": False}
    assert flatten(nested) == {"a.b.c": "1", "a.d": "None", "e": '[1, {"f": true}]', "g": "{}", "h": "False"}


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, tasks.tracking; print('mlflow' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "False"
