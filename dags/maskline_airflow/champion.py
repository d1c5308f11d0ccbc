"""The champion on the newest data, as tasks of whichever DAG is being defined, and the DAG of a schedule that asks for it by the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Context, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from maskline_airflow.form import champion_fields, template
from maskline_airflow.pipeline import DAG_SETTINGS, ON_GPU, check_dataset, materialized
from maskline_airflow.schedule import read_schedule
from maskline_airflow.step_operator import StepOperator

DOC = """
### Is the champion still as good as it was?

`materialize` writes the data set as it is today. `reassess` measures the champion on it, holds its AP against that of its promotion, and
the distributions of the data against those of that day. Where the AP has fallen, by more than is allowed and by more than chance, the task
and the run fail: that is the alarm, and whoever is told of failures is told of it. Data that has drifted is told in the log.

Nothing is measured twice: on records that the champion was measured on, the answer is there at once.
"""


class Reassess(StepOperator):
    """The step `reassess`; it fails, once and with the numbers, where the champion has fallen, and is skipped where there is none yet."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(step="reassess", **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        result = super().execute(context)
        summary = result["summary"]
        if result["status"] == "skipped":
            context["ti"].xcom_push(key="reason", value=f"{summary['name']}: {summary['sentence']}")
            raise AirflowSkipException(summary["sentence"])
        if summary["fell"]:
            told = f"version {summary['version']} ({summary['config']}) of {summary['name']}: {summary['sentence']}"
            # A task that fails has no result otherwise, and people are told by it.
            context["ti"].xcom_push(key="return_value", value=result)
            context["ti"].xcom_push(key="error", value="the champion has fallen")
            raise AirflowFailException("\n  ".join([told, *summary["drift"]]))
        return result


def evaluate_champion() -> None:
    """Adds the tasks to the DAG that is being defined; its form is `form.champion_fields`."""
    materialize = materialized(after=check_dataset())
    Reassess(
        task_id="reassess",
        arguments=[materialize.output["dataset"]],
        options={"--split": template("split"), "--allowed-fall": template("allowed_fall"), "--name": template("registered_model")},
        **ON_GPU,
    )


def champion_dag(file: str) -> DAG | None:
    """The DAG `evaluate_champion_NAME` of a schedule's file; None where that asks for none. ScheduleError where the file is wrong."""
    schedule = read_schedule(Path(file))
    if not schedule.enabled or schedule.evaluate_champion is None:
        return None
    with DAG(
        dag_id=f"evaluate_champion_{schedule.name}",
        schedule=CronTriggerTimetable(schedule.evaluate_champion, timezone=schedule.time_zone),
        is_paused_upon_creation=False,
        params=champion_fields(schedule.values["dataset"], schedule.values),
        tags=["maskline", "mask-rcnn", "promotion"],
        doc_md=f"{DOC}\nMade of `{schedule.file}`, which is the file to change.\n",
        **DAG_SETTINGS,
    ) as dag:
        evaluate_champion()
    return dag
