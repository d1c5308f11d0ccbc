"""The step that measures the champion again, on the newest records of its dataset, and tells whether it has fallen.

    maskline reassess DATASET_DIR [--name NAME --split test|val --allowed-fall 0.02]

Compares with what the champion was promoted on: its AP, and the distributions of the data. It has fallen where its AP is lower by more than
is allowed, and a bootstrap of both sets of images shows that it is lower at all. Each time is a line of
`WORKSPACE/promotions/NAME/reassessments.jsonl`, and a run of the MLflow experiment `NAME promotions`. On records that it was measured on
nothing is measured again. Usual runtime: an evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.annotations.split_names import TEST
from tasks.coco.bootstrap import drawn_again, resampled_precision
from tasks.coco.matches import BOX, Matches
from tasks.evaluation.verdicts import FEWEST_IMAGES, FIGURES, RESAMPLES
from tasks.promotion.baseline import read_baseline
from tasks.promotion.champion import champion_on
from tasks.promotion.ledger import append_to
from tasks.records.drift import Drift, compare_manifests
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.record_set import materialized
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, StepResult, promotion_dir
from tasks.tracking import store
from tasks.tracking.provenance import airflow_tags
from tasks.tracking.registry import CHAMPION, Registry, Version, registered_name

ALLOWED_FALL = 0.02
_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Change:
    """AP on the newest records minus AP on those of the promotion, from -1 to 1; `interval` holds it in 95 % of the resamples of both."""

    figure: str
    before: float
    now: float
    interval: tuple[float, float]
    images: tuple[int, int]

    @property
    def value(self) -> float:
        return self.now - self.before

    def fell(self, allowed: float) -> bool:
        return self.value < -allowed and self.interval[1] < 0 and min(self.images) >= FEWEST_IMAGES

    def sentence(self, allowed: float) -> str:
        told = f"{self.figure} {self.before:.4f} -> {self.now:.4f} ({self.value:+.4f}, {self.interval[0]:+.4f} to {self.interval[1]:+.4f})"
        if self.fell(allowed):
            return f"{told}: it has fallen by more than {allowed:g}"
        if self.value < -allowed:
            few = f", with fewer than {FEWEST_IMAGES} images" if min(self.images) < FEWEST_IMAGES else ""
            return f"{told}: lower, and not shown to be{few}"
        return f"{told}: it holds"


def reassess(dataset: DatasetDir, name: str = "", split: str = TEST, allowed_fall: float = ALLOWED_FALL) -> StepResult:
    """The summary's `fell` says whether the champion is worse on these records than on those that it was promoted on.

    `name` is of the registered model, by default the dataset's. `status` is `skipped` where there is no champion yet. UserError where
    MLflow has no model of a name that was given, or the dataset no such split.
    """
    if not 0 <= allowed_fall < 1:
        raise UserError(f"--allowed-fall is {allowed_fall:g}", "give an AP from 0 to below 1")
    records = materialized(dataset)
    registry = _registry(name, records.name)
    champion = registry.alias(CHAMPION) if registry is not None else None
    if registry is None or champion is None:
        sentence = "there is no champion yet: nothing was measured"
        print(sentence)
        return StepResult("reassess", "skipped", {}, {"name": name or registered_name(records.name), "fell": False, "sentence": sentence})
    now, baseline = champion_on(registry, champion, dataset, split), read_baseline(champion, split)
    change = _change(baseline.matches, now)
    drifts = _drifts(baseline.manifest, read_manifest(dataset.manifest))
    drifted = [f"{name}, {one.what}: {_shift(one)}" for name, found in drifts.items() for one in found if one.is_worth_telling]
    sentence = change.sentence(allowed_fall) if change else "nothing of its promotion was kept that could be compared with"
    fell = change is not None and change.fell(allowed_fall)
    _print(registry, champion, change, drifts)
    print(f"{champion} of {registry.name}: {sentence}", flush=True)
    entry = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "decision": "reassessed",
        "name": registry.name,
        "version": champion.number,
        "config": champion.tags.get("config"),
        "split": split,
        "dataset_digest": records.digest,
        "change": change and asdict(change),
        "drift": drifted,
        "fell": fell,
        "numbers": _numbers(change, drifts),
        **airflow_tags(),
    }
    history = promotion_dir(registry.name) / "reassessments.jsonl"
    append_to(history, entry)
    return StepResult(
        "reassess",
        "done",
        {"history": str(history)},
        {
            **{key: entry[key] for key in ("name", "version", "config", "split", "drift", "fell")},
            "ap": change and change.now,
            "ap_before": change and change.before,
            "sentence": sentence,
            "data_compared": bool(drifts),
            "mlflow_url": _shown(registry, entry, sentence),
        },
    )


def _registry(name: str, dataset: str) -> Registry | None:
    """The registered model; None where nobody gave its name and no model of the dataset was evaluated yet."""
    try:
        return Registry(name or registered_name(dataset))
    except UserError as error:
        if name or getattr(error.__cause__, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _change(before: Matches | None, now: Matches) -> Change | None:
    """None where the one or the other has no object to find."""
    if before is None or not (before.objects.counted().any() and now.objects.counted().any()):
        return None
    kind = now.kind if now.kind in before.kinds else BOX
    images = len(before.images), len(now.images)
    if before.about.get("dataset_digest") == now.about.get("dataset_digest"):
        value = float(resampled_precision(now, np.ones((1, images[1]), np.int64), kind)[0])
        return Change(FIGURES[kind], value, value, (0.0, 0.0), images)
    # Of its own images each, since these are two sets: with one seed both would be drawn alike.
    figures = [
        resampled_precision(
            one, np.concatenate([np.ones((1, len(one.images)), np.int64), drawn_again(len(one.images), RESAMPLES, seed)]), kind
        )
        for seed, one in enumerate((before, now))
    ]
    differences = figures[1][1:] - figures[0][1:]
    low, high = np.nanquantile(differences, _ENDS).tolist()
    return Change(FIGURES[kind], float(figures[0][0]), float(figures[1][0]), (low, high), images)


def _drifts(before: Manifest | None, now: Manifest) -> Mapping[str, tuple[Drift, ...]]:
    return compare_manifests(before, now) if before is not None else {}


def _shift(drift: Drift) -> str:
    groups = [f"{group} is gone" for group in drift.gone] + [f"{group} is new" for group in drift.new]
    far = drift.farthest
    return ", ".join([f"distance {drift.distance:.2f}", f"{far.group} {far.before:.1%} -> {far.after:.1%}", *groups])


def _numbers(change: Change | None, drifts: Mapping[str, tuple[Drift, ...]]) -> dict[str, float]:
    numbers = {f"drift/{split}/{one.what}": one.distance for split, found in drifts.items() for one in found}
    if change is not None:
        numbers |= {"ap": change.now, "ap_before": change.before, "ap_change": change.value}
    return numbers


def _print(registry: Registry, champion: Version, change: Change | None, drifts: Mapping[str, tuple[Drift, ...]]) -> None:
    table = Table("", "at its promotion", "now", title=f"{champion} of {registry.name}", title_justify="left")
    if change is not None:
        table.add_row("images", *map(str, change.images))
        table.add_row(change.figure, f"{change.before:.4f}", f"{change.now:.4f}")
    for split, found in drifts.items():
        for one in found:
            far = one.farthest
            mark = " (!)" if one.is_worth_telling else ""
            table.add_row(f"{split}, {one.what}: {far.group}{mark}", f"{far.before:.1%}", f"{far.after:.1%}")
    if table.row_count:
        Console().print(table)
    if not drifts:
        print("whether the data has drifted is not known: the manifest of the promotion was not kept")


def _shown(registry: Registry, entry: Mapping[str, Any], sentence: str) -> str | None:
    """The page in MLflow; None, and a warning, where it does not take it: the history has it."""
    try:
        return registry.record(entry, "\n".join([sentence, "", *(f"- {line}" for line in entry["drift"])]))
    except Exception as error:  # What was measured holds.
        store.warn(f"the reassessment of {registry.name}", error)
        return None
