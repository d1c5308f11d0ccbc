"""The step that sets the models of a pipeline run side by side.

    maskline compare RUN_DIR [--before EARLIER_RUN_DIR]

Reads each model's `train/` and what its `evaluation/` holds; writes `compare/comparison.html`, a page that needs nothing beside it, and
the same as `.md` and `.json`, with a picture, `.png`; and closes the pipeline's MLflow run with them. A model that did not get that far
is listed, saying how far it got. With an earlier run of other data it also says what these gained, by the new labels for both
(`tasks/data_queue/gain.py`).

    maskline compare RUN_OR_MODEL_DIR RUN_OR_MODEL_DIR ... [--output FOLDER]

sets any evaluated models side by side; the files go to the folder, where one is named.

Which differences are real is asked of a paired bootstrap over the images, from the evaluations' stored matches
(`tasks/evaluation/verdicts.py`). Usual runtime: 10 seconds; with 5,000 images ten more for each model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.annotations.split_names import VAL
from tasks.coco.plots import ModelBar, draw_models
from tasks.comparison.findings import findings
from tasks.comparison.judgement import Comparison, judged
from tasks.comparison.models import is_model, model_folders, models_in, named_models
from tasks.comparison.page import Heading, comparison_markdown, comparison_page
from tasks.comparison.rows import EVALUATED, Row, read_row
from tasks.comparison.table import HIGHEST, LEVEL, TEXTS, cell, columns, short_name
from tasks.data_queue.gain import gains
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, StepResult, read_json, staged_directory, write_json
from tasks.tracking import artifact_url, close_pipeline_run, comparison_url, pipeline_run_identity

PAGE = "comparison.html"


def compare(run: RunDir, before: RunDir | None = None) -> StepResult:
    """Writes the comparison and closes the parent run: FINISHED, or FAILED when a model was not evaluated.

    With `before`, an earlier run of other data, it tells what these gained.

    Raises:
      UserError: the folder holds no model, no model was evaluated, or a result file is not what its step writes.
    """
    if before and not any(map(is_model, models_in(before.root))):
        raise UserError(f"{before.root} holds no model", "name the folder of an earlier pipeline run with --before")
    if is_model(ModelDir(run.root)):
        raise UserError(f"{run.root} is one model", "name the pipeline run that it is of, or another model beside it")
    models = {folder.name: ModelDir(folder) for folder in model_folders(run)}
    if not models:
        close_pipeline_run(run, complete=False, description="Nothing to compare.")
        raise UserError(f"{run.root} holds no model to compare", "convert, train and evaluate a config into it first")
    dataset = read_json(run.identity)["dataset"] if run.identity.exists() else None
    rows = _rows(models, dataset)
    if not any(row.state == EVALUATED for row in rows):
        states = "; ".join(f"{row.config}: {row.state}" for row in rows)
        close_pipeline_run(run, complete=False, description=f"Nothing to compare. {states}")
        raise UserError(f"{run.root}: no model was evaluated ({states})", "see why in their logs, then run them again")
    compared = judged(rows, models)
    gained = _gained(run, before) if before else []
    text = "\n".join([compared.markdown(dataset), *(f"- {line}" for line in gained)])
    with staged_directory(run.comparison) as folder:
        _write(folder, Heading(run.name, dataset, gained), compared, models)
    close_pipeline_run(
        run,
        complete=len(compared.ready) == len(rows),
        artifacts=run.comparison,
        tags={"best.config": compared.highest.config if compared.highest else ""},
        description=text,
    )
    _print(compared)
    for line in gained:
        print(f"- {line}")
    print(f"comparison: {run.comparison / PAGE}")
    kept: dict[str, str | None] = {"mlflow_run_id": None, "mlflow_url": None, "page_url": None}
    if (identity := pipeline_run_identity(run)) is not None:
        page = artifact_url(identity, f"compare/{PAGE}")
        kept = {"mlflow_run_id": identity.run_id, "mlflow_url": comparison_url(identity), "page_url": page}
        print(f"the same in MLflow: {page}\nMLflow, these models side by side: {kept['mlflow_url']}")
    return StepResult("compare", "done", _outputs(run.comparison), compared.summary() | {"gained": gained} | kept)


def _gained(run: RunDir, before: RunDir) -> list[str]:
    """What the models of a run are better by than those of a run of other data, by the new labels; why not, where that cannot be told."""
    try:
        told, alone = gains(before.root, run.root, VAL)
    except UserError as error:
        return [f"beside the run {before.name} nothing can be told: {error.message}"]
    lines = [line for one in told if len(set(one["dataset_digests"])) > 1 for line in one["sentences"]]
    return lines + ([f"left out: {', '.join(alone)}, which one of the two runs alone has"] if lines and alone else [])


def compare_models(folders: Sequence[Path], output: Path | None = None) -> StepResult:
    """Sets the models in any folders, of models or of pipeline runs, side by side; writes the comparison to `output` where it is given.

    UserError where a folder holds no model, or fewer than two were evaluated.
    """
    models = named_models([model for folder in folders for model in models_in(folder)])
    rows = _rows(models, None)
    if sum(row.state == EVALUATED for row in rows) < 2:
        states = "; ".join(f"{row.config}: {row.state}" for row in rows)
        raise UserError(f"fewer than two models were evaluated ({states})", "evaluate them first")
    compared = judged(rows, models)
    if output is not None:
        with staged_directory(output) as folder:
            _write(folder, Heading(output.name, None), compared, models)
    _print(compared)
    if output is not None:
        print(f"comparison: {output / PAGE}")
    return StepResult("compare", "done", _outputs(output) if output else {}, compared.summary())


def _rows(models: Mapping[str, ModelDir], dataset: Mapping[str, str] | None) -> list[Row]:
    """Best figure first."""
    rows = sorted((replace(read_row(model, dataset), config=name) for name, model in models.items()), key=lambda row: row.config)
    return sorted(rows, key=lambda row: row.rank, reverse=True)


def _write(folder: Path, heading: Heading, compared: Comparison, models: Mapping[str, ModelDir]) -> None:
    found = findings(compared, models)
    plot = f"![{compared.ranking} and speed](comparison.png)"
    (folder / "comparison.md").write_text(f"{comparison_markdown(heading, compared, found)}\n{plot}\n", encoding="utf-8")
    data = {
        "run": heading.name,
        "dataset": heading.dataset,
        "best": compared.highest and compared.highest.config,
        "note": compared.note,
        "gained": list(heading.gained),
        "verdicts": asdict(compared.verdicts) if compared.verdicts else None,
        "rows": [asdict(row) for row in compared.rows],
        "seeds": {
            model.row.config: asdict(model.row) | {"trainings": [row.config for row in model.trainings]}
            for model in compared.models
            if model.trainings
        },
        "findings": found.to_json(next(iter(compared.matches.values())).images.ids if compared.matches else ()),
    }
    write_json(folder / "comparison.json", data)
    (folder / "comparison.png").write_bytes(draw_models(_bars(compared), compared.ranking, compared.measured_on))
    (folder / PAGE).write_text(comparison_page(heading, compared, found, models), encoding="utf-8")


def _outputs(folder: Path) -> dict[str, str]:
    kinds = {"page": "html", "markdown": "md", "plot": "png", "table": "json"}
    return {kind: str(folder / f"comparison.{suffix}") for kind, suffix in kinds.items()}


def _bars(compared: Comparison) -> list[ModelBar]:
    standings = {HIGHEST: "best", LEVEL: "level"}
    return [
        ModelBar(
            short_name(row.config),
            compared.figure(row),
            row.interval,
            row.seconds_per_image,
            row.parameters,
            standings.get(row.standing or "", "other"),
        )
        for row in (model.row for model in compared.models)
        if row.state == EVALUATED
    ]


def _print(compared: Comparison) -> None:
    # A log has no width of its own; 80 columns would break the names.
    console = Console(width=None if Console().is_terminal else 160)
    table = Table()
    shown = columns(compared.shown, is_short=True)
    for name, title in shown:
        table.add_column(title, justify="left" if name in TEXTS else "right", no_wrap=name == "config")
    for row in compared.shown:
        style = "bold" if row.standing == HIGHEST else ("" if row.state == EVALUATED and row.seed is None else "dim")
        table.add_row(*(cell(name, getattr(row, name)) for name, _ in shown), style=style)
    console.print(table)
    for line in (compared.heading, *(f"- {line}" for line in compared.lines), compared.note):
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
