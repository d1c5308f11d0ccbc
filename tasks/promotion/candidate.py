"""Which model a promotion is about."""

from __future__ import annotations

from pathlib import Path

from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, read_json


def candidate_in(target: Path) -> ModelDir:
    """The model that a folder is, or of a pipeline run the one that the comparison found highest. UserError where it is neither."""
    model, run = ModelDir(target.absolute()), RunDir(target.absolute())
    if model.pipeline_config.is_file() or model.train.is_dir():
        return model
    compared = run.comparison / "comparison.json"
    if not target.is_dir() or not (compared.is_file() or run.identity.is_file()):
        raise UserError(f"{target} is neither a model's folder nor a pipeline run's", "name one of them")
    best = read_json(compared).get("best")
    if not best:
        raise UserError(f"{target}: the comparison names no best model", "name the folder of one, or evaluate them and compare again")
    print(f"{best} is the highest of {run.name}")
    return run.model(best)
