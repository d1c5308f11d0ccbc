"""The step that sets the models of a pipeline run side by side.

    maskline compare RUN_DIR

Reads each model's `train/result.json` and what its `evaluation/` holds; writes `compare/comparison.md`, `.json` and `.png`
and closes the pipeline's MLflow run with them. A model that did not get that far is listed, saying how far it got.

Which models the images can tell from the best one is asked of a paired bootstrap: the images are drawn again with repetition, the same
for every model, and a model is worse where the best one is ahead in nearly all of these draws. Usual runtime: 10 seconds; with
thousands of images minutes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.coco.bootstrap import drawn_again, resampled_precision
from tasks.coco.matches import BOX, MASK, Matches, read_matches
from tasks.coco.plots import ModelBar, draw_models
from tasks.evaluation.results import MATCHES
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, StepResult, read_json, staged_directory
from tasks.tracking import close_pipeline_run, comparison_url, pipeline_run_identity

MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

_COLUMNS = (
    ("config", "config"),
    ("mask_ap", "mask AP"),
    ("mask_ap50", "mask AP50"),
    ("box_ap", "box AP"),
    ("parameters", "parameters"),
    ("train_images_per_second", "train images/s"),
    ("seconds_per_image", "s/image"),
    ("standing", "against the best"),
    ("state", "state"),
)
_TEXTS = ("config", "standing", "state")
_READY = "evaluated"

_BEST, _LEVEL, _WORSE, _UNTESTED = "best", "not told apart", "worse", "not tested"
_RESAMPLES = 2000
_FEWEST_IMAGES = 10
"""With fewer a resample is hardly another one, and the bootstrap finds differences that are none."""
_ERROR_RATE = 0.05
"""Of calling any model worse that is not, over all models of the comparison."""


@dataclass(frozen=True)
class Row:
    """One model; a figure that does not exist is None."""

    config: str
    state: str
    """`evaluated`, or how far the model got."""
    mask_ap: float | None = None
    mask_ap50: float | None = None
    box_ap: float | None = None
    parameters: int | None = None
    train_images_per_second: float | None = None
    seconds_per_image: float | None = None
    """Inference time, seconds."""
    images: int | None = None
    objects: int | None = None
    interval: tuple[float, float] | None = None
    """Of the figure that ranks: what it is in 95 % of the resamples."""
    behind: float | None = None
    """Share of the resamples in which the best model is ahead of this one; equal figures count half."""
    standing: str | None = None

    @property
    def rank(self) -> tuple[float, ...]:
        """Greater is better: mask AP, then box AP, so that box-only models have an order too."""
        return tuple(-math.inf if value is None else value for value in (self.mask_ap, self.box_ap))


def compare(run: RunDir) -> StepResult:
    """Writes the comparison and closes the parent run: FINISHED, or FAILED when a model was not evaluated.

    Raises:
      UserError: the folder holds no model, no model was evaluated, or a result file is not what its step writes.
    """
    models = [ModelDir(folder) for folder in _model_folders(run)]
    if not models:
        close_pipeline_run(run, complete=False, description="Nothing to compare.")
        raise UserError(f"{run.root} holds no model to compare", "convert, train and evaluate a config into it first")
    dataset = read_json(run.identity)["dataset"] if run.identity.exists() else None
    rows = sorted((_row(model, dataset) for model in models), key=lambda row: row.config)
    rows.sort(key=lambda row: row.rank, reverse=True)
    ready = [row for row in rows if row.state == _READY]
    if not ready:
        states = "; ".join(f"{row.config}: {row.state}" for row in rows)
        close_pipeline_run(run, complete=False, description=f"Nothing to compare. {states}")
        raise UserError(f"{run.root}: no model was evaluated ({states})", "see why in their logs, then run them again")

    rows = _ranked(run, rows)
    ready = [row for row in rows if row.state == _READY]
    best = next((row for row in ready if row.standing == _BEST), None)
    note = _note(ready, best)
    table = _markdown_table(rows)
    head = [f"Dataset {dataset['name']}, digest `{dataset['digest'][:12]}`.", ""] if dataset else []
    text = "\n".join([*head, *table, "", f"{_verdict(best, ready)} {note}", ""])
    with staged_directory(run.comparison) as folder:
        (folder / "comparison.md").write_text(f"# {run.name}\n\n{text}\n![{_ranking(ready)} and speed](comparison.png)\n")
        data = {"run": run.name, "dataset": dataset, "best": best and best.config, "note": note, "rows": [asdict(row) for row in rows]}
        (folder / "comparison.json").write_text(json.dumps(data, indent=2) + "\n")
        (folder / "comparison.png").write_bytes(draw_models(_bars(ready), _ranking(ready), note))
    close_pipeline_run(
        run,
        complete=len(ready) == len(rows),
        artifacts=run.comparison,
        tags={"best.config": best.config if best else ""},
        description=text,
    )
    _print(rows, best, f"{_verdict(best, ready)} {note}")
    identity = pipeline_run_identity(run)
    if identity is not None:
        print(f"MLflow, these models side by side: {comparison_url(identity)}")
    return StepResult(
        "compare",
        "done",
        {
            "markdown": str(run.comparison / "comparison.md"),
            "plot": str(run.comparison / "comparison.png"),
            "table": str(run.comparison / "comparison.json"),
        },
        {
            "best": best and best.config,
            "mask_ap": best and best.mask_ap,
            "not_told_apart": [row.config for row in ready if row.standing == _LEVEL],
            "not_evaluated": [row.config for row in rows if row.state != _READY],
            "mlflow_run_id": identity and identity.run_id,
            "mlflow_url": identity and comparison_url(identity),
        },
    )


def _model_folders(run: RunDir) -> list[Path]:
    if not run.root.is_dir():
        raise UserError(f"{run.root} is not a folder", "name the folder of a pipeline run, as `open-run` made it")
    candidates = (path for path in run.root.iterdir() if path.is_dir() and path != run.comparison)
    return sorted(path for path in candidates if not path.name.startswith("."))


def _row(model: ModelDir, dataset: Mapping[str, str] | None) -> Row:
    trained_file, evaluated_file = model.train / "result.json", model.evaluation / "metrics.json"
    if not trained_file.exists():
        reached = "converted" if model.conversion_report.exists() else "not converted"
        return Row(model.name, "training did not finish" if model.train.exists() else f"{reached}, not trained")
    trained = read_json(trained_file)
    row = Row(
        model.name,
        "trained, not evaluated",
        parameters=int(_number(trained, "parameters", trained_file)),
        train_images_per_second=_number(trained, "images_per_second", trained_file),
    )
    if dataset is not None and _field(trained, "dataset_digest", trained_file) != dataset["digest"]:
        return Row(**asdict(row) | {"state": "trained on another state of the dataset"})
    if not evaluated_file.exists():
        return row
    evaluated = read_json(evaluated_file)
    of, latest = (Path(_field(r, "checkpoint", f)).name for r, f in ((evaluated, evaluated_file), (trained, trained_file)))
    metrics = _field(evaluated, "metrics", evaluated_file)
    figures = {
        "state": _READY if of == latest else f"evaluated at {of}, trained to {latest}",
        "mask_ap": _precision(metrics, MASK_AP),
        "mask_ap50": _precision(metrics, MASK_AP50),
        "box_ap": _precision(metrics, BOX_AP),
        "seconds_per_image": _number(evaluated, "seconds_per_image", evaluated_file),
        "images": evaluated.get("images"),
        "objects": evaluated.get("objects"),
    }
    return Row(**asdict(row) | figures)


def _field(record: Mapping[str, Any], name: str, file: Path) -> Any:
    if name not in record:
        raise UserError(f"{file} lacks the field `{name}`", "remove the file and run its step again")
    return record[name]


def _number(record: Mapping[str, Any], name: str, file: Path) -> float:
    value = _field(record, name, file)
    if not isinstance(value, (int, float)):
        raise UserError(f"{file}: `{name}` is {value!r}, not a number", "remove the file and run its step again")
    return float(value)


def _precision(metrics: Mapping[str, float], name: str) -> float | None:
    """None where there was nothing to measure: no such metric, COCO's -1, or no number."""
    value = float(metrics.get(name, -1.0))
    return value if value >= 0 else None


def _ranking(ready: Sequence[Row]) -> str:
    """The figure that ranks the models."""
    return "mask AP" if any(row.mask_ap is not None for row in ready) else "box AP"


def _figure(row: Row, ranking: str) -> float | None:
    return row.mask_ap if ranking == "mask AP" else row.box_ap


def _ranked(run: RunDir, rows: Sequence[Row]) -> list[Row]:
    """The rows with their standing: the best one, where there is one, and which others the images can tell from it."""
    ready = [row for row in rows if row.state == _READY]
    ranking = _ranking(ready)
    if not _figure(ready[0], ranking):
        return list(rows)
    measured = [row for row in ready if _figure(row, ranking) is not None]
    kind = MASK if ranking == "mask AP" else BOX
    evaluations = {row.config: matches for row in measured if (matches := _matches(run.model(row.config), kind))}
    images = {config: _images(matches) for config, matches in evaluations.items()}
    best = measured[0].config
    known, resampled = images.get(best, []), {}
    if known:
        weights = drawn_again(len(known), _RESAMPLES)
        for config in [config for config, seen in images.items() if seen == known]:
            resampled[config] = resampled_precision(evaluations[config], weights, kind)
    ranked = []
    for row in rows:
        changes: dict[str, Any] = {"standing": _UNTESTED} if row in measured else {}
        if row.config in resampled:
            own, ahead = resampled[row.config], resampled[best]
            drawn = ~np.isnan(own)
            changes["interval"] = tuple(float(value) for value in np.quantile(own[drawn], (0.025, 0.975)))
            changes["behind"] = float(np.mean((ahead > own)[drawn]) + np.mean((ahead == own)[drawn]) / 2)
            clear = len(known) >= _FEWEST_IMAGES and changes["behind"] >= 1 - _ERROR_RATE / 2 / max(1, len(measured) - 1)
            changes["standing"] = _WORSE if clear else _LEVEL
        if row.config == best:
            changes |= {"standing": _BEST, "behind": None}
        ranked.append(replace(row, **changes))
    return ranked


def _matches(model: ModelDir, kind: str) -> Matches | None:
    """Of the model's evaluation; None where it has left none, or none of this kind."""
    file = model.evaluation / MATCHES
    matches = read_matches(file) if file.exists() else None
    return matches if matches is not None and kind in matches.kinds else None


def _images(matches: Matches) -> list[tuple[str, str]]:
    """Number and file name of each image, in the numbers' order."""
    return list(zip(matches.images.ids.tolist(), matches.images.file_names.tolist(), strict=True))


def _bars(ready: Sequence[Row]) -> list[ModelBar]:
    ranking, standings = _ranking(ready), {_BEST: "best", _LEVEL: "level"}
    return [
        ModelBar(
            short_name(row.config),
            _figure(row, ranking),
            row.interval,
            row.seconds_per_image,
            row.parameters,
            standings.get(row.standing or "", "other"),
        )
        for row in ready
    ]


def short_name(config: str) -> str:
    """What tells the zoo's configs apart: their backbone."""
    return config.removeprefix("mask_rcnn_").removesuffix("_coco")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    if name == "train_images_per_second":
        return f"{value:.3g}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _markdown_table(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(title for _, title in _COLUMNS) + " |"]
    lines += ["|" + "|".join("---" if name in _TEXTS else "---:" for name, _ in _COLUMNS) + "|"]
    for row in rows:
        cells = [_cell(name, getattr(row, name)) for name, _ in _COLUMNS]
        lines.append("| " + " | ".join(f"**{cell}**" if row.standing == _BEST else cell for cell in cells) + " |")
    return lines


def _verdict(best: Row | None, ready: Sequence[Row]) -> str:
    ranking = _ranking(ready)
    if best is None:
        nothing = all(_figure(row, ranking) is None for row in ready)
        return "No best: there was nothing to measure." if nothing else f"No best: every model's {ranking} is zero."
    verdict = f"Best: {best.config}, {ranking} {_cell('mask_ap', _figure(best, ranking))}"
    level = [short_name(row.config) for row in ready if row.standing == _LEVEL]
    return f"{verdict}; the images do not tell it from {', '.join(level)}." if level else f"{verdict}."


def _note(ready: Sequence[Row], best: Row | None) -> str:
    """What the figures stand on, and how models were told apart."""
    images, objects = ({getattr(row, name) for row in ready} for name in ("images", "objects"))
    counts = [
        f"{count} {thing}{'' if count == 1 else 's'}"
        for numbers, thing in ((images, "image"), (objects, "object"))
        if (count := _one(numbers)) is not None
    ]
    note = f"Measured on {' with '.join(counts)}." if counts else ""
    if best is None or best.interval is None or len(ready) < 2:
        return note
    if (best.images or 0) < _FEWEST_IMAGES:
        return f"{note} Fewer than {_FEWEST_IMAGES} images tell no models apart."
    return f"{note} Told apart: the best is ahead in nearly all draws of as many images with repetition (5 % error over all models)."


def _one(numbers: set[int | None]) -> int | None:
    return next(iter(numbers)) if len(numbers) == 1 else None


def _print(rows: Sequence[Row], best: Row | None, verdict: str) -> None:
    # A log has no width of its own; 80 columns would break the names.
    console = Console(width=None if Console().is_terminal else 160)
    table = Table()
    for name, title in _COLUMNS:
        table.add_column(title, justify="left" if name in _TEXTS else "right", no_wrap=name == "config")
    for row in rows:
        style = "bold" if row is best else ("" if row.state == _READY else "dim")
        table.add_row(*(_cell(name, getattr(row, name)) for name, _ in _COLUMNS), style=style)
    console.print(table)
    console.print(verdict, highlight=False, soft_wrap=True)
