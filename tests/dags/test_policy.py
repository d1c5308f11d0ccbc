"""What every DAG of ours keeps to, those of the folder and one that is made of a schedule's file."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG
from maskline_airflow.champion import champion_dag
from maskline_airflow.promotion import KEEP
from maskline_airflow.retrain import retrain_dag
from maskline_airflow.schedules_bundle import dag_file
from maskline_airflow.step_operator import AT_ONCE_AFTER_PREEMPTION, StepOperator

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = REPOSITORY / "dags"
SOURCES = sorted(path for path in DAGS.rglob("*.py") if ".venv" not in path.parts)
FOLDER = ["evaluate_champion", "evaluate_model", "mask_rcnn_zoo", "materialize_dataset", "promote"]
WAITS_FOR_PEOPLE = ("promote",)
"""Of these many run at a time: one that waits for an answer holds up no other."""
SCHEDULE = """
cron: "@daily"
on_dataset_change: true
dataset: configs/datasets/shapes.yaml
configs: [mask_rcnn_inception_v2_coco]
start_from: last_good_run
offer_for_promotion: true
evaluate_champion: "@weekly"
"""


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS)


@pytest.fixture(scope="module")
def dags(bag: DagBag, tmp_path_factory: pytest.TempPathFactory) -> list[DAG]:
    file = tmp_path_factory.mktemp("schedules") / "daily.yaml"
    file.write_text(SCHEDULE)
    retrain = retrain_dag(str(file))
    assert retrain is not None
    champion = champion_dag(str(file))
    assert champion is not None
    return [*bag.dags.values(), retrain, champion]


def test_folder_holds_these_dags_and_nothing_that_airflow_reads_besides(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert sorted(Path(stat.file).name for stat in bag.dagbag_stats) == [f"{name}.py" for name in FOLDER]
    assert sorted(bag.dags) == FOLDER


def test_every_dag_says_what_it_is_and_runs_once_at_a_time(dags: list[DAG]) -> None:
    for dag in dags:
        dag.validate()
        assert dag.doc_md, dag.dag_id
        assert {"maskline", "mask-rcnn"} <= dag.tags, dag.dag_id
        runs = 16 if dag.dag_id in WAITS_FOR_PEOPLE else 1
        assert (dag.max_active_runs, dag.catchup, dag.is_paused_upon_creation) == (runs, False, False), dag.dag_id


def test_every_task_has_an_owner_and_is_tried_again(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            assert (task.owner, task.retries) == ("maskline", 2), (dag.dag_id, task.task_id)


def test_no_task_goes_on_for_ever(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            assert task.execution_timeout is not None, (dag.dag_id, task.task_id)
            assert timedelta() < task.execution_timeout <= timedelta(days=60), (dag.dag_id, task.task_id)


def test_nobody_is_waited_for_for_ever_and_no_answer_is_a_no(dags: list[DAG]) -> None:
    waiting = [(dag.dag_id, task) for dag in dags for task in dag.tasks if isinstance(task, HITLOperator)]
    assert {dag_id for dag_id, _ in waiting} == set(WAITS_FOR_PEOPLE)
    for dag_id, task in waiting:
        assert task.response_timeout is not None, (dag_id, task.task_id)
        assert timedelta() < task.response_timeout <= timedelta(days=14), (dag_id, task.task_id)
        assert task.defaults == [KEEP], (dag_id, task.task_id)


def test_what_is_preempted_is_tried_again_at_once(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            if isinstance(task, StepOperator):
                assert task.retry_policy is AT_ONCE_AFTER_PREEMPTION, (dag.dag_id, task.task_id)


def test_what_takes_a_gpu_goes_to_the_workers_that_have_one(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            assert (task.pool == "gpu") == (task.queue == "gpu") == (task.task_id.split(".")[-1] in ("train", "evaluate", "reassess")), (
                task.task_id
            )


def test_every_dag_looks_at_the_request_first(dags: list[DAG]) -> None:
    for dag in dags:
        assert [task.task_id for task in dag.roots] == ["check_request"], dag.dag_id


def test_every_form_can_be_sent_the_moment_it_opens(dags: list[DAG]) -> None:
    for dag in dags:
        for name in dag.params:
            field = dag.params.get_param(name)
            assert "null" in field.schema["type"] or field.value not in (None, ""), (dag.dag_id, name)


@pytest.mark.parametrize("source", sorted(DAGS.glob("*.py")), ids=lambda path: path.name)
def test_dag_file_is_imports_and_a_dag(source: Path) -> None:
    docstring, *statements = ast.parse(source.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert {type(statement) for statement in statements} == {ast.ImportFrom, ast.With}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What parsing each DAG file took and did, the one that is made of a schedule too."""
    folder = tmp_path_factory.mktemp("parsed")
    schedule, made = folder / "daily.yaml", folder / "daily.py"
    schedule.write_text(SCHEDULE)
    made.write_text(dag_file(schedule))
    # Does what no DAG file may, so that the looking is known to see it.
    bad = folder / "bad.py"
    bad.write_text(
        "import socket, subprocess, pathlib, yaml, supervisor\n"
        "pathlib.Path(__file__).with_suffix('.txt').write_text('x')\n"
        "subprocess.run(['true'])\n"
        "socket.socket().connect_ex(('127.0.0.1', 9))\n"
    )
    files = [*sorted(DAGS.glob("*.py")), made, bad]
    answer = subprocess.run(
        [sys.executable, Path(__file__).with_name("parse_alone.py"), *files],
        env={**os.environ, "PYTHONPATH": str(DAGS), "MASKLINE_SCHEDULES": str(folder)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return {Path(file).name: told for file, told in json.loads(answer.stdout.splitlines()[-1]).items()}


PARSED = ["daily.py", *(f"{name}.py" for name in FOLDER)]


def test_parsing_starts_nothing_writes_nothing_and_reads_configs_alone(parsed: dict[str, Any]) -> None:
    bad = parsed["bad.py"]
    assert [Path(path).name for path in bad["written"]] == ["bad.txt"]
    assert {"subprocess.Popen", "socket.connect"} <= set(bad["effects"])
    assert sorted(parsed) == ["bad.py", *PARSED]
    for name in PARSED:
        told = parsed[name]
        assert (told["written"], told["effects"]) == ([], []), name
        assert {Path(path).suffix for path in told["read"]} <= {".yaml", ".cfg"}, (name, told["read"])


def test_parsing_imports_next_to_nothing_beside_airflow(parsed: dict[str, Any]) -> None:
    # Airflow is there already where DAG files are parsed; a package such as TensorFlow or MLflow would take seconds.
    assert "supervisor" in parsed["bad.py"]["packages"]
    for name in PARSED:
        outside = set(parsed[name]["packages"]) - {"airflow", "maskline_airflow"} - set(sys.stdlib_module_names)
        # The second comes with Airflow's own operators that wait for a person.
        assert outside <= {"packaging", "asgiref"}, name


def test_parsing_takes_less_than_two_seconds(parsed: dict[str, Any]) -> None:
    # Of the CPU, so that a busy machine changes nothing; it is a twentieth of a second.
    for name in PARSED:
        assert parsed[name]["seconds"] < 2, name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_file_imports_the_trainer_side(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert imported & {"tasks", "tensorflow", "tf_keras", "official", "mlflow", "numpy"} == set()
