"""The line from a data set to a comparison, as tasks of whichever DAG is being defined.

A form that `maskline_airflow.form` made says what runs; what a step does is `maskline STEP --help`, where it runs is the operator's
setting.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, TriggerRule, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from maskline_airflow import notifications
from maskline_airflow.assets import CANDIDATE, MaterializeOperator
from maskline_airflow.form import config_of, lines_template, named_models, seed_of, template, unknown_fields
from maskline_airflow.schedule import LAST_GOOD_RUN
from maskline_airflow.step_operator import ComparisonLink, MlflowRunLink, StepOperator, gpus_per_training, run_dir

log = logging.getLogger(__name__)

DAG_SETTINGS: dict[str, Any] = {
    "catchup": False,
    "max_active_runs": 1,
    "user_defined_macros": {"run_dir": run_dir, "config_of": config_of, "seed_of": seed_of},
    "default_args": {
        "owner": "maskline",
        # A cold api-server on a busy machine can fail a task that has hardly begun, and training can lose its worker.
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
        # Longer than any step but a training; one that hangs is stopped, and tried again from what it has done.
        "execution_timeout": timedelta(days=2),
    },
    **notifications.dag_settings(),
}
"""What all DAGs have in common."""

ON_GPU: dict[str, Any] = {"pool": "gpu", "queue": "gpu", "weight_rule": "absolute"}
"""Of tasks that take one; the queue is that of workers with a GPU, where an executor knows queues."""

RUN_DIR = "{{ run_dir(params.run_name, run_id) }}"

BACKBONE_STEPS = ("convert", "train", "evaluate")
"""Tasks of the group `backbone`, in their order."""

_GO_ON = (
    "see the log of the task that failed, then clear it, with Downstream: it alone runs again, a training from its last checkpoint, and "
    "all are compared"
)

_MODEL_FIELDS = (
    *("image_size", "steps", "batch_size", "learning_rate", "precision", "xla", "proposals", "max_bad_records"),
    *("evaluate_every", "best_metric", "patience", "on_nan"),
)
_TRAIN_FIELDS = (*_MODEL_FIELDS, "keep")
_SETTINGS = (*_MODEL_FIELDS, "checkpoint", "checkpoint_label_map")
_START = {"--checkpoint": template("checkpoint"), "--checkpoint-label-map": template("checkpoint_label_map")}
_RECALLED = "{{{{ ti.xcom_pull(task_ids='anything_new')['summary']['starts'][config_of(task.instance_name)]['{}'] }}}}"
_BEFORE = "{{ ti.xcom_pull(task_ids='anything_new')['summary']['before'] }}"
_RECALLED_START = {"--checkpoint": _RECALLED.format("checkpoint"), "--checkpoint-label-map": _RECALLED.format("label_map")}


def refuse_unknown_fields(context: Context) -> None:
    """AirflowFailException where the run's conf has fields that its form does not have, which Airflow takes and nobody reads."""
    unknown = unknown_fields(context["dag_run"].conf or {}, context["dag"].params)
    if unknown:
        raise AirflowFailException("conf has fields that the form does not have:\n  " + "\n  ".join(unknown))


class CheckRequest(StepOperator):
    """The first task: what Airflow's form cannot know is refused here, before anything is written."""

    def execute(self, context: Context) -> dict[str, Any]:
        refuse_unknown_fields(context)
        return super().execute(context)


class AnythingNew(StepOperator):
    """Lets a scheduled run go on where it would train something new; otherwise it is skipped, with the reason in log and XCom."""

    def execute(self, context: Context) -> dict[str, Any]:
        result = super().execute(context)
        reason = result["summary"]["reason"]
        context["ti"].xcom_push(key="reason", value=reason)
        if result["status"] == "skipped":
            raise AirflowSkipException(reason)
        return result


class Plan(StepOperator):
    """Tells what a training will need. Without a plan, whatever the reason, it succeeds all the same: no training waits for an estimate."""

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            return super().execute(context)
        except (Exception, AirflowTaskTimeout) as error:
            self.on_kill()
            # Not skipped: what follows would have to tell it from a run that has nothing to train.
            reason = str(error) or f"more than {self.execution_timeout} were over"
            self.log.warning("There is no plan, and the training goes on without: %s", reason)
            return {"step": self.step, "status": "failed", "outputs": {}, "summary": {"reason": reason}}


class Compare(StepOperator):
    """The last step, with a button that opens the comparison's page."""

    operator_extra_links = (MlflowRunLink(), ComparisonLink())
    page_url: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        result = super().execute(context)
        self.page_url = result["summary"].get("page_url")
        return result


def pipeline(schedule: str | None = None, *, offer: bool = False) -> None:
    """Adds the tasks to the DAG that is being defined.

    With the name of a `schedule`, a run that would train nothing new is skipped, and one that ends well is remembered; with `offer`, it
    is then a candidate for promotion.
    """
    check_request = check_dataset({"--config": lines_template("configs"), "--set": lines_template("config_fields"), **_START})
    materialize = materialized(after=check_request)
    start = _START
    open_run = StepOperator(
        task_id="open_run",
        step="open-run",
        arguments=[RUN_DIR],
        options={"--dataset": materialize.output["dataset"]},
    )
    if schedule is not None:
        anything_new = _anything_new(schedule, materialize)
        anything_new >> open_run
        start = _RECALLED_START

    @task
    def chosen_configs(params: dict[str, Any]) -> list[str]:
        return named_models(params["configs"], params["seeds"])

    configs = chosen_configs()
    check_request >> configs

    of_model: dict[str, Any] = {
        "map_index_template": "{{ task.instance_name }}",
        "mlflow_url": "{{ ti.xcom_pull(task_ids='open_run')['summary']['mlflow_url'] }}",
    }
    config = "{{ config_of(task.instance_name) }}"
    conversion = {
        "--dataset": materialize.output["dataset"],
        "--output": f"{RUN_DIR}/{{{{ task.instance_name }}}}",
        "--set": lines_template("config_fields"),
        **start,
    }
    settings = {f"--{field.replace('_', '-')}": template(field) for field in _TRAIN_FIELDS}
    settings["--seed"] = "{{ seed_of(task.instance_name) }}"
    # Counted and not run: that takes seconds, and nobody's accelerator.
    plan = Plan.partial(
        task_id="plan",
        step="plan",
        arguments=[config, "--count-only", "--devices", gpus_per_training()],
        options=conversion | settings,
        execution_timeout=timedelta(minutes=5),
        **of_model,
    ).expand(instance_name=configs)

    @task_group
    def backbone(model: str) -> None:
        convert = StepOperator(
            task_id="convert",
            step="convert",
            arguments=[config],
            options=conversion,
            # One after the other, in the order of the list: trainings ask for a GPU in that order, and Airflow keeps to it.
            max_active_tis_per_dagrun=1,
            instance_name=model,
            **of_model,
        )
        train = StepOperator(
            task_id="train",
            step="train",
            arguments=[convert.output["model"]],
            options=settings,
            execution_timeout=timedelta(days=30),
            priority_weight=1,
            pool_slots=gpus_per_training(),
            instance_name=model,
            **ON_GPU,
            **of_model,
        )
        StepOperator(
            task_id="evaluate",
            step="evaluate",
            arguments=[train.output["model"]],
            # Comes before training the next, so that results arrive as early as they can.
            priority_weight=2,
            instance_name=model,
            **ON_GPU,
            **of_model,
        )

    # Listed before they are converted: whatever fails and is cleared later, each model keeps its place in the list, by which Airflow
    # knows its tasks.
    models = longest_first()
    open_run >> [plan, models]
    plan >> models
    backbones = backbone.expand(model=models)

    compare = Compare(
        task_id="compare",
        step="compare",
        arguments=[RUN_DIR],
        options={"--before": None if schedule is None else _BEFORE},
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )

    finished = every_backbone_finished()
    open_run >> backbones >> [compare, finished]
    compare >> finished
    if schedule is not None:
        remember = StepOperator(task_id="remember", step="remember", arguments=[schedule, RUN_DIR])
        finished >> remember
        if offer:
            remember >> offer_for_promotion()


@task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def longest_first(*, ti: Any, params: dict[str, Any], task_state_store: Any) -> list[str]:
    """The models in the order in which their trainings are to start: by planned hours, those without a plan before all others.

    Cleared, it keeps to its first answer, since tasks that may have run already are known by their places in it.
    """
    if kept := task_state_store.get("models"):
        log.info("as before: %s", ", ".join(kept))
        return list(kept)
    models = named_models(params["configs"], params["seeds"])
    plans = (ti.xcom_pull(task_ids="plan", map_indexes=index) for index in range(len(models)))
    # Without a plan a training may be the longest.
    hours = {model: (plan or {"summary": {}})["summary"].get("hours", math.inf) for model, plan in zip(models, plans, strict=True)}
    ordered = sorted(models, key=lambda model: -hours[model])
    for model in ordered:
        log.info("%s: %s", model, f"{hours[model]:.3g} hours" if math.isfinite(hours[model]) else "no plan, so it comes first")
    task_state_store.set("models", ordered, retention=NEVER_EXPIRE)
    return ordered


@task(trigger_rule=TriggerRule.ALL_DONE)
def every_backbone_finished(*, ti: Any, run_id: str, params: dict[str, Any]) -> None:
    """Fails the run, naming what is missing, where a backbone did not finish or nothing was compared; skipped where all was."""
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[run_id])[run_id]
    if states.get("compare") == "skipped":
        raise AirflowSkipException("there was nothing to train")
    models = ti.xcom_pull(task_ids="longest_first") or named_models(params["configs"], params["seeds"])
    if missing := unfinished(models, states):
        raise AirflowFailException(f"not finished: {'; '.join(missing)}\n  fix: {_GO_ON}")
    if states.get("compare") != "success":
        raise AirflowFailException("the models were not compared: see the log of `compare`, or of what failed before it")


def unfinished(models: Sequence[str], states: Mapping[str, str | None]) -> list[str]:
    """Each model of the list that did not get to its end, with the step that failed; `states` are of tasks, `TASK_INDEX` where mapped."""
    found = []
    for index, model in enumerate(models):
        of_model = {step: states.get(f"backbone.{step}_{index}") for step in BACKBONE_STEPS}
        failed = next((step for step, state in of_model.items() if state == "failed"), None)
        if failed:
            found.append(f"{model} ({failed} failed)")
        elif any(state != "success" for state in of_model.values()):
            found.append(f"{model} (not begun)" if of_model["convert"] != "success" else model)
    return found


def _anything_new(schedule: str, materialize: StepOperator) -> AnythingNew:
    settings = "\n".join(f"{field}={template(field)}" for field in _SETTINGS)
    return AnythingNew(
        task_id="anything_new",
        step="recall",
        arguments=[
            schedule,
            RUN_DIR,
            f"{{{{ '--from-last-good-run' if params.start_from == '{LAST_GOOD_RUN}' else '' }}}}",
            "{{ '--force' if params.force else '' }}",
        ],
        options={
            "--dataset": materialize.output["dataset"],
            "--config": lines_template("configs"),
            "--setting": f"{settings}\nconfig_fields={_joined('config_fields')}\nseeds={_joined('seeds')}",
        },
    )


def _joined(field: str) -> str:
    return f"{{{{ (params.{field} or []) | join(' ') }}}}"


@task(outlets=[CANDIDATE])
def offer_for_promotion(*, ti: Any, params: dict[str, Any], run_id: str, outlet_events: Any) -> None:
    """An event of the asset, which whatever promotes models waits for; skipped where the comparison names no best."""
    compared = ti.xcom_pull(task_ids="compare")["summary"]
    if not compared["best"]:
        raise AirflowSkipException("no model is offered: nothing was measured, or every AP is zero; see the log of `compare`")
    outlet_events[CANDIDATE].extra = {
        "dag_id": ti.dag_id,
        "run_id": run_id,
        "run": run_dir(params["run_name"], run_id),
        "config": compared["best"],
        "mask_ap": compared["mask_ap"],
        "mlflow_run_id": compared["mlflow_run_id"],
    }


def evaluation() -> None:
    """Adds the tasks that evaluate one model, whatever it is kept as, on a data set."""
    folder = f"{RUN_DIR}/{{{{ params.model_name or 'model' }}}}"
    given = {"--predictor": template("model"), "--results": template("results"), "--slices": template("slices")}
    of_model = {name: template(name) for name in ("config", "label_map", "checkpoint")}
    asked = {"--evaluate-into": folder, **given}
    check_request = check_dataset(asked | {f"--predictor-{name.replace('_', '-')}": value for name, value in of_model.items()})
    materialize = materialized(after=check_request)
    StepOperator(
        task_id="evaluate",
        step="evaluate",
        arguments=[folder],
        options={
            "--dataset": materialize.output["dataset"],
            **given,
            **{f"--{name.replace('_', '-')}": value for name, value in of_model.items()},
            "--split": template("split"),
            "--batch-size": template("batch_size"),
        },
        **ON_GPU,
    )


def check_dataset(options: Mapping[str, str] | None = None) -> CheckRequest:
    """Adds the task that looks at the data set that was asked for, and at what else `options` of the step `preflight` name."""
    return CheckRequest(
        task_id="check_request",
        step="preflight",
        arguments=[template("dataset")],
        options={**(options or {}), "--shard-range": lines_template("shard_ranges")},
    )


def materialized(after: BaseOperator) -> StepOperator:
    """Adds the tasks that write the data set of the form, in the parts that it asks for; returns the last."""

    @task
    def chosen_ranges(params: dict[str, Any]) -> list[str]:
        return [line for line in params["shard_ranges"] or [] if line]

    how = {"--max-bad": template("max_bad"), "--shards": template("shards"), "--workers": template("workers")}
    ranges = chosen_ranges()
    materialize_part = StepOperator.partial(
        task_id="materialize_part",
        step="materialize",
        arguments=[template("dataset")],
        options={"--shard-range": "{{ task.instance_name }}", **how},
        map_index_template="{{ task.instance_name }}",
    ).expand(instance_name=ranges)

    # Without ranges there are no parts, which Airflow calls skipped.
    materialize = MaterializeOperator(
        task_id="materialize",
        arguments=[template("dataset")],
        options=how,
        trigger_rule=TriggerRule.NONE_FAILED,
    )
    after >> ranges >> materialize_part >> materialize
    return materialize
