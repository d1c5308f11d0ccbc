"""What every DAG of ours keeps to, those of the folder and one that is made of a schedule's file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from maskline_airflow.retrain import retrain_dag

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


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_file_imports_the_trainer_side(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert imported & {"tasks", "tensorflow", "tf_keras", "official", "mlflow", "numpy"} == set()
