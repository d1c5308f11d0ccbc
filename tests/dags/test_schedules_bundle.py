"""One DAG file for each schedule: what one file breaks, the others do not notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from maskline_airflow import schedules_bundle
from maskline_airflow.schedules_bundle import SchedulesBundle

RIGHT = yaml.safe_dump({"cron": "@daily", "dataset": "configs/datasets/shapes.yaml", "configs": ["mask_rcnn_inception_v2_coco"]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    schedules = tmp_path / "mine"
    schedules.mkdir()
    monkeypatch.setenv("MASKLINE_SCHEDULES", str(schedules))
    monkeypatch.setattr(schedules_bundle, "AIRFLOW_HOME", str(tmp_path / "home"))
    return schedules


@pytest.fixture
def bundle(folder: Path) -> SchedulesBundle:
    return SchedulesBundle(name="schedules")


def bagged(bundle: SchedulesBundle) -> DagBag:
    bundle.initialize()
    return DagBag(bundle.path, bundle_path=bundle.path, bundle_name="schedules")


def test_each_schedule_becomes_a_dag_and_the_example_none(folder: Path, bundle: SchedulesBundle) -> None:
    for name in ("nightly", "weekly"):
        (folder / f"{name}.yaml").write_text(RIGHT)
    bag = bagged(bundle)
    assert (sorted(bag.dags), bag.import_errors) == (["retrain_nightly", "retrain_weekly"], {})


def test_a_broken_file_is_one_import_error_of_its_own(folder: Path, bundle: SchedulesBundle) -> None:
    (folder / "weekly.yaml").write_text(RIGHT)
    (folder / "broken.yaml").write_text(RIGHT + "stpes: 3\n")
    (folder / "empty.yaml").write_text("")
    bag = bagged(bundle)
    assert list(bag.dags) == ["retrain_weekly"]
    assert bag.import_errors.keys() == {"broken.py", "empty.py"}
    assert bag.import_errors["broken.py"].endswith(
        f"ScheduleError: {folder / 'broken.yaml'}\n  there is no field `stpes`: did you mean `steps`?\n"
    )


def test_files_follow_the_schedules_and_the_unchanged_keep_their_time(folder: Path, bundle: SchedulesBundle) -> None:
    for name in ("kept", "changed", "removed"):
        (folder / f"{name}.yaml").write_text(RIGHT)
    bundle.initialize()
    files = {name: bundle.path / f"{name}.py" for name in ("kept", "changed", "removed")}
    for file in files.values():
        os.utime(file, (1, 1))
    (folder / "changed.yaml").write_text(RIGHT + "steps: 3\n")
    (folder / "removed.yaml").unlink()
    bundle.refresh()
    assert files["kept"].stat().st_mtime == 1
    assert files["changed"].stat().st_mtime > 1
    assert "steps: 3" in files["changed"].read_text()
    assert not files["removed"].exists()


@pytest.mark.parametrize("text", [RIGHT + '# """ \\ \\x ends no string\n', RIGHT + "description: '{braces}'\n"])
def test_whatever_a_schedule_says_its_dag_file_is_python(folder: Path, bundle: SchedulesBundle, text: str) -> None:
    (folder / "odd name (1).yaml").write_text(text)
    (folder / "plain.yaml").write_text(text)
    bag = bagged(bundle)
    assert list(bag.dags) == ["retrain_plain"]
    assert "the file's name becomes the DAG's" in bag.import_errors["odd-name-1-.py"]


def test_a_folder_that_is_not_there_is_told(folder: Path, bundle: SchedulesBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "weekly.yaml").write_text(RIGHT)
    monkeypatch.setenv("MASKLINE_SCHEDULES", f"{folder}{os.pathsep}{folder.parent / 'wekly'}")
    bag = bagged(bundle)
    assert list(bag.dags) == ["retrain_weekly"]
    (error,) = bag.import_errors.values()
    assert f"{folder.parent / 'wekly'}\n  cannot be read: No such file or directory" in error


def test_of_two_files_with_one_name_the_second_is_refused(folder: Path, bundle: SchedulesBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder.parent / "others"
    other.mkdir()
    monkeypatch.setenv("MASKLINE_SCHEDULES", f"{folder}{os.pathsep}{other}")
    for place in (folder, other):
        (place / "weekly.yaml").write_text(RIGHT)
    bag = bagged(bundle)
    assert list(bag.dags) == ["retrain_weekly"]
    (error,) = bag.import_errors.values()
    assert f"{folder / 'weekly.yaml'} has the same name" in error
