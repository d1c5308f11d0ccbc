"""The operating thresholds that lie with a model's evaluations: which there are, by which rule, and what MLflow has of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.annotations.split_names import TEST, VAL
from tasks.evaluation.thresholds import BEST_F1, THRESHOLDS, Rule, Thresholds, is_of_model, read_thresholds
from tasks.running.workspace import ModelDir, read_json


def chosen_on_val(model: ModelDir, about: Mapping[str, Any]) -> Thresholds | None:
    """The thresholds that were chosen for the same model on the validation records; None where there are none."""
    file = model.evaluation / THRESHOLDS
    thresholds = read_thresholds(file) if file.exists() else None
    return thresholds if thresholds is not None and is_of_model(thresholds, about) else None


def rule_of(model: ModelDir, given: Rule | None) -> Rule:
    """The rule that is given, or that of the thresholds which are there."""
    file = model.evaluation / THRESHOLDS
    if given is not None or not file.exists():
        return given or BEST_F1
    return read_thresholds(file).rule


def has_thresholds(model: ModelDir, split: str, rule: Rule | None, about: Mapping[str, Any]) -> bool:
    """Whether nothing is to be chosen or applied again in an evaluation."""
    file = (model.test_evaluation if split == TEST else model.evaluation) / THRESHOLDS
    stored = read_thresholds(file) if file.exists() else None
    if split == TEST:
        return stored == chosen_on_val(model, about)
    return stored is not None and rule in (None, stored.rule)


def operating_metrics(evaluation: Path, split: str) -> dict[str, float]:
    """What MLflow has of the operating thresholds: each, and precision, recall and F1 at them and at the default, of all together."""
    told = read_json(evaluation / "analysis" / "operating.json")["parts"]["all"]
    found = {
        f"Operating/{name}{suffix}": told[key][name]
        for key, suffix in (("chosen", ""), ("default", f" at {told['default_threshold']:g}"))
        if key in told
        for name in ("precision", "recall", "f1")
    }
    if split == VAL:
        found |= {f"Operating/threshold/{one.name}": one.score for one in read_thresholds(evaluation / THRESHOLDS).categories}
    return {name: value for name, value in found.items() if value is not None}
