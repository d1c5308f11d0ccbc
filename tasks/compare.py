"""The step that sets the models of a pipeline run side by side.

    maskline compare RUN_DIR

Reads each model's `train/result.json` and `evaluation/metrics.json`; writes `compare/comparison.md`, `.json` and `.png`
and closes the parent MLflow run with them. A model that did not get that far is listed, saying how far it got.
Usual runtime: 5 seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.coco.plots import draw_accuracy_against_speed
from tasks.errors import UserError
from tasks.tracking import close_pipeline_run, comparison_url, pipeline_run_identity
from tasks.workspace import ModelDir, RunDir, StepResult, read_json, staged_directory

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
    ("state", "state"),
)
_READY = "evaluated"


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

    best = ready[0]
    markdown = _markdown(run, dataset, rows, best)
    with staged_directory(run.comparison) as folder:
        (folder / "comparison.md").write_text(markdown)
        table = {"run": run.name, "dataset": dataset, "best": best.config, "rows": [asdict(row) for row in rows]}
        (folder / "comparison.json").write_text(json.dumps(table, indent=2) + "\n")
        (folder / "comparison.png").write_bytes(draw_accuracy_against_speed(_points(ready)))
    _print(rows, best)
    close_pipeline_run(
        run,
        complete=len(ready) == len(rows),
        artifacts=run.comparison,
        tags={"best.config": best.config},
        description=markdown,
    )
    identity = pipeline_run_identity(run)
    return StepResult(
        "compare",
        "done",
        {
            "markdown": str(run.comparison / "comparison.md"),
            "plot": str(run.comparison / "comparison.png"),
            "table": str(run.comparison / "comparison.json"),
        },
        {
            "best": best.config,
            "mask_ap": best.mask_ap,
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
    """None where there was nothing to measure: no such metric, or COCO's -1."""
    value = metrics.get(name, -1.0)
    return None if value < 0 else float(value)


def _points(rows: Sequence[Row]) -> list[tuple[str, float, float, int]]:
    """(label, images per second, AP, parameters) of the models that have them."""
    return [
        (short_name(row.config), 1 / row.seconds_per_image, row.mask_ap, row.parameters)
        for row in rows
        if row.mask_ap is not None and row.seconds_per_image and row.parameters is not None
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


def _markdown(run: RunDir, dataset: Mapping[str, str] | None, rows: Sequence[Row], best: Row) -> str:
    lines = [f"# {run.name}", ""]
    if dataset:
        lines += [f"Dataset {dataset['name']}, digest `{dataset['digest'][:12]}`.", ""]
    lines += ["| " + " | ".join(title for _, title in _COLUMNS) + " |"]
    lines += ["|" + "|".join("---" if name in ("config", "state") else "---:" for name, _ in _COLUMNS) + "|"]
    for row in rows:
        cells = [_cell(name, getattr(row, name)) for name, _ in _COLUMNS]
        lines.append("| " + " | ".join(f"**{cell}**" if row is best else cell for cell in cells) + " |")
    lines += ["", f"Best: {_verdict(best)}.", "", "![mask AP against speed](comparison.png)", ""]
    return "\n".join(lines)


def _verdict(best: Row) -> str:
    if best.mask_ap is None:
        return f"{best.config}, box AP {_cell('box_ap', best.box_ap)}"
    return f"{best.config}, mask AP {_cell('mask_ap', best.mask_ap)}"


def _print(rows: Sequence[Row], best: Row) -> None:
    # A log has no width of its own; 80 columns would break the names.
    console = Console(width=None if Console().is_terminal else 140)
    table = Table(title=f"best: {_verdict(best)}", title_justify="left")
    for name, title in _COLUMNS:
        table.add_column(title, justify="left" if name in ("config", "state") else "right", no_wrap=name == "config")
    for row in rows:
        style = "bold" if row is best else ("" if row.state == _READY else "dim")
        table.add_row(*(_cell(name, getattr(row, name)) for name, _ in _COLUMNS), style=style)
    console.print(table)
