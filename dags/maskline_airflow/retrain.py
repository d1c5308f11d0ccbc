"""The DAG `retrain_NAME` of a schedule's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param

from maskline_airflow.assets import CANDIDATE, dataset_asset
from maskline_airflow.form import form
from maskline_airflow.pipeline import DAG_SETTINGS, pipeline
from maskline_airflow.schedule import LAST_GOOD_RUN, Schedule, read_schedule

DOC = """
### Retrain on a schedule

{description}

Made of `{file}`, which is the file to change. The form's fields start with what it says.

`anything_new` compares the data, the configs, the settings and the program with those of the last run that ended well; where nothing is
different, the run ends there, skipped, and says so. Trigger with *Train though nothing has changed* to run all the same. `remember` makes
a run that ended well the one to compare with{offer}.
"""


def retrain_dag(file: str) -> DAG | None:
    """None where the schedule is switched off; ScheduleError where the file is wrong."""
    schedule = read_schedule(Path(file))
    if not schedule.enabled:
        return None
    offer = f", and `offer_for_promotion` tells the asset `{CANDIDATE.name}`" if schedule.offer_for_promotion else ""
    with DAG(
        dag_id=f"retrain_{schedule.name}",
        schedule=_when(schedule),
        is_paused_upon_creation=False,
        params=_form(schedule),
        tags=["maskline", "mask-rcnn", "retrain"],
        description=schedule.description or None,
        doc_md=DOC.format(description=schedule.description, file=schedule.file, offer=offer),
        **DAG_SETTINGS,
    ) as dag:
        pipeline(schedule.name, offer=schedule.offer_for_promotion)
    return dag


def _when(schedule: Schedule) -> Any:
    clock = CronTriggerTimetable(schedule.cron, timezone=schedule.time_zone) if schedule.cron else None
    changes = [dataset_asset(schedule.dataset_name)] if schedule.dataset_name else None
    return AssetOrTimeSchedule(timetable=clock, assets=changes) if clock and changes else clock or changes


def _form(schedule: Schedule) -> dict[str, Param]:
    force = Param(
        False,
        type=["null", "boolean"],
        title="Train though nothing has changed",
        description="Whether to train on the data, configs, settings and program of the last good run again. Empty: no.",
    )
    start_from = Param(
        schedule.start_from,
        type=["null", "string"],
        enum=[None, LAST_GOOD_RUN],
        values_display={"null": "the checkpoint, or from scratch", LAST_GOOD_RUN: "the weights of the last good run"},
        title="Start from",
        description="Where the last good run has no weights of a config, the checkpoint counts. Empty: the checkpoint, or from scratch.",
        section="Training",
    )
    return {**form(schedule.values), "start_from": start_from, "force": force}
