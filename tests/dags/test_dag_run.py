"""Whole runs of the DAG by Airflow's own runner, the steps answered by a fake trainer; and the real parser on their commands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dagrun import DagRun as AirflowRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance, find_relevant_relatives
from airflow.sdk.definitions.dag import _run_task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from maskline_airflow import docker_container, kubernetes_pod
from maskline_airflow.pipeline import BACKBONE_STEPS, every_backbone_finished, longest_first, offer_for_promotion, unfinished
from maskline_airflow.retrain import retrain_dag
from maskline_airflow.step_runner import Step
from sqlalchemy import select

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = REPOSITORY / ".venv" / "bin" / "python"
DEMO = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
NAMES = ["mask_rcnn_resnet50_atrous_coco", "mask_rcnn_resnet101_atrous_coco", "mask_rcnn_inception_v2_coco"]
TRAINING = (
    *("image_size", "steps", "batch_size", "learning_rate", "precision", "xla", "proposals", "max_bad_records"),
    *("evaluate_every", "best_metric", "patience", "on_nan", "keep"),
)
"""Fields of the form that are options of `train`."""


@dataclass(frozen=True)
class DagRun:
    run_id: str
    state: str
    tasks: dict[str, list[str]]
    """State of each task, or of each of its mapped instances: of the group `backbone` the longest training first"""
    commands: list[list[str]]
    workspace: Path

    def of_step(self, step: str) -> list[list[str]]:
        """Arguments of the step's commands, without `--result FILE`."""
        return [words[1:-2] for words in self.commands if words[0] == step]


def run_dag(
    workspace: Path, conf: dict[str, Any], fails: str | None = None, dag_id: str = "mask_rcnn_zoo", schedule: Path | None = None
) -> DagRun:
    """A run of a DAG of the folder, or of the one that is made of a schedule's file."""
    more = {"FAKE_TRAINER_FAILS": fails, "MASKLINE_SCHEDULES": str(schedule.parent) if schedule else None}
    with fake_trainer(workspace, more):
        dag = retrain_dag(str(schedule)) if schedule else DagBag(REPOSITORY / "dags").dags[dag_id]
        assert dag is not None
        done = dag.test(run_conf=conf)
    return told(done, workspace)


@contextlib.contextmanager
def fake_trainer(workspace: Path, more: Mapping[str, str | None]) -> Iterator[None]:
    """Within the block the fake trainer answers, with more settings than it needs."""
    trainer = shlex.join([sys.executable, "-I", str(Path(__file__).parent / "fake_trainer.py")])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MASKLINE_WORKSPACE": str(workspace), "MASKLINE_TRAINER": trainer, **more}.items():
            if value is not None:
                patch.setenv(name, value)
        patch.setattr("maskline_airflow.local_process.LocalProcess.poll_seconds", 0.05)
        yield


def clear_and_go_on(run: DagRun, task_id: str, map_index: int) -> DagRun:
    """What becomes of a run of `mask_rcnn_zoo` when a person clears one task of it, with Downstream as Airflow's page has it."""
    dag = DagBag(REPOSITORY / "dags").dags["mask_rcnn_zoo"]
    scheduled = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    with fake_trainer(run.workspace, {}), create_session() as session:
        later = find_relevant_relatives(
            set(), {(task_id, map_index)}, dag=scheduled, run_id=run.run_id, direction="downstream", session=session
        )
        scheduled.clear(task_ids=[(task_id, map_index), *later], run_id=run.run_id, session=session)
        done = session.scalars(select(AirflowRun).where(AirflowRun.run_id == run.run_id)).one()
        done.dag, done.state = scheduled, "running"
        session.commit()
        # As `dag.test` does it, which can only begin a run.
        while done.state == "running":
            ready, _ = done.update_state(session=session)
            assert ready or done.state != "running"
            for instance in ready:
                instance.try_number += 1
                instance.state = "scheduled"
            session.commit()
            for instance in ready:
                _run_task(ti=instance, task=dag.task_dict[instance.task_id])
            session.expire_all()
        return told(done, run.workspace)


def told(done: AirflowRun, workspace: Path) -> DagRun:
    tasks: dict[str, list[str]] = {}
    for instance in sorted(done.get_task_instances(), key=lambda instance: instance.map_index):
        tasks.setdefault(instance.task_id, []).append(str(instance.state))
    file = workspace / "commands.jsonl"
    kept = file.read_text().splitlines() if file.exists() else []
    return DagRun(done.run_id, str(done.state), tasks, [json.loads(line)["command"] for line in kept], workspace)


@pytest.fixture(scope="module")
def one_fails(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    """Three backbones with the form's values; the training of the second cannot succeed."""
    return run_dag(tmp_path_factory.mktemp("one_fails"), {"configs": NAMES, "run_name": "named"}, "train resnet101 2")


@pytest.fixture(scope="module")
def one_alone(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    """One backbone from a checkpoint on a data set in two parts, every other field of the form left empty that may be, and no plan."""
    empty = dict.fromkeys(TRAINING)
    checkpoint = {"checkpoint": "/zoo", "checkpoint_label_map": "coco"}
    # A text field's last line break leaves an empty line.
    parts = {"shard_ranges": ["0:3", "3:6", ""], "shards": 3, "workers": 2, "max_bad": 5}
    conf = {"configs": NAMES[:1], "config_fields": [], **checkpoint, **parts, **empty}
    return run_dag(tmp_path_factory.mktemp("one_alone"), conf, "plan resnet50 2")


@pytest.fixture(scope="module")
def misspelt(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    return run_dag(tmp_path_factory.mktemp("misspelt"), {"configs": NAMES[:1], "stpes": 5})


@pytest.fixture(scope="module")
def part_fails(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    conf = {"configs": NAMES[:1], "shard_ranges": ["0:1", "1:2", "2:4"]}
    return run_dag(tmp_path_factory.mktemp("part_fails"), conf, "materialize 1:2 2")


@pytest.fixture(scope="module")
def all_fail(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    return run_dag(tmp_path_factory.mktemp("all_fail"), {"configs": NAMES[:1]}, "convert resnet50 2")


def test_backbone_that_fails_stops_no_other_and_fails_the_run(one_fails: DagRun) -> None:
    assert one_fails.tasks == {
        "check_request": ["success"],
        "chosen_ranges": ["success"],
        "materialize_part": ["skipped"],
        "materialize": ["success"],
        "open_run": ["success"],
        "chosen_configs": ["success"],
        "plan": ["success", "success", "success"],
        "longest_first": ["success"],
        "backbone.convert": ["success", "success", "success"],
        # ResNet-101's, which is planned to take the longest.
        "backbone.train": ["failed", "success", "success"],
        "backbone.evaluate": ["upstream_failed", "success", "success"],
        "compare": ["success"],
        "every_backbone_finished": ["failed"],
    }
    assert one_fails.state == "failed"


@pytest.fixture(scope="module")
def mended(one_fails: DagRun) -> DagRun:
    """What the run did when its failed training was cleared."""
    done = clear_and_go_on(one_fails, "backbone.train", 0)
    return dataclasses.replace(done, commands=done.commands[len(one_fails.commands) :])


def test_clearing_the_failed_training_goes_on_with_that_one_alone(one_fails: DagRun, mended: DagRun) -> None:
    assert mended.state == "success"
    assert mended.tasks["backbone.train"] == mended.tasks["backbone.evaluate"] == ["success"] * 3
    # The command is the same in the same folder, where its checkpoint is; nobody else's is touched.
    assert [step for step, *_ in mended.commands] == ["train", "evaluate", "compare"]
    model = f"{one_fails.workspace}/runs/named/{NAMES[1]}"
    assert mended.of_step("train") == [words for words in one_fails.of_step("train") if words[0] == model]
    assert mended.of_step("evaluate") == [[model]]
    assert mended.of_step("compare") == one_fails.of_step("compare")


def starts_next(run: DagRun, slots: int, ready: Sequence[tuple[str, int]]) -> list[str]:
    """What Airflow's scheduler starts of a run of which these tasks wait to be started, with so many slots of the pool `gpu`."""
    with create_session() as session:
        session.scalars(select(AirflowRun).where(AirflowRun.run_id == run.run_id)).one().state = "running"
        session.add(Pool(pool="gpu", slots=slots, description="", include_deferred=False))
        for task, index in ready:
            instance = TaskInstance.get_task_instance("mask_rcnn_zoo", run.run_id, task, index, session=session)
            assert instance is not None
            instance.state = "scheduled"
        session.flush()
        started = SchedulerJobRunner(Job())._executable_task_instances_to_queued(32, session=session)
        session.rollback()
    return [f"{instance.task_id.rpartition('.')[2]} {instance.map_index}" for instance in started]


def test_longest_training_starts_first_and_an_evaluation_before_any(one_fails: DagRun) -> None:
    # By the name of the result's file, which has the place in the list.
    converted = sorted((words[-1], words[1]) for words in one_fails.commands if words[0] == "convert")
    assert [config for _, config in converted] == [NAMES[1], NAMES[0], NAMES[2]]
    trainings = [("backbone.train", index) for index in (2, 0, 1)]
    assert starts_next(one_fails, 1, trainings) == ["train 0"]
    assert starts_next(one_fails, 2, trainings) == ["train 0", "train 1"]
    assert starts_next(one_fails, 2, [*trainings, ("backbone.evaluate", 2)]) == ["evaluate 2", "train 0"]
    # Of conversions one at a time, or a short one would let its training pass.
    assert starts_next(one_fails, 4, [("backbone.convert", index) for index in (1, 2)]) == ["convert 1"]


def test_model_without_a_plan_comes_first_and_an_order_once_given_stays() -> None:
    given: list[list[str]] = []
    for summaries in ([{"hours": 1.0}, {"reason": "too late"}, {"hours": 3.0}, None], [{"hours": 9.0}, {"hours": 1.0}, {}, None]):
        plans = [None if summary is None else {"summary": summary} for summary in summaries]
        ti = SimpleNamespace(xcom_pull=lambda task_ids, map_indexes, plans=plans: plans[map_indexes])
        kept = SimpleNamespace(get=lambda _: given[0] if given else None, set=lambda _, models, retention: given.append(models))
        params = {"configs": ["a", "b", "c", "d"], "seeds": None}
        assert longest_first.function(ti=ti, params=params, task_state_store=kept) == ["b", "d", "c", "a"]
    assert len(given) == 1


@pytest.fixture(scope="module")
def conversion_fails(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    """That of the first model in the list"""
    return run_dag(tmp_path_factory.mktemp("conversion_fails"), {"configs": NAMES[:2], "run_name": "r"}, f"convert /r/{NAMES[1]} 2")


def test_clearing_a_failed_conversion_touches_no_other_model(conversion_fails: DagRun) -> None:
    backbone = ("backbone.convert", "backbone.train", "backbone.evaluate")
    assert [conversion_fails.tasks[task] for task in backbone] == [["failed", "success"], *[["upstream_failed", "success"]] * 2]
    assert conversion_fails.tasks["compare"] == ["success"]
    mended = clear_and_go_on(conversion_fails, "backbone.convert", 0)
    assert mended.state == "success"
    again = mended.commands[len(conversion_fails.commands) :]
    assert [step for step, *_ in again] == ["convert", "train", "evaluate", "compare"]
    assert again[0][1] == NAMES[1]
    assert again[1][1] == f"{conversion_fails.workspace}/runs/r/{NAMES[1]}"


def test_what_did_not_finish_is_named_with_the_step_that_failed() -> None:
    done = {f"backbone.{step}": "success" for step in BACKBONE_STEPS}
    states: dict[str, str | None] = {f"{task}_{index}": state for task, state in done.items() for index in range(4)}
    assert unfinished(["a", "b", "c", "d"], states) == []
    states |= {"backbone.train_1": "failed", "backbone.evaluate_1": "upstream_failed"}
    states |= {f"backbone.{step}_2": "upstream_failed" for step in BACKBONE_STEPS} | {"backbone.evaluate_3": None}
    assert unfinished(["a", "b", "c", "d"], states) == ["b (train failed)", "c (not begun)", "d"]


def ended(states: Mapping[str, str | None], ordered: list[str] | None = None) -> SimpleNamespace:
    """The last task of a run whose tasks have these states, and whose models were put in order, or not."""
    return SimpleNamespace(dag_id="d", get_task_states=lambda **_: {"r": states}, xcom_pull=lambda task_ids: ordered)


def test_run_says_in_the_end_what_did_not_finish_and_how_to_go_on() -> None:
    states = {f"backbone.{step}_{index}": "success" for step in BACKBONE_STEPS for index in range(3)}
    ends: dict[str, dict[str, Any]] = {
        r"not finished: b \(train failed\)\n  fix: .* clear it, with Downstream": {"backbone.train_1": "failed", "compare": "success"},
        "the models were not compared": {"compare": "failed"},
    }
    for message, changes in ends.items():
        ti = ended(states | changes)
        with pytest.raises(AirflowFailException, match=message):
            every_backbone_finished.function(ti=ti, run_id="r", params={"configs": ["a", "b", "c"], "seeds": None})
    ti = ended(states | {"backbone.evaluate_1": "failed"}, ["a-seed9", "a-seed7", "a-seed8"])
    with pytest.raises(AirflowFailException, match=r"not finished: a-seed7 \(evaluate failed\)"):
        every_backbone_finished.function(ti=ti, run_id="r", params={"configs": ["a"], "seeds": ["7", "8", "9"]})


def test_unknown_field_fails_the_first_task_and_nothing_runs(misspelt: DagRun) -> None:
    assert misspelt.state == "failed"
    assert misspelt.tasks["check_request"] == ["failed"]
    assert misspelt.commands == []


def test_first_task_has_the_trainer_look_at_what_was_asked_for(one_fails: DagRun, one_alone: DagRun) -> None:
    (words,) = one_fails.of_step("preflight")
    fields = [word for field in DEMO["config_fields"] for word in ("--set", field)]
    assert words == [DEMO["dataset"], *(word for name in NAMES for word in ("--config", name)), *fields]
    (words,) = one_alone.of_step("preflight")
    checkpoint = ["--checkpoint", "/zoo", "--checkpoint-label-map", "coco"]
    assert words == [DEMO["dataset"], "--config", NAMES[0], *checkpoint, "--shard-range", "0:3", "--shard-range", "3:6"]


def test_each_backbone_walks_through_its_own_folder(one_fails: DagRun) -> None:
    run, dataset = f"{one_fails.workspace}/runs/named", f"{one_fails.workspace}/datasets/fake"
    assert one_fails.of_step("materialize") == [["configs/datasets/shapes.yaml"]]
    assert one_fails.of_step("open-run") == [[run, "--dataset", dataset]]
    converted = [words[:5] for words in one_fails.of_step("convert")]
    assert sorted(converted) == sorted([name, "--dataset", dataset, "--output", f"{run}/{name}"] for name in NAMES)
    assert sorted(words[0] for words in one_fails.of_step("train")) == sorted(f"{run}/{name}" for name in NAMES)
    assert sorted(one_fails.of_step("evaluate")) == [[f"{run}/{NAMES[2]}"], [f"{run}/{NAMES[0]}"]]
    assert one_fails.of_step("compare") == [[run]]


def test_single_backbone_runs_to_the_end_without_a_plan(one_alone: DagRun) -> None:
    assert one_alone.state == "success"
    assert one_alone.tasks["backbone.train"] == ["success"]
    assert set(one_alone.tasks["every_backbone_finished"]) == {"success"}


def test_empty_fields_of_the_form_become_no_options(one_alone: DagRun) -> None:
    (words,) = one_alone.of_step("convert")
    config, *conversion = words
    assert one_alone.of_step("plan") == [[config, "--count-only", "--devices", "1", *conversion]]
    assert one_alone.of_step("train") == [[words[words.index("--output") + 1]]]


def test_plan_is_asked_for_what_is_converted_and_trained(one_fails: DagRun) -> None:
    converted = one_fails.of_step("convert")
    trained = {words[0].rpartition("/")[2]: words[1:] for words in one_fails.of_step("train")}
    asked = [[config, "--count-only", "--devices", "1", *conversion, *trained[config]] for config, *conversion in converted]
    assert sorted(one_fails.of_step("plan")) == sorted(asked)


def test_parts_come_before_what_joins_them(one_alone: DagRun) -> None:
    assert one_alone.tasks["materialize_part"] == ["success", "success"]
    *parts, joins = one_alone.of_step("materialize")
    how = ["--max-bad", "5", "--shards", "3", "--workers", "2"]
    assert sorted(parts) == [["configs/datasets/shapes.yaml", "--shard-range", part, *how] for part in ("0:3", "3:6")]
    assert joins == ["configs/datasets/shapes.yaml", *how]


def test_nothing_is_joined_when_a_part_fails(part_fails: DagRun) -> None:
    assert part_fails.state == "failed"
    assert part_fails.tasks["materialize_part"] == ["success", "failed", "success"]
    assert part_fails.tasks["materialize"] == ["upstream_failed"]
    assert [step for step, *_ in part_fails.commands] == ["preflight", *["materialize"] * 3]


def test_nothing_is_compared_when_no_backbone_finished(all_fail: DagRun) -> None:
    assert all_fail.state == "failed"
    assert all_fail.tasks["compare"] == ["upstream_failed"]
    assert all_fail.of_step("compare") == []


SCHEDULE = f"""
cron: "@daily"
dataset: configs/datasets/shapes.yaml
configs: [{NAMES[0]}]
seeds: [3, 5]
steps: 7
config_fields: [train_config.batch_size=2]
checkpoint: {Path(__file__).parent}
start_from: last_good_run
offer_for_promotion: true
"""


@dataclass(frozen=True)
class Retrained:
    first: DagRun
    second: DagRun
    insisted: DagRun
    events: list[tuple[str, dict[str, Any]]]
    """Name and extra of each asset event that the three runs made"""


@pytest.fixture(scope="module")
def retrained(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """A schedule's run that trains, one that finds nothing new, and one on which a person insists."""
    file = tmp_path_factory.mktemp("schedules") / "daily.yaml"
    file.write_text(SCHEDULE)
    workspaces = [tmp_path_factory.mktemp(name) for name in ("first", "second", "insisted")]
    (workspaces[1] / "nothing_new").touch()
    for workspace in workspaces[1:]:
        (workspace / "materialized").touch()
    before = len(asset_events())
    runs = []
    for workspace, conf in zip(workspaces, ({}, {}, {"force": True, "run_name": "again"}), strict=True):
        runs.append(run_dag(workspace, conf, schedule=file))
    return Retrained(*runs, asset_events()[before:])


def asset_events() -> list[tuple[str, dict[str, Any]]]:
    with create_session() as session:
        joined = select(AssetModel.name, AssetEvent.extra).join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
        return [(name, dict(extra)) for name, extra in session.execute(joined.order_by(AssetEvent.id))]


def test_a_schedules_run_trains_what_its_file_says_and_remembers_it(retrained: Retrained) -> None:
    run = retrained.first
    assert run.state == "success"
    assert {state for states in run.tasks.values() for state in states} == {"success", "skipped"}
    assert run.tasks["anything_new"] == run.tasks["remember"] == run.tasks["offer_for_promotion"] == ["success"]
    folder = run.of_step("open-run")[0][0]
    (words,) = run.of_step("recall")
    assert words[:3] == ["daily", folder, "--from-last-good-run"]
    assert "--force" not in words
    settings = [words[index + 1] for index, word in enumerate(words) if word == "--setting"]
    filled = {name: value for name, value in (setting.split("=", 1) for setting in settings) if value}
    assert filled == {"steps": "7", "config_fields": "train_config.batch_size=2", "seeds": "3 5", "checkpoint": str(Path(__file__).parent)}
    assert sorted(run.of_step("train")) == [[f"{folder}/{NAMES[0]}-seed{seed}", "--steps", "7", "--seed", seed] for seed in ("3", "5")]
    # Its data are others than the last good run's, and the comparison says what they gained.
    assert run.of_step("compare") == [[folder, "--before", "/last/run"]]
    assert run.of_step("remember") == [["daily", folder]]


def test_training_starts_where_the_trainer_says_the_last_good_run_left_it(retrained: Retrained) -> None:
    for words in retrained.first.of_step("convert"):
        assert words[0] == NAMES[0]
        assert words[words.index("--checkpoint") + 1] == f"/last/{NAMES[0]}"
        assert "--checkpoint-label-map" not in words


def test_where_nothing_is_new_the_run_ends_green_with_everything_skipped(retrained: Retrained) -> None:
    run = retrained.second
    assert run.state == "success"
    done = ("check_request", "chosen_ranges", "chosen_configs", "materialize")
    assert {name: set(states) for name, states in run.tasks.items()} == {
        name: {"success"} if name in done else {"skipped"} for name in run.tasks
    }
    assert [step for step, *_ in run.commands] == ["preflight", "materialize", "recall"]


def test_a_person_who_insists_is_heard(retrained: Retrained) -> None:
    (words,) = retrained.insisted.of_step("recall")
    assert "--force" in words


def test_run_without_a_best_model_offers_none() -> None:
    task = SimpleNamespace(xcom_pull=lambda task_ids: {"summary": {"best": None, "mask_ap": None, "mlflow_run_id": "parent"}})
    events: dict[Any, Any] = {}
    with pytest.raises(AirflowSkipException, match="no model is offered"):
        offer_for_promotion.function(ti=task, params={"run_name": None}, run_id="r", outlet_events=events)
    assert events == {}


def test_events_are_of_data_that_changed_and_of_runs_that_are_offered(retrained: Retrained) -> None:
    names = [name for name, _ in retrained.events]
    assert names == ["mask_rcnn_dataset_fake", "mask_rcnn_candidate", "mask_rcnn_candidate"]
    data, offered, again = (extra for _, extra in retrained.events)
    assert data == {"digest": "d" * 64, "dataset": f"{retrained.first.workspace}/datasets/fake", "images": {"train": 3}}
    assert (offered["config"], offered["mask_ap"], offered["mlflow_run_id"]) == ("mask_rcnn_inception_v2_coco", 0.5, "parent")
    assert offered["run"] == retrained.first.of_step("open-run")[0][0]
    assert again["run"] == f"{retrained.insisted.workspace}/runs/again"


@pytest.fixture(scope="module")
def materialized(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    conf = {"dataset": "configs/datasets/shapes.yaml", "shard_ranges": ["0:1", "1:2"], "workers": ""}
    return run_dag(tmp_path_factory.mktemp("materialized"), conf, dag_id="materialize_dataset")


def test_a_data_set_can_be_written_without_a_training(materialized: DagRun) -> None:
    assert materialized.state == "success"
    words = ["configs/datasets/shapes.yaml"]
    assert materialized.of_step("preflight") == [[*words, "--shard-range", "0:1", "--shard-range", "1:2"]]
    *parts, joins = materialized.of_step("materialize")
    assert sorted(parts) == [[*words, "--shard-range", part] for part in ("0:1", "1:2")]
    assert joins == words
    assert asset_events()[-1][0] == "mask_rcnn_dataset_fake"


@pytest.fixture(scope="module")
def evaluated(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> list[DagRun]:
    """A checkpoint of the original with all that may be said of it, and a file of detections with nothing."""
    of_model = {"config": NAMES[2], "label_map": "coco", "split": "test", "batch_size": 4, "slices": "/cameras.csv"}
    names = {"run_name": "old_and_new", "model_name": "old"}
    asked = [{"model": "/zoo/model.ckpt", **of_model, **names}, {"results": "/found.json", "batch_size": "", "run_name": "", "split": None}]
    return [run_dag(tmp_path_factory.mktemp("evaluated"), conf, dag_id="evaluate_model") for conf in asked]


def test_any_model_is_evaluated_from_the_form(evaluated: list[DagRun]) -> None:
    model, results = evaluated
    assert (model.state, results.state) == ("success", "success")
    folder = f"{model.workspace}/runs/old_and_new/old"
    named = ["--predictor", "/zoo/model.ckpt", "--slices", "/cameras.csv"]
    (checked,), (words,) = model.of_step("preflight"), model.of_step("evaluate")
    assert checked == [
        *("configs/datasets/shapes.yaml", "--evaluate-into", folder, *named),
        *("--predictor-config", NAMES[2], "--predictor-label-map", "coco"),
    ]
    dataset = ["--dataset", f"{model.workspace}/datasets/fake"]
    assert words == [folder, *dataset, *named, "--config", NAMES[2], "--label-map", "coco", "--split", "test", "--batch-size", "4"]
    (words,) = results.of_step("evaluate")
    assert words[0].startswith(f"{results.workspace}/runs/")
    assert words[0].endswith("/model")
    assert words[1:] == ["--dataset", f"{results.workspace}/datasets/fake", "--results", "/found.json"]


def test_real_parser_accepts_what_evaluates_any_model(evaluated: list[DagRun]) -> None:
    model, results = (dict(parse(run)) for run in evaluated)
    assert (model["evaluate"]["predictor"], model["evaluate"]["config"], model["evaluate"]["label_map"]) == (
        "/zoo/model.ckpt",
        NAMES[2],
        "coco",
    )
    assert (model["evaluate"]["split"], model["evaluate"]["batch_size"], model["evaluate"]["slices"]) == ("test", 4, "/cameras.csv")
    assert (results["evaluate"]["results"], results["evaluate"]["split"], results["evaluate"]["predictor"]) == ("/found.json", "val", None)
    assert (results["preflight"]["results"], results["preflight"]["predictor"]) == ("/found.json", None)


def parse(*runs: DagRun) -> list[tuple[str, dict[str, Any]]]:
    """Step and parsed parameters of every command of the runs, as the trainer's own parser reads them."""
    return parse_commands([words for run in runs for words in run.commands])


def parse_commands(commands: list[list[str]]) -> list[tuple[str, dict[str, Any]]]:
    if not TRAINER.exists():
        pytest.skip(f"the trainer environment is not here: {TRAINER}")
    answer = subprocess.run(
        [TRAINER, Path(__file__).with_name("parse_commands.py")],
        input=json.dumps(commands),
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return list(zip((words[0] for words in commands), json.loads(answer.stdout), strict=True))


@pytest.fixture(scope="module")
def parsed(one_fails: DagRun, one_alone: DagRun) -> list[tuple[str, dict[str, Any]]]:
    return parse(one_fails, one_alone)


def test_real_parser_accepts_every_command_of_a_schedule_and_of_a_data_set_alone(retrained: Retrained, materialized: DagRun) -> None:
    commands = parse(retrained.first, retrained.insisted, materialized)
    first, insisted = (parameters for step, parameters in commands if step == "recall")
    assert (first["schedule"], first["configs"], first["from_last_good_run"], first["force"]) == ("daily", NAMES[:1], True, False)
    assert insisted["force"]
    assert "steps=7" in first["settings"]
    (remembered, again) = (parameters["run"] for step, parameters in commands if step == "remember")
    assert (remembered, again) == (first["run"], insisted["run"])


def steps_that_every_place_runs_alike(runs: Sequence[DagRun], folder: Path, patch: pytest.MonkeyPatch) -> set[str]:
    """The steps of the runs, whose commands the real parser reads from containers and pods as it does from processes."""
    patch.setenv("MASKLINE_IMAGE", f"trainer@sha256:{'a' * 64}")
    patch.setenv("MASKLINE_DOCKER_USER", "10001:0")
    task = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1", "try_number": "1"}
    steps = [Step(words, folder, {"MASKLINE_WORKSPACE": "/workspace"}, task, gpus=1) for run in runs for words in run.commands]
    containers = [docker_container.render(step, ["0"])["command"] for step in steps]
    pods = [kubernetes_pod.render(step).spec.containers[0].args for step in steps]
    local = [list(step.command) for step in steps]
    parsed = parse_commands([*local, *containers, *pods])
    assert parsed == parsed[: len(local)] * 3
    return {step for step, _ in parsed}


def test_real_parser_accepts_every_command_from_containers_and_pods_too(
    one_fails: DagRun, one_alone: DagRun, retrained: Retrained, materialized: DagRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = (one_fails, one_alone, retrained.first, retrained.insisted, materialized)
    assert steps_that_every_place_runs_alike(runs, tmp_path, monkeypatch) == {
        *("preflight", "materialize", "open-run", "recall", "convert", "plan", "train", "evaluate", "compare", "remember"),
    }


def test_real_parser_accepts_every_command_of_the_dag(parsed: list[tuple[str, dict[str, Any]]]) -> None:
    assert {step for step, _ in parsed} == {
        "preflight",
        *("materialize", "open-run", "convert", "plan", "train", "evaluate", "compare"),
    }


def test_real_parser_reads_how_the_data_set_is_written(parsed: list[tuple[str, dict[str, Any]]]) -> None:
    plain, *parts, joins = (parameters for step, parameters in parsed if step == "materialize")
    settings = ("max_bad", "shards", "workers")
    assert sorted(part["shard_range"] for part in parts) == ["0:3", "3:6"]
    assert [[one[name] for name in settings] for one in (*parts, joins)] == [["5", 3, 2]] * 3
    assert [plain[name] for name in (*settings, "shard_range")] == ["0", None, 1, None]
    assert joins["shard_range"] is None


def test_real_parser_reads_the_checkpoint(parsed: list[tuple[str, dict[str, Any]]]) -> None:
    *scratch, given = (parameters for step, parameters in parsed if step == "convert")
    assert (given["checkpoint"], given["checkpoint_label_map"]) == ("/zoo", "coco")
    assert {(empty["checkpoint"], empty["checkpoint_label_map"]) for empty in scratch} == {(None, None)}


def test_real_parser_reads_the_fields_of_the_config(parsed: list[tuple[str, dict[str, Any]]]) -> None:
    *given, empty = (parameters["assignments"] for step, parameters in parsed if step == "convert")
    assert given == [DagBag(REPOSITORY / "dags").dags["mask_rcnn_zoo"].params["config_fields"]] * 3
    assert not empty


def test_real_parser_reads_the_forms_values(parsed: list[tuple[str, dict[str, Any]]]) -> None:
    given, *_, empty = (parameters for step, parameters in parsed if step == "train")
    assert [given[name] for name in TRAINING] == [DEMO.get(name) for name in TRAINING]
    assert [empty[name] for name in TRAINING] == [None] * len(TRAINING)
