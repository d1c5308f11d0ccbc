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
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from maskline_airflow.retrain import retrain_dag
from maskline_airflow.schedules_bundle import dag_file

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = REPOSITORY / "dags"
SOURCES = sorted(path for path in DAGS.rglob("*.py") if ".venv" not in path.parts)
SCHEDULE = """
cron: "@daily"
on_dataset_change: true
dataset: configs/datasets/shapes.yaml
configs: [mask_rcnn_inception_v2_coco]
start_from: last_good_run
offer_for_promotion: true
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
    return [*bag.dags.values(), retrain]


def test_folder_holds_these_dags_and_nothing_that_airflow_reads_besides(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert sorted(Path(stat.file).name for stat in bag.dagbag_stats) == ["mask_rcnn_zoo.py", "materialize_dataset.py"]
    assert sorted(bag.dags) == ["mask_rcnn_zoo", "materialize_dataset"]


def test_every_dag_says_what_it_is_and_runs_once_at_a_time(dags: list[DAG]) -> None:
    for dag in dags:
        dag.validate()
        assert dag.doc_md, dag.dag_id
        assert {"maskline", "mask-rcnn"} <= dag.tags, dag.dag_id
        assert (dag.max_active_runs, dag.catchup, dag.is_paused_upon_creation) == (1, False, False), dag.dag_id


def test_every_task_has_an_owner_and_is_tried_again(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            assert (task.owner, task.retries) == ("maskline", 2), (dag.dag_id, task.task_id)


def test_no_task_goes_on_for_ever(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            if not isinstance(task, EmptyOperator):
                assert task.execution_timeout is not None, (dag.dag_id, task.task_id)
                assert timedelta() < task.execution_timeout <= timedelta(days=60), (dag.dag_id, task.task_id)


def test_what_takes_a_gpu_goes_to_the_workers_that_have_one(dags: list[DAG]) -> None:
    for dag in dags:
        for task in dag.tasks:
            assert (task.pool == "gpu") == (task.queue == "gpu") == (task.task_id.split(".")[-1] in ("train", "evaluate")), task.task_id


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


PARSED = ["daily.py", "mask_rcnn_zoo.py", "materialize_dataset.py"]


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
        assert outside <= {"packaging"}, name


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
