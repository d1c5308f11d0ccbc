"""The DAG `evaluate_model`: what one model, whatever it is kept as, finds on a data set, when a person asks for it."""

from __future__ import annotations

from airflow.sdk import DAG
from maskline_airflow.form import evaluation_form
from maskline_airflow.pipeline import DAG_SETTINGS, evaluation

with DAG(
    dag_id="evaluate_model",
    schedule=None,
    is_paused_upon_creation=False,
    params=evaluation_form({"dataset": "configs/datasets/shapes.yaml"}),
    tags=["maskline", "mask-rcnn", "evaluation"],
    doc_md="""
### Evaluate a model

Name a *model*, trained here, exported, ONNX or a checkpoint of the original, or a *file of detections* of any program, and the data set:
its YAML, or the folder of a materialized one. `check_request` refuses what cannot be evaluated before anything is written; records that
are there are not written again.

The log of `evaluate` has the figures, the latency at batch 1 and at the batch, and the device; the button **MLflow run** opens them with
the pictures, curves, errors and slices. Models that were evaluated under one *name of the run* are set side by side by
`maskline compare runs/NAME`.
""",
    **DAG_SETTINGS,
):
    evaluation()
