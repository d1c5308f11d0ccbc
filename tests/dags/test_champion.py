"""The DAGs that measure the champion again: a run on which it has fallen, and the one that a schedule's file makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from maskline_airflow.champion import Reassess, champion_dag

from tests.dags.task_try import TaskStateStore, Try
from tests.dags.test_dag_run import DagRun, parse_commands, run_dag, steps_that_every_place_runs_alike

SCHEDULE = """
cron: "0 3 * * 1"
time_zone: Europe/Vienna
dataset: configs/datasets/fruits_nuts.yaml
configs: [mask_rcnn_inception_v2_coco]
shards: 7
"""


@pytest.fixture(scope="module")
def fallen(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    workspace = tmp_path_factory.mktemp("fallen")
    (workspace / "fallen").touch()
    return run_dag(workspace, {"split": "val", "allowed_fall": 0.05, "shards": 3}, dag_id="evaluate_champion")


def test_champion_that_has_fallen_fails_the_run_once(fallen: DagRun) -> None:
    assert (fallen.state, fallen.tasks["materialize"], fallen.tasks["reassess"]) == ("failed", ["success"], ["failed"])
    newest = f"{fallen.workspace}/datasets/fake"
    assert fallen.of_step("materialize") == [["configs/datasets/shapes.yaml", "--shards", "3"]]
    assert fallen.of_step("reassess") == [[newest, "--split", "val", "--allowed-fall", "0.05"]]


def test_real_parser_accepts_every_command_in_every_place(fallen: DagRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_that_every_place_runs_alike([fallen], tmp_path, monkeypatch) == {"preflight", "materialize", "reassess"}
    parsed = dict(parse_commands(fallen.commands))["reassess"]
    assert (parsed["split"], parsed["allowed_fall"], parsed["name"]) == ("val", 0.05, "")


def reassessing() -> Try:
    attempt = Try(TaskStateStore())
    attempt.operator = Reassess(task_id="reassess", arguments=["datasets/fake"])
    return attempt


def test_what_a_fall_is_told_by_is_kept_though_the_task_fails(workspace: Path) -> None:
    (workspace / "fallen").touch()
    attempt = reassessing()
    with pytest.raises(AirflowFailException, match=r"version 7 \(m\) of fake: mask AP 0.5000 -> 0.3000(.|\n)*\n  val, objects by size"):
        attempt.execute()
    assert attempt.xcoms["return_value"]["summary"]["fell"]
    assert attempt.xcoms["error"] == "the champion has fallen"


def test_champion_that_holds_fails_nothing(workspace: Path) -> None:
    assert reassessing().execute()["summary"]["sentence"] == "it holds"


def test_without_a_champion_there_is_nothing_to_alarm(workspace: Path) -> None:
    (workspace / "no_champion").touch()
    attempt = reassessing()
    with pytest.raises(AirflowSkipException, match="there is no champion yet"):
        attempt.execute()
    assert attempt.xcoms["reason"] == "fake: there is no champion yet"


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    monkeypatch.setenv("MASKLINE_SCHEDULES", str(tmp_path))
    file = tmp_path / "weekly.yaml"
    file.write_text(text)
    return champion_dag(str(file))


def test_schedule_that_says_when_has_a_dag_for_its_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = made(tmp_path, monkeypatch, f"{SCHEDULE}evaluate_champion: '30 6 * * *'\n")
    assert dag.dag_id == "evaluate_champion_weekly"
    assert (dag.timetable.expression, str(dag.timetable.timezone)) == ("30 6 * * *", "Europe/Vienna")
    filled = {name: value for name, value in dag.params.validate().items() if value is not None}
    # The records are written as the schedule's trainings have them.
    assert filled == {"dataset": "configs/datasets/fruits_nuts.yaml", "shards": 7}


@pytest.mark.parametrize("text", [SCHEDULE, f"{SCHEDULE}evaluate_champion: '@daily'\nenabled: false\n"])
def test_other_schedules_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert made(tmp_path, monkeypatch, text) is None
