"""The DAG `mask_rcnn_zoo`: one data set, the Mask R-CNN zoo configs that were chosen, one comparison, when a person asks for it."""

from __future__ import annotations

from airflow.sdk import DAG
from maskline_airflow.form import demo_values, form
from maskline_airflow.pipeline import DAG_SETTINGS, pipeline

with DAG(
    dag_id="mask_rcnn_zoo",
    schedule=None,
    is_paused_upon_creation=False,
    params=form(demo_values()),
    tags=["maskline", "mask-rcnn"],
    doc_md="""
### Train and compare the Mask R-CNN zoo

`check_request` looks at what was asked for before anything is written. `materialize` writes the data set as TFRecords, or joins
the ranges of shards that tasks `materialize_part` have written. `open_run` opens the run's page in MLflow. Then each chosen zoo
config is converted, trained and evaluated; one that fails leaves the others alone. `compare` puts those that finished side by side, and
`every_backbone_finished` fails the run when one is missing.

*Again*: trigger with the `run_name` of an earlier run, or clear the failed tasks. What is done is skipped, training
goes on from its last checkpoint.

*The GPU*: `train` and `evaluate` take a slot of the pool `gpu`; give it as many slots as trainings may run at a time.

*Logs*: each task shows the output of its step. The button **MLflow run** opens what it wrote: of `open_run` and `compare`,
and of a task that has not ended yet, all models of this run side by side. **Comparison**, of `compare`, opens the page of verdicts,
curves and pictures.
""",
    **DAG_SETTINGS,
):
    pipeline()
