"""The step that runs a training again, and tells how far it agrees with what it was.

    maskline reproduce RUN_DIR | MODEL_DIR [--output FOLDER] [--steps N] [--tolerance X] [--metric-tolerance X] [--dry-run]

Reads what `train` kept of each model: `provenance.json`, `experiment.yaml` as trained, `metrics.jsonl`, and `evaluation/metrics.json` where
it was evaluated. Tells line by line what is another one now than then, trains and evaluates again in another run folder, and writes
`reproduction.json` there. Killed, it goes on where it was. Usual runtime: that of the training.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from official.core import config_definitions as cfg

from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_json, read_settings, write_json, write_text
from tasks.training.agreement import LossAgreement, loss_agreement, metric_differences
from tasks.training.experiment import experiment_from
from tasks.training.precision import precision_of
from tasks.training.provenance import DATA, PROVENANCE, START, Conditions, conditions, differences, flags, kept_conditions
from tasks.training.records import records_read
from tasks.training.step_file import StepFile


@dataclasses.dataclass(frozen=True)
class Tolerance:
    losses: float = 1e-4
    """Of every loss of every step, over the step's total loss"""
    metrics: float = 0.002
    """Of final metrics: by so much seeds of one model were seen to differ"""

    def __post_init__(self) -> None:
        for option, value in (("tolerance", self.losses), ("metric-tolerance", self.metrics)):
            if not value >= 0:
                raise UserError(f"--{option} is {value}", "give 0 or more")


def reproduce(
    folder: Path, output: Path | None = None, steps: int | None = None, tolerance: Tolerance | None = None, *, dry_run: bool = False
) -> StepResult:
    """The summary's `agrees`: whether every model does that is there, or the one that is named; with `dry_run`, whether nothing differs.

    With `steps` only so many are taken again, and no final metrics compared. UserError where other data, or another checkpoint to start
    from, would make it another training.
    """
    if steps is not None and steps <= 0:
        raise UserError(f"--steps is {steps}", "give a number above zero")
    models = _models(folder)
    run = models[0].root.parent
    again = (output or run.with_name(f"{run.name}-reproduced")).absolute()
    if again == run:
        raise UserError(f"--output is {output}, where the training lies", "name another folder")
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        then, differing = _compared_conditions(model)
        found[model.name] = {"differs": differing, "agrees": not differing}
        if not dry_run:
            copy = ModelDir(again / model.name)
            experiment = _run_again(model, copy, then, steps)
            found[model.name] |= _compared_results(model, copy, experiment, tolerance or Tolerance())
            write_json(again / "reproduction.json", found)
    agree = {name: bool(one["agrees"]) for name, one in found.items()}
    outputs = {"run": str(run)} if dry_run else {"run": str(run), "reproduction": str(again / "reproduction.json")}
    return StepResult("reproduce", "done", outputs, {"agrees": all(agree.values()), "models": agree})


def _models(folder: Path) -> list[ModelDir]:
    """The trained model of a folder, or those of a run's."""
    root = folder.absolute()
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    models = [ModelDir(path) for path in candidates if (ModelDir(path).train / PROVENANCE).is_file()]
    if not models:
        raise UserError(f"{folder} holds no trained model with a {PROVENANCE}", "name a model's folder, or a run's, that `train` wrote to")
    return models[:1] if models[0].root == root else models


def _trained_experiment(model: ModelDir) -> dict[str, Any]:
    """The experiment as it was trained, without what `train` adds to it."""
    values = read_settings(model.train / "experiment.yaml")
    return {name: value for name, value in values.items() if name != "dataset_digest"}


def _compared_conditions(model: ModelDir) -> tuple[Conditions, list[str]]:
    """Those of the training's beginning, and what is another one now, which is told."""
    sessions = kept_conditions(model.train)
    _, then = sessions[0]
    experiment = experiment_from(_trained_experiment(model), model.train / "experiment.yaml")
    now = conditions(experiment, records_read(experiment.task))
    differing = differences(then, now)
    print(f"{model.name}: {'what differs now from then' if differing else 'nothing that is known of differs now from then'}", flush=True)
    for line in differing:
        print(f"  {line}", flush=True)
    for (_, before), (step, after) in itertools.pairwise(sessions):
        for line in differences(before, after, ("before", "after")):
            print(f"  it was resumed at step {step} under other conditions: {line}", flush=True)
    for group, fix in ((DATA, "bring the records back that it was trained on"), (START, "bring the checkpoint back that it started from")):
        if then.get(group) != now[group]:
            told = "; ".join(line for line in differing if line.startswith(f"{group}: "))
            raise UserError(f"{model.root} cannot be trained again: {told}", fix)
    return then, differing


def _run_again(model: ModelDir, copy: ModelDir, then: Conditions, steps: int | None) -> cfg.ExperimentConfig:
    """Trains the copy as the model was, and evaluates it where that was; answers with the experiment."""
    values = _trained_experiment(model)
    experiment = experiment_from(values, model.train / "experiment.yaml")
    if copy.root.exists() and (not copy.experiment.exists() or read_settings(copy.experiment) != values):
        raise UserError(f"{copy.root} is there and is no reproduction of {model.root}", "name another folder with --output, or remove it")
    write_text(copy.experiment, yaml.safe_dump(values, sort_keys=True))
    for file in (model.pipeline_config, model.conversion_report, model.zoo_difference):
        if file.exists():
            shutil.copyfile(file, copy.root / file.name)
    runtime = experiment.runtime
    options = ["--precision", precision_of(experiment), "--xla", "on" if runtime.enable_xla or experiment.task.model.jit_compile else "off"]
    options += ["--deterministic"] if experiment.trainer.deterministic else []
    options += ["--steps", str(steps)] if steps else []
    _maskline("train", copy, options, then)
    if (model.evaluation / "metrics.json").exists() and not steps:
        _maskline("evaluate", copy, [], then)
    return experiment


def _maskline(step: str, model: ModelDir, options: list[str], then: Conditions) -> None:
    """Runs a step in a process of its own, with the flags of the environment as they were."""
    environment = dict(os.environ)
    for name, value in flags(then).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    process = subprocess.Popen([sys.executable, "-m", "tasks", step, str(model.root), *options], env=environment)
    # Whoever stops this stops the training, which saves what it has.
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code:
        raise UserError(f"{model.root}: `maskline {step}` ended with code {code}", "see what it said; the same command goes on from there")


def _compared_results(model: ModelDir, copy: ModelDir, experiment: cfg.ExperimentConfig, tolerance: Tolerance) -> dict[str, Any]:
    """How far losses and final metrics agree, which is told."""
    losses = loss_agreement(StepFile(model.train / "metrics.jsonl").rows(), StepFile(copy.train / "metrics.jsonl").rows())
    print(_told(losses, tolerance.losses, deterministic=experiment.trainer.deterministic))
    agrees = losses.within(tolerance.losses)
    found: dict[str, Any] = {
        "tolerance": dataclasses.asdict(tolerance),
        "losses": {
            "steps": losses.steps,
            "largest": losses.largest,
            "at_step": losses.at_step,
            "agrees_until": {f"{level:g}": step for level, step in losses.agrees_until.items()},
        },
    }
    first, second = (one.evaluation / "metrics.json" for one in (model, copy))
    if first.exists() and second.exists():
        then, now = (read_json(file)["metrics"] for file in (first, second))
        found["metrics"] = metric_differences(then, now)
        agrees &= _metrics_agree(then, now, found["metrics"], tolerance.metrics)
    print(f"{model.name} {'agrees' if agrees else 'does not agree'} with what it was", flush=True)
    return found | {"agrees": agrees}


def _told(losses: LossAgreement, tolerance: float, *, deterministic: bool) -> str:
    if not losses.steps:
        return "losses: there is no step that both trainings have"
    if losses.largest == 0:
        return f"losses of {losses.steps} steps: equal to the bit"
    # Of levels that reach equally far the finest.
    reached = {step: level for level, step in sorted(losses.agrees_until.items(), reverse=True) if step}
    parts = [f"{f'within {level:g}' if level else 'equal to the bit'} up to step {step}" for step, level in sorted(reached.items())]
    within = "within" if losses.within(tolerance) else "beyond"
    lines = [f"losses of {losses.steps} steps: {', '.join(parts) or 'they differ from the first one on'}"]
    lines.append(f"  the largest difference is {losses.largest:.1e} of the total loss, at step {losses.at_step}: {within} {tolerance:g}")
    if not losses.within(tolerance) and not deterministic:
        lines.append("  it was not trained with --deterministic: additions in another order grow from step to step")
    return "\n".join(lines)


def _metrics_agree(then: Mapping[str, float], now: Mapping[str, float], found: Mapping[str, float | None], tolerance: float) -> bool:
    beyond = {name: difference for name, difference in found.items() if difference is None or not abs(difference) <= tolerance}
    largest = max((abs(difference) for difference in found.values() if difference is not None), default=0.0)
    print(f"final metrics, {len(found)} of them: the largest difference is {largest:.1e}, {'beyond' if beyond else 'within'} {tolerance:g}")
    for name, difference in beyond.items():
        change = "only one has it" if difference is None else f"{then[name]:.4f} then, {now[name]:.4f} now"
        print(f"  {name}: {change}")
    return not beyond
