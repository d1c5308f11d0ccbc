"""What the DAGs tell each other: a data set has other records, a finished run may be promoted."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, AssetAlias, Context

from maskline_airflow.step_operator import StepOperator

DATASET_ALIAS = AssetAlias("mask_rcnn_dataset")
"""Which data set it is, is known when its YAML has been read; and an outlet of its own would get an event also where nothing is new."""

CANDIDATE = Asset("mask_rcnn_candidate")
"""A finished run of a schedule that says so; the event's `extra` says which, its best config and that one's mask AP."""


def dataset_asset(name: str) -> Asset:
    """The asset of the data set that calls itself `name` in its YAML."""
    return Asset(f"mask_rcnn_dataset_{name}")


class MaterializeOperator(StepOperator):
    """The step `materialize`, with an event of the data set's asset where the records have become others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(step="materialize", outlets=[DATASET_ALIAS], **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        result = super().execute(context)
        summary = result["summary"]
        if summary["changed"]:
            asset = dataset_asset(summary["name"])
            self.log.info("the records are others than before: an event of the asset %s", asset.name)
            extra = {"digest": summary["digest"], "dataset": result["outputs"]["dataset"], "images": summary["images"]}
            context["outlet_events"][DATASET_ALIAS].add(asset, extra=extra)
        return result
