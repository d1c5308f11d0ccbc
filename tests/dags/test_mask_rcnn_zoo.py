"""The DAG as Airflow reads it: policy, trigger form and edges."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import ParamValidationError

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = REPOSITORY / "dags"
DEMO = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS)


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    return bag.dags["mask_rcnn_zoo"]


def test_folder_holds_this_dag_and_nothing_that_airflow_reads_besides(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert [Path(stat.file).name for stat in bag.dagbag_stats] == ["mask_rcnn_zoo.py"]
    assert list(bag.dags) == ["mask_rcnn_zoo"]


@pytest.mark.parametrize("source", sorted(path for path in DAGS.rglob("*.py") if ".venv" not in path.parts), ids=lambda p: p.name)
def test_no_file_imports_the_trainer_side(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert imported & {"tasks", "tensorflow", "tf_keras", "official", "mlflow", "numpy"} == set()


def test_policy(dag: DAG) -> None:
    assert dag.doc_md
    assert dag.tags == {"maskline", "mask-rcnn"}
    assert dag.schedule is None
    assert dag.max_active_runs == 1
    assert not dag.is_paused_upon_creation
    for task in dag.tasks:
        assert (task.owner, task.retries) == ("maskline", 2), task.task_id


def test_training_and_evaluation_share_the_gpu_pool_and_evaluation_goes_first(dag: DAG) -> None:
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {"backbone.train", "backbone.evaluate"}
    train, evaluate = dag.get_task("backbone.train"), dag.get_task("backbone.evaluate")
    assert train.priority_weight < evaluate.priority_weight


def test_edges(dag: DAG) -> None:
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "chosen_ranges": set(),
        "materialize_part": {"chosen_ranges"},
        "materialize": {"materialize_part"},
        "chosen_configs": set(),
        "open_run": {"materialize"},
        "backbone.convert": {"materialize", "open_run", "chosen_configs"},
        "backbone.train": {"backbone.convert", "chosen_configs"},
        "backbone.evaluate": {"backbone.train", "chosen_configs"},
        "compare": {"backbone.evaluate"},
        "every_backbone_finished": {"backbone.evaluate", "compare"},
    }
    # `compare` waits for evaluations alone: another successful task before it would let it run with none.
    assert dag.get_task("compare").trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    assert [task.task_id for task in dag.leaves] == ["every_backbone_finished"]


def test_form_offers_the_zoo_configs_that_there_are(dag: DAG) -> None:
    files = sorted(path.stem for path in (REPOSITORY / "configs" / "zoo").glob("*.config"))
    assert dag.params.get_param("configs").schema["examples"] == files


def test_form_starts_with_the_settings_of_the_demo(dag: DAG) -> None:
    left_empty = dict.fromkeys(["max_bad", "shards", "workers", "proposals"])
    from_scratch = {"checkpoint": "", "checkpoint_label_map": ""}
    assert {**dag.params.validate(), "run_name": DEMO["run_name"]} == left_empty | {"shard_ranges": []} | from_scratch | DEMO


def test_every_example_dataset_exists(dag: DAG) -> None:
    for example in dag.params.get_param("dataset").schema["examples"]:
        assert (REPOSITORY / example).is_file(), example


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", ""),
        ("max_bad", -1),
        ("shards", 0),
        ("workers", 0),
        ("shard_ranges", ["4"]),
        ("shard_ranges", ["0:4", "0:4"]),
        ("configs", []),
        ("configs", ["mask_rcnn_resnet18_coco"]),
        ("configs", ["mask_rcnn_inception_v2_coco", "mask_rcnn_inception_v2_coco"]),
        ("run_name", "../elsewhere"),
        ("run_name", ".hidden"),
        ("config_fields", ["no_value"]),
        ("steps", 0),
        ("steps", 1.5),
        ("batch_size", 0),
        ("image_size", 16),
        ("learning_rate", 0),
        ("precision", "float8"),
        ("proposals", 0),
    ],
)
def test_form_refuses(dag: DAG, name: str, value: Any) -> None:
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


@pytest.mark.parametrize(
    "name", ["max_bad", "shards", "workers", "steps", "batch_size", "image_size", "learning_rate", "precision", "proposals"]
)
def test_field_left_empty_means_the_config_decides(dag: DAG, name: str) -> None:
    assert dag.params.get_param(name).resolve(None) is None
