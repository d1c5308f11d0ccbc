"""A schedule's file: what it says, and that everything wrong in it is told at once, by file and field."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from maskline_airflow.schedule import ScheduleError, read_schedule, schedule_files

REPOSITORY = Path(__file__).resolve().parents[2]
WEEKLY = {
    "cron": "0 3 * * 1",
    "time_zone": "Europe/Vienna",
    "dataset": "configs/datasets/shapes.yaml",
    "configs": ["mask_rcnn_inception_v2_coco"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKLINE_SCHEDULES", str(tmp_path))
    return tmp_path


def written(folder: Path, changes: dict[str, Any], name: str = "weekly") -> Path:
    """The file of a schedule that is right but for the changes; a value of None takes a field away."""
    values = {key: value for key, value in {**WEEKLY, **changes}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def problems(file: Path) -> list[str]:
    with pytest.raises(ScheduleError) as caught:
        read_schedule(file)
    first, *lines = str(caught.value).splitlines()
    assert first == str(file)
    return [line.removeprefix("  ") for line in lines]


def test_fields_left_out_are_left_to_the_zoo_config(folder: Path) -> None:
    schedule = read_schedule(written(folder, {}))
    assert schedule.values == {"dataset": WEEKLY["dataset"], "configs": WEEKLY["configs"]}
    assert (schedule.name, schedule.cron, schedule.time_zone) == ("weekly", "0 3 * * 1", "Europe/Vienna")
    assert (schedule.dataset_name, schedule.start_from, schedule.offer_for_promotion, schedule.enabled) == (None, None, False, True)


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_words_that_yaml_takes_for_booleans_are_words(folder: Path, text: str, value: str) -> None:
    file = written(folder, {})
    file.write_text(f"{file.read_text()}xla: {text}\n")
    assert read_schedule(file).values["xla"] == value


def test_a_data_set_to_wait_for_is_called_as_it_calls_itself(folder: Path) -> None:
    dataset = folder / "photographs.yml.txt"
    dataset.write_text("name: kitchen\nshapes: {}\n")
    schedule = read_schedule(written(folder, {"cron": None, "time_zone": None, "on_dataset_change": True, "dataset": str(dataset)}))
    assert (schedule.cron, schedule.dataset_name) == (None, "kitchen")


def test_the_shipped_example_is_right_and_switched_off() -> None:
    schedule = read_schedule(REPOSITORY / "configs" / "schedules" / "example.yaml")
    assert not schedule.enabled
    assert (schedule.dataset_name, schedule.start_from, schedule.offer_for_promotion) == ("fruits_nuts", "last_good_run", True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stpes": 5}, "there is no field `stpes`: did you mean `steps`?"),
        ({"run_name": "mine"}, "there is no field `run_name`: the fields are "),
        ({"steps": 0}, "steps: 0 is less than the minimum of 1"),
        ({"steps": "many"}, "steps: 'many' is no integer"),
        ({"learning_rate": [1]}, "learning_rate: [1] is not of type"),
        ({"enabled": "no"}, "enabled: 'no' is not of type 'boolean'"),
        ({"cron": 3}, "cron: 3 is not of type 'string'"),
        ({"cron": "0 3 * *"}, "cron: '0 3 * *' has 4 fields; give five"),
        ({"cron": "0 25 * * 1"}, "cron: '0 25 * * 1': "),
        ({"evaluate_champion": "0 25 * * 1"}, "evaluate_champion: '0 25 * * 1': "),
        ({"evaluate_champion": "daily"}, "evaluate_champion: 'daily' has 1 fields; give five"),
        ({"evaluate_champion": True}, "evaluate_champion: True is not of type 'string'"),
        ({"cron": "@wekly"}, "cron: '@wekly': "),
        ({"cron": None, "time_zone": None}, "nothing says when: give cron, or on_dataset_change: true, or both"),
        ({"time_zone": "Europe/Wien"}, "time_zone: there is no 'Europe/Wien'; did you mean Europe/Vienna?"),
        ({"time_zone": "../etc"}, "time_zone: there is no '../etc'; "),
        ({"cron": None, "on_dataset_change": True}, "time_zone: there is no cron that it could be the time zone of"),
        ({"dataset": None}, "dataset is missing"),
        ({"dataset": "configs/datasets/shapez.yaml"}, f"dataset: there is no {REPOSITORY}/configs/datasets/shapez.yaml"),
        ({"dataset": "s3://bucket/a.yaml", "on_dataset_change": True}, "on_dataset_change: what s3://bucket/a.yaml is called is not known"),
        ({"dataset": "configs/datasets", "on_dataset_change": True}, "on_dataset_change: what configs/datasets is called is not known"),
        ({"configs": []}, "configs: [] should be non-empty"),
        ({"configs": ["mask_rcnn_inception_v3_coco"]}, "configs: there is no 'mask_rcnn_inception_v3_coco'; did you mean mask_rcnn_incept"),
        ({"precision": "mixed_float61"}, "precision: there is no 'mixed_float61'; did you mean mixed_float16?"),
        ({"start_from": "last_run"}, "start_from: there is no 'last_run'; did you mean last_good_run?"),
        ({"checkpoint": "/nowhere/model.ckpt"}, "checkpoint: there is no /nowhere/model.ckpt"),
        ({"checkpoint_label_map": "coco"}, "checkpoint_label_map: there is no checkpoint that it could belong to"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_field(folder: Path, changes: dict[str, Any], told: str) -> None:
    (line,) = problems(written(folder, changes))
    assert line.startswith(told)


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    lines = problems(written(folder, {"cron": "often", "steps": -1, "colour": "red"}))
    assert [line.split(":")[0] for line in lines] == ["there is no field `colour`", "steps", "cron"]


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "not YAML: "), ("- a\n", "it has to be"), ("", "it has to be"), ("3: 4\n", "it has to be")]
)
def test_what_is_no_yaml_of_fields_is_told(folder: Path, text: str, told: str) -> None:
    (folder / "weekly.yaml").write_text(text)
    (line,) = problems(folder / "weekly.yaml")
    assert line.startswith(told)


def test_a_checkpoint_may_be_a_prefix(folder: Path) -> None:
    (folder / "model.ckpt.index").touch()
    assert read_schedule(written(folder, {"checkpoint": str(folder / "model.ckpt")})).values["checkpoint"] == f"{folder}/model.ckpt"


def test_files_are_those_of_the_repository_and_of_every_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("MASKLINE_SCHEDULES", os.pathsep.join([*map(str, folders), str(tmp_path / "missing")]))
    own = [written(folders[0], {}), written(folders[1], {}, "nightly")]
    (folders[1] / "notes.txt").touch()
    shipped = sorted((REPOSITORY / "configs" / "schedules").glob("*.yaml"))
    assert schedule_files() == [*shipped, *own, tmp_path / "missing"]


def test_two_files_of_one_name_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.setenv("MASKLINE_SCHEDULES", f"{first}{os.pathsep}{second}")
    one, other = written(first, {}), written(second, {})
    assert read_schedule(one).name == "weekly"
    assert problems(other) == [f"{one} has the same name: rename one of them"]


def test_reading_takes_well_below_a_second_beside_airflows_import_and_nothing_of_the_trainer(folder: Path) -> None:
    written(folder, {"on_dataset_change": True})
    probe = (
        "import sys, time; import airflow.sdk, airflow.timetables.trigger; started = time.process_time()\n"
        "from maskline_airflow.retrain import retrain_dag\n"
        f"dag = retrain_dag({str(folder / 'weekly.yaml')!r}); seconds = time.process_time() - started\n"
        "heavy = {'tensorflow', 'tf_keras', 'mlflow', 'tasks'} & set(sys.modules)\n"
        "print('probe', dag.dag_id, seconds, *heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "dags")},
        capture_output=True,
        text=True,
        check=True,
    )
    _, dag_id, seconds, *heavy = next(line for line in done.stdout.splitlines() if line.startswith("probe")).split()
    assert (dag_id, heavy) == ("retrain_weekly", [])
    assert float(seconds) < 1.0
