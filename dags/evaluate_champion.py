"""The DAG `evaluate_champion`: the champion of a data set, measured again on its newest records, when a person asks for it."""

from __future__ import annotations

from airflow.sdk import DAG
from maskline_airflow.champion import DOC, evaluate_champion
from maskline_airflow.form import champion_fields
from maskline_airflow.pipeline import DAG_SETTINGS

with DAG(
    dag_id="evaluate_champion",
    schedule=None,
    is_paused_upon_creation=False,
    params=champion_fields("configs/datasets/shapes.yaml"),
    tags=["maskline", "mask-rcnn", "promotion"],
    doc_md=DOC,
    **DAG_SETTINGS,
):
    evaluate_champion()
