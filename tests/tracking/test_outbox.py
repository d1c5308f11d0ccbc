"""What MLflow holds after it was away, an answer was lost, a step was killed or a training was resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from tasks.records.record_set import RecordSet, materialized
from tasks.running.workspace import DatasetDir, ModelDir, RunDir, read_json
from tasks.tracking import (
    ModelOutbox,
    PipelineOutbox,
    close_pipeline_run,
    model_run,
    open_pipeline_run,
    pipeline_run_identity,
    send_backlog,
)
from tests.tracking.conftest import log_steps


@pytest.fixture
def client(workspace: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")


@pytest.fixture
def run(workspace: Path, request: pytest.FixtureRequest) -> RunDir:
    return RunDir(workspace / "runs" / request.node.name)


@pytest.fixture
def model(run: RunDir) -> ModelDir:
    return ModelDir(run.root / "model")


@pytest.fixture
def records(dataset: DatasetDir) -> RecordSet:
    return materialized(dataset)


@pytest.fixture
def away(workspace: Path) -> Iterator[Callable[[], None]]:
    """MLflow does not answer until this is called: nobody listens at the port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        yield lambda: patch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[Any]]:
    """Makes the first call of one of the client's methods fail, before it does anything or after it has done all; its calls are listed."""

    def prepare(method: str, when: str) -> list[Any]:
        calls: list[Any] = []
        right = getattr(MlflowClient, method)

        def call(self: MlflowClient, *arguments: Any, **more: Any) -> Any:
            calls.append((arguments, more))
            if when == "before" and len(calls) == 1:
                raise ConnectionError("connection refused")
            answer = right(self, *arguments, **more)
            if when == "after" and len(calls) == 1:
                raise ConnectionError("the answer was lost")
            return answer

        monkeypatch.setattr(MlflowClient, method, call)
        return calls

    return prepare


def history(client: MlflowClient, model: ModelDir, name: str = "Loss/0") -> list[tuple[int, float]]:
    """Steps and values in the order of the table of MLflow's database, in which they were taken."""
    file = client.tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY rowid", (run_id(model), name))
        return list(rows)


def run_id(model: ModelDir) -> str:
    return read_json(model.tracking)["run_id"]


def losses(*steps: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in steps]


def test_all_of_a_run_that_began_and_ended_while_mlflow_was_away_comes_later(
    client: MlflowClient, run: RunDir, dataset: DatasetDir, records: RecordSet, away: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_pipeline_run(run, dataset) is None
    good, bad = ModelDir(run.root / "good"), ModelDir(run.root / "bad")
    with model_run(good, records, "train") as child:
        child.log_params({"a": {"b": 1}})
        child.log_summary({"steps": 4})
        for steps in (range(1, 2), range(2, 5)):
            log_steps(child, good, steps)
        child.log_artifacts(good.train / "metrics.jsonl")
        assert child.identity is None
    with pytest.raises(ValueError, match="no such file"), model_run(bad, records, "train"):
        raise ValueError("no such file")
    close_pipeline_run(run, complete=False, description="the table", tags={"best.config": "good"})
    said = capsys.readouterr().err
    assert f"`maskline sync {good.root}`" in said
    # The pipeline run, and train twice.
    assert said.count("WARNING: MLflow does not answer: ") == said.count("[Errno 111] Connection refused\n") == 3
    assert not good.tracking.exists()

    away()
    assert send_backlog(PipelineOutbox(run)) == 9
    parent = pipeline_run_identity(run)
    assert parent is not None
    opened, ended = {}, {}
    for folder in (run.root, good.train, bad.train):
        entries = [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]
        opened[folder], ended[folder] = entries[0]["at"], entries[-1]["at"]
    for folder, found, status in (
        (run.root, parent.run_id, "FAILED"),
        (good.train, run_id(good), "FINISHED"),
        (bad.train, run_id(bad), "FAILED"),
    ):
        info = client.get_run(found).info
        assert (info.status, info.start_time, info.end_time) == (status, opened[folder], ended[folder])
    held = client.get_run(run_id(good))
    assert held.info.run_name == "good"
    assert (held.data.params, held.data.metrics["steps"]) == ({"a.b": "1"}, 4)
    assert history(client, good) == losses(1, 2, 3, 4)
    points = client.get_metric_history(run_id(good), "Loss/0")
    assert [point.timestamp for point in points] == [1_000_000_001_000, 1_000_000_002_000, 1_000_000_003_000, 1_000_000_004_000]
    assert [file.path for file in client.list_artifacts(run_id(good))] == ["metrics.jsonl"]
    assert client.get_run(run_id(bad)).data.tags["error"] == "ValueError: no such file"
    # The parent was there before them, so that they are its models; and it links to both.
    found = client.search_runs([parent.experiment_id], f"tags.pipeline_run = '{parent.run_id}' AND tags.role = 'backbone'")
    assert {one.info.run_id for one in found} == {run_id(good), run_id(bad)}
    note = client.get_run(parent.run_id).data.tags["mlflow.note.content"]
    assert "the table" in note
    assert all(one in note for one in (run_id(good), run_id(bad)))
    assert f"mlflow.sharedViewState.{parent.run_id}" in client.get_experiment(parent.experiment_id).tags

    for outbox in (PipelineOutbox(run), ModelOutbox(good), ModelOutbox(bad)):
        assert (outbox.journal.left(), send_backlog(outbox), outbox.points_sent) == (0, 0, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_points_are_there_once_whether_the_call_or_its_answer_was_lost(
    client: MlflowClient, model: ModelDir, records: RecordSet, fails: Callable[[str, str], list[Any]], when: str
) -> None:
    with model_run(model, records, "train") as child:
        child.flush()
        calls = fails("log_batch", when)
        log_steps(child, model, range(1, 4))
        child.flush()
        log_steps(child, model, range(4, 6))
    assert len(calls) == 2
    assert history(client, model) == losses(1, 2, 3, 4, 5)
    assert client.get_run(run_id(model)).info.status == "FINISHED"


def test_a_run_whose_making_was_not_confirmed_is_found(
    client: MlflowClient, run: RunDir, dataset: DatasetDir, records: RecordSet, fails: Callable[[str, str], list[Any]]
) -> None:
    model = ModelDir(run.root / "model of a lost answer")
    calls = fails("create_run", "after")
    with model_run(model, records, "train") as child:
        child.flush()
        assert child.identity is None
        log_steps(child, model, range(1, 3))
    assert len(calls) == 1
    experiment = client.get_experiment_by_name("fruits")
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{model.name}'")
    assert [one.info.run_id for one in found] == [run_id(model)]
    assert history(client, model) == losses(1, 2)


def test_more_points_than_a_call_takes_go_on_where_the_last_call_ended(
    client: MlflowClient, model: ModelDir, records: RecordSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model_run(model, records, "train") as child:
        child.flush()
        sizes: list[int] = []
        right = MlflowClient.log_batch

        def log_batch(self: MlflowClient, found: str, metrics: Any = (), **more: Any) -> None:
            sizes.append(len(metrics))
            if len(sizes) == 2:
                raise ConnectionError("connection refused")
            right(self, found, metrics=metrics, **more)

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        log_steps(child, model, range(1, 151), figures=14)
        child.flush()
    # 71 rows of 14 are 994 points.
    assert sizes == [994, 994, 994, 112]
    for name in ("Loss/0", "Loss/13"):
        offset = int(name.split("/")[1])
        assert history(client, model, name) == [(step, offset + 1 / step) for step in range(1, 151)]


def test_a_resumed_training_doubles_no_step_and_leaves_none_out(client: MlflowClient, model: ModelDir, records: RecordSet) -> None:
    with contextlib.suppress(KeyboardInterrupt), model_run(model, records, "train") as child:
        child.log_metrics({"mask_ap": 0.25}, 3, once=True)
        child.log_summary({"steps": 8})
        for steps in (range(1, 4), range(4, 6)):
            log_steps(child, model, steps)
        raise KeyboardInterrupt
    # From a checkpoint of step 2, with loops that end elsewhere; it measures step 3 again, not quite as before.
    with model_run(model, records, "train") as child:
        child.log_summary({"steps": 8})
        child.log_metrics({"mask_ap": 0.2500001}, 3, once=True)
        child.log_metrics({"mask_ap": 0.5}, 6, once=True)
        for steps in (range(3, 5), range(5, 9)):
            log_steps(child, model, steps, start=2e9)
    assert history(client, model) == losses(*range(1, 9))
    assert history(client, model, "mask_ap") == [(3, 0.25), (6, 0.5)]
    assert history(client, model, "steps") == [(0, 8)]
    times = [point.timestamp for point in client.get_metric_history(run_id(model), "Loss/0")]
    assert times == [(1_000_000_000 if step < 6 else 2_000_000_000) * 1000 + step * 1000 for step in range(1, 9)]
    # What is measured anew and differs stands in front.
    with model_run(model, records, "evaluate") as child:
        child.log_metrics({"mask_ap": 0.5}, 6)
        child.log_metrics({"mask_ap": 0.75}, 3)
    assert history(client, model, "mask_ap") == [(3, 0.25), (6, 0.5), (3, 0.75)]


def test_a_machine_that_goes_on_with_an_older_journal_doubles_nothing_that_mlflow_has(
    client: MlflowClient, model: ModelDir, records: RecordSet, tmp_path: Path
) -> None:
    with contextlib.suppress(KeyboardInterrupt), model_run(model, records, "train") as child:
        log_steps(child, model, range(1, 4))
        child.flush()
        # What the store has of it when the machine dies, two steps and a measurement later.
        shutil.copytree(model.root, tmp_path / "store")
        log_steps(child, model, range(4, 6))
        child.log_metrics({"mask_ap": 0.25}, 5, once=True)
        raise KeyboardInterrupt
    shutil.rmtree(model.root)
    shutil.copytree(tmp_path / "store", model.root)
    with model_run(model, records, "train") as child:
        log_steps(child, model, range(4, 8), start=2e9)
        child.log_metrics({"mask_ap": 0.2500001}, 5, once=True)
        child.log_metrics({"mask_ap": 0.5}, 7, once=True)
    assert history(client, model) == losses(*range(1, 8))
    assert history(client, model, "mask_ap") == [(5, 0.25), (7, 0.5)]
    times = [point.timestamp for point in client.get_metric_history(run_id(model), "Loss/0")]
    assert times == [(1_000_000_000 if step < 6 else 2_000_000_000) * 1000 + step * 1000 for step in range(1, 8)]


@pytest.mark.parametrize("torn", ["tracking.jsonl", "metrics.jsonl"])
def test_a_torn_last_line_is_mended(
    client: MlflowClient, model: ModelDir, records: RecordSet, torn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(KeyboardInterrupt), model_run(model, records, "train") as child:
        log_steps(child, model, range(1, 3))
        raise KeyboardInterrupt
    file = model.train / torn
    file.write_text(file.read_text() + '{"step": 3, "do": "st')
    capsys.readouterr()
    with model_run(model, records, "train") as child:
        log_steps(child, model, range(3, 5))
    assert history(client, model) == losses(1, 2, 3, 4)
    assert all(json.loads(line) for line in file.read_text().splitlines())
    assert capsys.readouterr().err == ""


def test_what_is_no_entry_is_told_and_left_out(
    client: MlflowClient, model: ModelDir, records: RecordSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with model_run(model, records, "train") as child:
        child.flush()
        with child._outbox.journal.file.open("a") as stream:
            stream.write('\0\0\0\n{"do": "dance"}\n')
        log_steps(child, model, range(1, 3))
    assert history(client, model) == losses(1, 2)
    said = capsys.readouterr().err
    assert "is no entry and is left out" in said
    assert "nobody knows what 'dance' is" in said


def test_a_machine_that_kept_the_position_but_lost_the_lines_before_it_goes_on(
    client: MlflowClient, model: ModelDir, records: RecordSet
) -> None:
    with model_run(model, records, "train") as child:
        log_steps(child, model, range(1, 3))
    file = model.train / "tracking.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    with model_run(model, records, "train") as child:
        log_steps(child, model, range(1, 5), start=2e9)
    assert history(client, model) == losses(1, 2, 3, 4)
    assert client.get_run(run_id(model)).info.status == "FINISHED"


def test_a_run_that_mlflow_lost_is_made_again_with_all_that_it_had(
    client: MlflowClient, model: ModelDir, records: RecordSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with model_run(model, records, "train") as child:
        child.log_params({"a": 1})
        log_steps(child, model, range(1, 3))
        child.flush()
        lost = run_id(model)
        # While it runs: MLflow refuses a point of a deleted run as it refuses a bad name.
        client.delete_run(lost)
        log_steps(child, model, range(3, 4))
        child.flush()
    assert run_id(model) != lost
    second = run_id(model)
    # And when nothing is left to be sent: `sync` brings it back.
    client.delete_run(second)
    assert send_backlog(ModelOutbox(model)) == 0
    assert run_id(model) not in (lost, second)
    assert history(client, model) == losses(1, 2, 3)
    again = client.get_run(run_id(model))
    assert (again.data.params, again.info.status) == ({"a": "1"}, "FINISHED")
    assert again.info.start_time == client.get_run(lost).info.start_time
    assert "did not take" not in capsys.readouterr().err


def test_a_training_that_begins_anew_has_a_run_of_its_own(
    client: MlflowClient, run: RunDir, dataset: DatasetDir, model: ModelDir, records: RecordSet
) -> None:
    parent = open_pipeline_run(run, dataset)
    assert parent is not None
    with model_run(model, records, "train", anew=True) as child:
        child.log_params({"rate": 1})
        log_steps(child, model, range(1, 4))
        child.flush()
        earlier = run_id(model)
        # Killed: nothing is said of its end.
        with model_run(model, records, "train", anew=True) as second:
            second.log_params({"rate": 2})
            log_steps(second, model, range(1, 3), start=2e9)
        assert second.identity is not None
        assert (run_id(model), run_id(model) != earlier) == (second.identity.run_id, True)
        assert history(client, model) == losses(1, 2)
        replaced = client.get_run(earlier)
        assert (replaced.info.status, replaced.data.tags["role"]) == ("KILLED", "replaced")
        found = client.search_runs([parent.experiment_id], f"tags.pipeline_run = '{parent.run_id}' AND tags.role = 'backbone'")
        assert [(one.info.run_id, one.data.params) for one in found] == [(run_id(model), {"rate": "2"})]
    # So has one whose folder `train` somebody has taken away.
    last = run_id(model)
    shutil.rmtree(model.train)
    with model_run(model, records, "train", anew=True) as third:
        log_steps(third, model, range(1, 2))
    assert client.get_run(last).data.tags["role"] == "replaced"
    assert history(client, model) == losses(1)


def test_a_model_of_an_earlier_version_keeps_its_run(client: MlflowClient, model: ModelDir, records: RecordSet) -> None:
    with model_run(model, records, "train"):
        pass
    earlier = run_id(model)
    client.delete_tag(earlier, "maskline.key")
    for file in ("tracking.jsonl", "tracking_sent.json"):
        (model.train / file).unlink()
    with model_run(model, records, "evaluate") as child:
        child.log_metrics({"mask_ap": 0.5}, 3)
    assert run_id(model) == earlier
    assert history(client, model, "mask_ap") == [(3, 0.5)]


def test_a_pipeline_run_of_an_earlier_version_is_closed(client: MlflowClient, run: RunDir, dataset: DatasetDir) -> None:
    identity = open_pipeline_run(run, dataset)
    assert identity is not None
    for file in ("tracking.jsonl", "tracking_sent.json"):
        (run.root / file).unlink()
    close_pipeline_run(run, complete=True, description="the table")
    assert pipeline_run_identity(run) == identity
    held = client.get_run(identity.run_id)
    assert held.info.status == "FINISHED"
    assert held.data.tags["mlflow.note.content"].endswith("the table")


def test_a_folder_that_was_moved_before_mlflow_answered_is_sent_whole(
    client: MlflowClient, model: ModelDir, records: RecordSet, away: Callable[[], None]
) -> None:
    with model_run(model, records, "train") as child:
        log_steps(child, model, range(1, 3))
        child.log_artifacts(model.train / "metrics.jsonl")
        (model.root / "experiment.yaml").write_text("a: 1\n")
        child.log_artifacts(model.root / "experiment.yaml")
    moved = ModelDir(model.root.parent / "moved" / "model")
    moved.root.parent.mkdir()
    model.root.rename(moved.root)
    away()
    send_backlog(ModelOutbox(moved))
    assert history(client, moved) == losses(1, 2)
    assert {file.path for file in client.list_artifacts(run_id(moved))} == {"experiment.yaml", "metrics.jsonl"}


def test_pictures_are_there_once_where_an_answer_was_lost(
    client: MlflowClient, model: ModelDir, records: RecordSet, fails: Callable[[str, str], list[Any]]
) -> None:
    folder = model.evaluation / "pictures"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (20, 10)).save(folder / f"{number}.png")
    calls = fails("log_image", "after")
    with model_run(model, records, "evaluate") as child:
        child.log_pictures(folder)
        child.log_metrics({"mask_ap": 0.5}, 1)
    # The first was there when the second try began.
    assert len(calls) == 3
    found = [file.path.split("+timestamp+")[0] for file in client.list_artifacts(run_id(model), "images")]
    assert sorted(found) == [f"images/pictures~0{number}+step+0" for number in (1, 1, 2, 2, 3, 3)]
    assert history(client, model, "mask_ap") == [(1, 0.5)]


def test_an_artifact_that_is_refused_keeps_nothing_back_and_is_tried_again(
    client: MlflowClient, model: ModelDir, records: RecordSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, gone = model.root / "notes.txt", model.root / "gone.txt"
    for made in (file, gone):
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("a")

    def log_artifact(*_: Any) -> None:
        raise RuntimeError("no such bucket")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", log_artifact)
        with model_run(model, records, "train") as child:
            child.log_artifacts(file)
            child.log_artifacts(gone)
            log_steps(child, model, range(1, 3))
            child.flush()
            gone.unlink()
    said = capsys.readouterr().err
    assert said.count(f"did not take artifact notes.txt of model {model.name}: no such bucket") == 1
    assert "1 entry of" in said
    assert f"{gone} is not what it was" in said
    assert history(client, model) == losses(1, 2)
    assert client.get_run(run_id(model)).info.status == "FINISHED"
    assert send_backlog(ModelOutbox(model)) == 1
    assert [one.path for one in client.list_artifacts(run_id(model))] == ["notes.txt"]
    assert ModelOutbox(model).journal.left() == 0
