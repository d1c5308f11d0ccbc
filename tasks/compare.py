"""The step that sets the models of a pipeline run side by side.

    maskline compare RUN_DIR

Reads each model's `train/result.json` and what its `evaluation/` holds; writes `compare/comparison.md`, `.json` and `.png`
and closes the pipeline's MLflow run with them. A model that did not get that far is listed, saying how far it got.

    maskline compare RUN_OR_MODEL_DIR RUN_OR_MODEL_DIR ... [--output FOLDER]

sets any evaluated models side by side; the files go to the folder, where one is named.

Which differences are real is asked of a paired bootstrap over the images, from the evaluations' stored matches
(`tasks/evaluation/verdicts.py`). Usual runtime: 10 seconds; with 5,000 images ten more for each model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.coco.matches import BOX, MASK, Matches, read_matches
from tasks.coco.plots import ModelBar, draw_models
from tasks.evaluation.results import MATCHES
from tasks.evaluation.verdicts import Contender, Verdicts, incomparable, verdicts
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
    ("standing", "beside the highest"),
    ("state", "state"),
)
_TEXTS = ("config", "standing", "state")
_READY = "evaluated"

_HIGHEST, _LEVEL, _WORSE, _UNTESTED = "highest", "no difference shown", "worse", "not tested"
_MOST_LINES = 15
"""Of verdicts; the JSON file has all."""


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
    standing: str | None = None
    left_out: str | None = None
    """Why there is no verdict on an evaluated model."""

    @property
    def rank(self) -> tuple[float, ...]:
        """Greater is better: mask AP, then box AP, so that box-only models have an order too."""
        return tuple(-math.inf if value is None else value for value in (self.mask_ap, self.box_ap))


def compare(run: RunDir) -> StepResult:
    """Writes the comparison and closes the parent run: FINISHED, or FAILED when a model was not evaluated.

    Raises:
      UserError: the folder holds no model, no model was evaluated, or a result file is not what its step writes.
    """
    if _is_model(ModelDir(run.root)):
        raise UserError(f"{run.root} is one model", "name the pipeline run that it is of, or another model beside it")
    models = {folder.name: ModelDir(folder) for folder in _model_folders(run)}
    if not models:
        close_pipeline_run(run, complete=False, description="Nothing to compare.")
        raise UserError(f"{run.root} holds no model to compare", "convert, train and evaluate a config into it first")
    dataset = read_json(run.identity)["dataset"] if run.identity.exists() else None
    rows = _rows(models, dataset)
    if not any(row.state == _READY for row in rows):
        states = "; ".join(f"{row.config}: {row.state}" for row in rows)
        close_pipeline_run(run, complete=False, description=f"Nothing to compare. {states}")
        raise UserError(f"{run.root}: no model was evaluated ({states})", "see why in their logs, then run them again")
    compared = _compared(rows, models)
    text = compared.markdown(dataset)
    with staged_directory(run.comparison) as folder:
        _write(folder, run.name, compared, dataset)
    close_pipeline_run(
        run,
        complete=len(compared.ready) == len(rows),
        artifacts=run.comparison,
        tags={"best.config": compared.highest.config if compared.highest else ""},
        description=text,
    )
    _print(compared)
    identity = pipeline_run_identity(run)
    if identity is not None:
        print(f"MLflow, these models side by side: {comparison_url(identity)}")
    return StepResult(
        "compare",
        "done",
        _outputs(run.comparison),
        compared.summary() | {"mlflow_run_id": identity and identity.run_id, "mlflow_url": identity and comparison_url(identity)},
    )


def compare_models(folders: Sequence[Path], output: Path | None = None) -> StepResult:
    """Sets the models in any folders, of models or of pipeline runs, side by side; writes the comparison to `output` where it is given.

    UserError where a folder holds no model, or fewer than two were evaluated.
    """
    models = _named([model for folder in folders for model in _models_in(folder)])
    rows = _rows(models, None)
    if sum(row.state == _READY for row in rows) < 2:
        states = "; ".join(f"{row.config}: {row.state}" for row in rows)
        raise UserError(f"fewer than two models were evaluated ({states})", "evaluate them first")
    compared = _compared(rows, models)
    if output is not None:
        with staged_directory(output) as folder:
            _write(folder, output.name, compared, None)
    _print(compared)
    return StepResult("compare", "done", _outputs(output) if output else {}, compared.summary())


def _models_in(folder: Path) -> list[ModelDir]:
    """The model that a folder is, or those of the pipeline run that it is."""
    if _is_model(ModelDir(folder)):
        return [ModelDir(folder)]
    models = [ModelDir(one) for one in _model_folders(RunDir(folder))]
    if not models:
        raise UserError(f"{folder} holds no model to compare", "name folders of models, or of pipeline runs")
    return models


def _is_model(model: ModelDir) -> bool:
    return any(path.exists() for path in (model.train, model.evaluation, model.experiment))


def _named(models: Sequence[ModelDir]) -> dict[str, ModelDir]:
    """Models by their names, with as many folders before them as tell them apart."""
    unique = list(dict.fromkeys(ModelDir(model.root.resolve()) for model in models))
    for count in range(1, max(len(model.root.parts) for model in unique) + 1):
        names = ["/".join(model.root.parts[-count:]) for model in unique]
        if len(set(names)) == len(names):
            return dict(zip(names, unique, strict=True))
    raise AssertionError("different folders have different paths")


def _rows(models: Mapping[str, ModelDir], dataset: Mapping[str, str] | None) -> list[Row]:
    """Best figure first."""
    rows = sorted((replace(_row(model, dataset), config=name) for name, model in models.items()), key=lambda row: row.config)
    return sorted(rows, key=lambda row: row.rank, reverse=True)


def _model_folders(run: RunDir) -> list[Path]:
    if not run.root.is_dir():
        raise UserError(f"{run.root} is not a folder", "name the folder of a pipeline run, as `open-run` made it")
    candidates = (path for path in run.root.iterdir() if path.is_dir() and path != run.comparison)
    return sorted(path for path in candidates if not path.name.startswith("."))


def _row(model: ModelDir, dataset: Mapping[str, str] | None) -> Row:
    trained_file, evaluated_file = model.train / "result.json", model.evaluation / "metrics.json"
    if evaluated_file.exists() and not model.train.exists():
        # Detections of another program, which were evaluated here.
        return replace(Row(model.name, _READY), **_figures(read_json(evaluated_file), evaluated_file))
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
        return replace(row, state="trained on another state of the dataset")
    if not evaluated_file.exists():
        return row
    evaluated = read_json(evaluated_file)
    of, latest = (Path(_field(r, "checkpoint", f)).name for r, f in ((evaluated, evaluated_file), (trained, trained_file)))
    state = _READY if of == latest else f"evaluated at {of}, trained to {latest}"
    return replace(row, state=state, **_figures(evaluated, evaluated_file))


def _figures(evaluated: Mapping[str, Any], file: Path) -> dict[str, Any]:
    metrics = _field(evaluated, "metrics", file)
    return {
        "mask_ap": _precision(metrics, MASK_AP),
        "mask_ap50": _precision(metrics, MASK_AP50),
        "box_ap": _precision(metrics, BOX_AP),
        "seconds_per_image": _number(evaluated, "seconds_per_image", file) if "seconds_per_image" in evaluated else None,
        "images": evaluated.get("images"),
        "objects": evaluated.get("objects"),
    }


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


@dataclass(frozen=True)
class _Comparison:
    """All models, best figure first, and the verdicts on those that can be compared, None where these are not two."""

    rows: tuple[Row, ...]
    verdicts: Verdicts | None

    @property
    def ready(self) -> list[Row]:
        return [row for row in self.rows if row.state == _READY]

    @property
    def highest(self) -> Row | None:
        return next((row for row in self.rows if row.standing == _HIGHEST), None)

    @property
    def lines(self) -> list[str]:
        """What is known, in sentences: verdicts, those on the model with the highest figure first, and what was left out."""
        found = [pair.sentence(short_name) for pair in self.verdicts.pairs] if self.verdicts else []
        if len(found) > _MOST_LINES:
            found = [*found[:_MOST_LINES], f"{len(found) - _MOST_LINES} more verdicts are in comparison.json"]
        return found + [f"left out: {row.config}, {row.left_out}" for row in self.ready if row.left_out]

    @property
    def heading(self) -> str:
        ranking = _ranking(self.ready)
        if self.highest is None:
            nothing = all(_figure(row, ranking) is None for row in self.ready)
            return "Nothing to rank: there was nothing to measure." if nothing else f"Nothing to rank: every model's {ranking} is zero."
        return f"Highest {ranking}: {self.highest.config}, {_cell('mask_ap', _figure(self.highest, ranking))}."

    @property
    def measured_on(self) -> str:
        images, objects = ({getattr(row, name) for row in self.ready} for name in ("images", "objects"))
        counts = [
            f"{count} {thing}{'' if count == 1 else 's'}"
            for numbers, thing in ((images, "image"), (objects, "object"))
            if (count := _one(numbers)) is not None
        ]
        return f"Measured on {' with '.join(counts)}." if counts else ""

    @property
    def note(self) -> str:
        """What the figures stand on, and how models were told apart."""
        if self.verdicts is None:
            return self.measured_on
        together = " for all pairs together" if len(self.verdicts.pairs) > 1 else ""
        once = all(one.trainings == 1 for one in self.verdicts.standings)
        seeds = " Each model was trained once: what another seed would change is not in it." if once else ""
        return f"{self.measured_on} Intervals hold 95 % of the time{together}, by {self.verdicts.resamples} resamples of the images.{seeds}"

    def markdown(self, dataset: Mapping[str, str] | None) -> str:
        head = [f"Dataset {dataset['name']}, digest `{dataset['digest'][:12]}`.", ""] if dataset else []
        told = [f"- {line}" for line in self.lines]
        return "\n".join([*head, self.heading, "", *told, *([""] if told else []), *_markdown_table(self.rows), "", self.note, ""])

    def summary(self) -> dict[str, Any]:
        return {
            "best": self.highest and self.highest.config,
            "mask_ap": self.highest and self.highest.mask_ap,
            "verdicts": self.lines,
            "not_told_apart": [row.config for row in self.ready if row.standing == _LEVEL],
            "not_evaluated": [row.config for row in self.rows if row.state != _READY],
        }


def _compared(rows: Sequence[Row], models: Mapping[str, ModelDir]) -> _Comparison:
    ready = [row for row in rows if row.state == _READY]
    ranking = _ranking(ready)
    if not _figure(ready[0], ranking):
        return _Comparison(tuple(rows), None)
    kind = MASK if ranking == "mask AP" else BOX
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for row in ready:
        found = _matches(models[row.config], kind)
        if isinstance(found, Matches) and contenders and (reason := incomparable(contenders[0].runs[0], found)) is not None:
            found = f"{reason} ({contenders[0].name} has the first)"
        if isinstance(found, Matches):
            contenders.append(Contender(row.config, (found,)))
        else:
            left_out[row.config] = found
    verdict = verdicts(contenders, kind) if len(contenders) > 1 else None
    standings = {one.name: one for one in verdict.standings} if verdict else {}
    ranked = []
    for row in rows:
        changes: dict[str, Any] = {"left_out": left_out.get(row.config)}
        if row.state == _READY and _figure(row, ranking) is not None:
            changes["standing"] = _UNTESTED
        if row.config in standings and verdict is not None:
            changes["interval"] = standings[row.config].interval
            if ready[0].config in standings and row is not ready[0]:
                changes["standing"] = _WORSE if verdict.between(ready[0].config, row.config).shown else _LEVEL
        if row is ready[0]:
            changes["standing"] = _HIGHEST
        ranked.append(replace(row, **changes))
    return _Comparison(tuple(ranked), verdict)


def _matches(model: ModelDir, kind: str) -> Matches | str:
    """Of the model's evaluation; or why there are none of this kind."""
    try:
        matches = read_matches(model.evaluation / MATCHES)
    except UserError as error:
        return error.message
    if kind not in matches.kinds:
        return "it has no masks"
    return matches if matches.objects.counted().any() else "there was no object to find"


def _write(folder: Path, name: str, compared: _Comparison, dataset: Mapping[str, str] | None) -> None:
    ranking = _ranking(compared.ready)
    (folder / "comparison.md").write_text(f"# {name}\n\n{compared.markdown(dataset)}\n![{ranking} and speed](comparison.png)\n")
    data = {
        "run": name,
        "dataset": dataset,
        "best": compared.highest and compared.highest.config,
        "note": compared.note,
        "verdicts": asdict(compared.verdicts) if compared.verdicts else None,
        "rows": [asdict(row) for row in compared.rows],
    }
    (folder / "comparison.json").write_text(json.dumps(data, indent=2) + "\n")
    (folder / "comparison.png").write_bytes(draw_models(_bars(compared.ready), ranking, compared.measured_on))


def _outputs(folder: Path) -> dict[str, str]:
    return {kind: str(folder / f"comparison.{suffix}") for kind, suffix in (("markdown", "md"), ("plot", "png"), ("table", "json"))}


def _bars(ready: Sequence[Row]) -> list[ModelBar]:
    ranking, standings = _ranking(ready), {_HIGHEST: "best", _LEVEL: "level"}
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
        lines.append("| " + " | ".join(f"**{cell}**" if row.standing == _HIGHEST else cell for cell in cells) + " |")
    return lines


def _one(numbers: set[int | None]) -> int | None:
    return next(iter(numbers)) if len(numbers) == 1 else None


def _print(compared: _Comparison) -> None:
    # A log has no width of its own; 80 columns would break the names.
    console = Console(width=None if Console().is_terminal else 160)
    table = Table()
    for name, title in _COLUMNS:
        table.add_column(title, justify="left" if name in _TEXTS else "right", no_wrap=name == "config")
    for row in compared.rows:
        style = "bold" if row is compared.highest else ("" if row.state == _READY else "dim")
        table.add_row(*(_cell(name, getattr(row, name)) for name, _ in _COLUMNS), style=style)
    console.print(table)
    for line in (compared.heading, *(f"- {line}" for line in compared.lines), compared.note):
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
