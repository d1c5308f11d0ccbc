"""The DAG that people trigger, as Airflow reads it: its form and its edges."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import ParamValidationError
from maskline_airflow.form import config_of, lines_template, named_models, seed_of, template, unknown_fields

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = REPOSITORY / "dags"
DEMO = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS)


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    return bag.dags["mask_rcnn_zoo"]


def test_training_and_evaluation_share_the_gpu_pool_and_evaluation_goes_first(dag: DAG) -> None:
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {"backbone.train", "backbone.evaluate"}
    train, evaluate = dag.get_task("backbone.train"), dag.get_task("backbone.evaluate")
    assert train.priority_weight < evaluate.priority_weight


def test_edges(dag: DAG) -> None:
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "check_request": set(),
        "chosen_ranges": {"check_request"},
        "materialize_part": {"chosen_ranges"},
        "materialize": {"materialize_part"},
        "chosen_configs": {"check_request"},
        "open_run": {"materialize"},
        "plan": {"materialize", "open_run", "chosen_configs"},
        "longest_first": {"plan", "open_run"},
        "backbone.convert": {"materialize", "open_run", "longest_first"},
        "backbone.train": {"backbone.convert", "longest_first"},
        "backbone.evaluate": {"backbone.train", "longest_first"},
        "compare": {"backbone.evaluate"},
        "every_backbone_finished": {"backbone.evaluate", "compare"},
    }
    # `compare` waits for evaluations alone: another successful task before it would let it run with none.
    assert dag.get_task("compare").trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    assert [task.task_id for task in dag.leaves] == ["every_backbone_finished"]


def test_plan_takes_no_gpu_and_little_time(dag: DAG) -> None:
    plan, convert, train = (dag.get_task(name) for name in ("plan", "backbone.convert", "backbone.train"))
    asked = plan.partial_kwargs
    assert plan.pool != "gpu"
    assert asked["execution_timeout"] == timedelta(minutes=5)
    # What `plan` is asked for is what `convert` and `train` will do.
    assert asked["options"] == convert.options | train.options
    assert "--count-only" in asked["arguments"]


def test_form_offers_the_zoo_configs_that_there_are(dag: DAG) -> None:
    files = sorted(path.stem for path in (REPOSITORY / "configs" / "zoo").glob("*.config"))
    assert dag.params.get_param("configs").schema["examples"] == files


def test_form_offers_the_data_sets_that_there_are(dag: DAG) -> None:
    files = sorted(f"configs/datasets/{path.name}" for path in (REPOSITORY / "configs" / "datasets").glob("*.yaml"))
    assert dag.params.get_param("dataset").schema["examples"] == files


def test_form_starts_with_the_settings_of_the_demo(dag: DAG) -> None:
    filled = {name: value for name, value in dag.params.validate().items() if value is not None}
    assert {**filled, "run_name": DEMO["run_name"]} == DEMO


def required_and_empty(dag: DAG) -> list[str]:
    """Fields for which Airflow's form disables the button: those whose type does not name "null", without a value."""
    schemas = {name: dag.params.get_param(name) for name in dag.params}
    return [name for name, field in schemas.items() if "null" not in field.schema["type"] and field.value in (None, "")]


def test_form_can_be_sent_the_moment_it_opens(dag: DAG) -> None:
    assert required_and_empty(dag) == []


def test_all_but_data_set_and_configs_may_be_left_empty(dag: DAG) -> None:
    assert [name for name in dag.params if "null" not in dag.params.get_param(name).schema["type"]] == ["dataset", "configs"]


def test_sections(dag: DAG) -> None:
    sections: dict[str, list[str]] = {}
    for name in dag.params:
        sections.setdefault(dag.params.get_param(name).schema.get("section", ""), []).append(name)
    # The fields without a section stand first, and open.
    assert sections == {
        "": ["dataset", "configs", "run_name"],
        "Training": [
            *("steps", "batch_size", "image_size", "learning_rate", "precision", "xla"),
            *("seeds", "evaluate_every", "patience", "checkpoint", "checkpoint_label_map"),
        ],
        "Data": ["max_bad", "shards", "workers", "shard_ranges"],
        "Advanced": ["config_fields", "proposals", "best_metric", "on_nan", "keep", "max_bad_records"],
    }


def test_every_field_says_what_it_is_and_what_empty_means(dag: DAG) -> None:
    for name in dag.params:
        field = dag.params.get_param(name)
        assert field.schema["title"], name
        assert field.description.endswith("."), name
        if "null" in field.schema["type"]:
            assert "Empty: " in field.description, name


# The form turns an emptied field into null; a program may send either.
@pytest.mark.parametrize("empty", [None, ""])
def test_field_left_empty_is_empty_in_the_commands(dag: DAG, empty: Any) -> None:
    for name in dag.params:
        kind = dag.params.get_param(name).schema["type"]
        if "null" in kind and "array" not in kind and not ("enum" in dag.params.get_param(name).schema and empty == ""):
            value = dag.params.get_param(name).resolve(empty)
            assert jinja2.Template(template(name)).render(params={name: value}) == "", name


def test_lines_left_empty_are_none_in_the_commands() -> None:
    for empty in (None, [], ["", ""]):
        assert jinja2.Template(lines_template("config_fields")).render(params={"config_fields": empty}).strip() == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", ""),
        ("dataset", " "),
        ("dataset", None),
        ("max_bad", -1),
        ("shards", 0),
        ("workers", 0),
        ("shard_ranges", ["4"]),
        ("configs", []),
        ("configs", None),
        ("configs", ["mask_rcnn_resnet18_coco"]),
        ("configs", ["mask_rcnn_inception_v2_coco", "mask_rcnn_inception_v2_coco"]),
        ("run_name", "../elsewhere"),
        ("run_name", ".hidden"),
        ("config_fields", ["no_value"]),
        ("steps", 0),
        ("steps", 1.5),
        ("steps", "60"),
        ("steps", True),
        ("batch_size", 0),
        ("image_size", 16),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("precision", "float8"),
        ("xla", True),
        ("evaluate_every", "often"),
        ("evaluate_every", "-5"),
        ("evaluate_every", "0"),
        ("patience", 0),
        ("best_metric", "loss"),
        ("on_nan", "go on"),
        ("keep", 0),
        ("seeds", ["-1"]),
        ("seeds", ["one"]),
        ("seeds", ["01"]),
        ("proposals", 0),
    ],
)
def test_form_refuses(dag: DAG, name: str, value: Any) -> None:
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_a_model_for_each_seed_of_each_config() -> None:
    assert named_models(["a", "b"], None) == named_models(["a", "b"], ["", ""]) == ["a", "b"]
    names = named_models(["a", "b"], ["7", "", "11", "7"])
    assert names == ["a-seed7", "a-seed11", "b-seed7", "b-seed11"]
    assert [(config_of(name), seed_of(name)) for name in (*names[1:3], "a")] == [("a", "11"), ("b", "7"), ("a", "")]


def test_unknown_field_is_told_with_the_nearest_one(dag: DAG) -> None:
    assert unknown_fields({"stpes": 3, "dataset": ""}, dag.params) == ["`stpes`: did you mean `steps`?"]
    (line,) = unknown_fields({"colour": 3}, dag.params)
    assert line.startswith("`colour`: the fields are dataset, configs, run_name, steps, ")
