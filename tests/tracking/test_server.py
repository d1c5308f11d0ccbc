"""Runs that write to a real MLflow server while it is killed, hangs and comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.records.record_set import materialized
from tasks.running.workspace import DatasetDir, ModelDir, read_json
from tasks.tracking import ModelOutbox, model_run, send_backlog
from tests.tracking.conftest import log_steps
from tests.tracking.mlflow_server import Server


@pytest.fixture(scope="module")
def server(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server
    server.kill()


def test_a_server_that_was_killed_in_the_middle_has_every_point_once_and_in_order(
    server: Server, workspace: Path, dataset: DatasetDir, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ModelDir(workspace / "runs" / "killed" / "model")
    with model_run(model, materialized(dataset), "train") as child:
        log_steps(child, model, range(1, 6), figures=20)
        child.flush()
        log_steps(child, model, range(6, 40), figures=20)  # which it may get or not
        server.kill()
        for first in range(40, 60, 10):
            log_steps(child, model, range(first, first + 10), figures=20)
        child.flush()
        assert ModelOutbox(model).journal.left() > 0
        server.start()
        log_steps(child, model, range(60, 70), figures=20)
    run_id = read_json(model.tracking)["run_id"]
    for number in (0, 19):
        assert server.history(run_id, f"Loss/{number}") == [(step, number + 1 / step) for step in range(1, 70)]
    assert server.column(run_id, "status") == "FINISHED"
    said = capsys.readouterr().err
    assert said.count("WARNING: MLflow does not answer") == 1
    assert said.count("MLflow answers again") == 1
    assert "Retrying" not in said
    assert (send_backlog(ModelOutbox(model)), ModelOutbox(model).points_sent) == (0, 0)


def test_a_server_that_hangs_is_not_waited_for(
    server: Server, workspace: Path, dataset: DatasetDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    model = ModelDir(workspace / "runs" / "hangs" / "model")
    with model_run(model, materialized(dataset), "train") as child:
        child.flush()
        server.signal(signal.SIGSTOP)
        # All of this returns, since nobody waits for an answer that does not come.
        for step in range(1, 6):
            log_steps(child, model, range(step, step + 1))
        child.log_artifacts(model.train / "metrics.jsonl")
        assert ModelOutbox(model).journal.left() >= 6
        child.flush()  # which gives up
        assert ModelOutbox(model).journal.left() >= 6
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        server.signal(signal.SIGCONT)
    run_id = read_json(model.tracking)["run_id"]
    assert server.history(run_id, "Loss/0") == [(step, 1 / step) for step in range(1, 6)]
    assert server.column(run_id, "status") == "FINISHED"
    assert capsys.readouterr().err.count("WARNING: MLflow does not answer") == 1
