"""The DAG `materialize_dataset`: a data set's records, and word to those who wait for them to change. Nothing is trained."""

from __future__ import annotations

from airflow.sdk import DAG
from maskline_airflow.form import data_fields, dataset_field
from maskline_airflow.pipeline import DAG_SETTINGS, check_dataset, materialized

with DAG(
    dag_id="materialize_dataset",
    schedule=None,
    is_paused_upon_creation=False,
    params={"dataset": dataset_field("configs/datasets/shapes.yaml"), **data_fields()},
    tags=["maskline", "mask-rcnn", "data"],
    doc_md="""
### Write a data set's records

Trigger it, by hand or from the system that delivers images and annotations, when there are new ones. Where the records become others,
the data set's asset gets an event, and every schedule with `on_dataset_change` that trains on it runs. Where they are the same already,
nothing happens.
""",
    **DAG_SETTINGS,
):
    materialized(after=check_dataset())
