"""The folders of models that a person names to have them looked at together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir


def models_in(folder: Path) -> list[ModelDir]:
    """The model that a folder is, or those of the pipeline run that it is."""
    if is_model(ModelDir(folder)):
        return [ModelDir(folder)]
    models = [ModelDir(one) for one in model_folders(RunDir(folder))]
    if not models:
        raise UserError(f"{folder} holds no model to compare", "name folders of models, or of pipeline runs")
    return models


def is_model(model: ModelDir) -> bool:
    """Whether the folder is one of a model, and not of a pipeline run."""
    return any(path.exists() for path in (model.train, model.evaluation, model.experiment))


def named_models(models: Sequence[ModelDir]) -> dict[str, ModelDir]:
    """Models by their names, with as many folders before them as tell them apart."""
    unique = list(dict.fromkeys(ModelDir(model.root.resolve()) for model in models))
    for count in range(1, max(len(model.root.parts) for model in unique) + 1):
        names = ["/".join(model.root.parts[-count:]) for model in unique]
        if len(set(names)) == len(names):
            return dict(zip(names, unique, strict=True))
    raise AssertionError("different folders have different paths")


def model_folders(run: RunDir) -> list[Path]:
    """The folders of a pipeline run's models; UserError where it is no folder."""
    if not run.root.is_dir():
        raise UserError(f"{run.root} is not a folder", "name the folder of a pipeline run, as `open-run` made it")
    candidates = (path for path in run.root.iterdir() if path.is_dir() and path != run.comparison)
    return sorted(path for path in candidates if not path.name.startswith("."))
