"""An evaluation as a person reads it in a terminal or a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.annotations.split_names import VAL
from tasks.coco.figures import SUMMARY_NAMES
from tasks.evaluation.thresholds import THRESHOLDS, Thresholds

_MOST_CATEGORIES = 12  # whose thresholds are printed


def print_figures(measured: Mapping[str, Any]) -> None:
    """The figures, masks beside boxes; where there are none, a warning on standard error."""
    metrics, crowds = measured["metrics"], measured["crowds"]
    held = f"{measured['images']} images with {measured['objects']} objects" + (f" and {crowds} crowds" if crowds else "")
    if not metrics:
        fix = "materialize the dataset with objects in its validation split"
        if crowds:
            fix += ", or its crowds as objects (`crowds: objects`): nobody has to find a crowd"
        print(f"warning: nothing was measured, on {held}\n  fix: {fix}", file=sys.stderr, flush=True)
        return
    print(held)
    if not measured["detections"]:
        fix = "train longer, or see in the records' page what the model was trained on"
        print(f"warning: nothing was found on any image\n  fix: {fix}", file=sys.stderr, flush=True)
    table = Table("")
    kinds = [kind for kind in ("Boxes", "Masks", "Boundaries") if f"Detection{kind}_{SUMMARY_NAMES[0]}" in metrics]
    for kind in kinds:
        table.add_column(kind.lower(), justify="right")
    for name in SUMMARY_NAMES:
        figures = (metrics.get(f"Detection{kind}_{name}") for kind in kinds)
        table.add_row(name, *("-" if figure is None else f"{figure:.4f}" for figure in figures))
    Console().print(table)
    if (timed := measured.get("latency")) is not None:
        height, width = timed["image_size"]
        for size, one in timed["seconds_per_image"].items():
            print(f"batch {size}: {one['p50']:.3g} s/image, 95 % within {one['p95']:.3g}, {one['runs']} runs of {height} x {width} pixels")
        print(f"on {timed['device']}, {timed['machine']}")


def print_operating(told: Mapping[str, Any], thresholds: Thresholds | None, split: str) -> None:
    """What the operating thresholds do beside the default one."""
    default = told["default_threshold"]
    if not told["objects"]:
        return
    if thresholds is None:
        print("no operating thresholds: they are chosen on the validation records, by `maskline evaluate` without --split test", flush=True)
        return
    names = ("precision", "recall", "f1")
    table = Table(title=f"operating thresholds ({thresholds.rule}), IoU 0.5", title_justify="left")
    for title in ("category", "threshold", "precision", "recall", "F1", f"at {default:g}:", "precision", "recall", "F1"):
        table.add_column(title, justify="left" if title == "category" else "right")

    def figures(one: Mapping[str, Any]) -> list[str]:
        cells = [["-" if one[key][name] is None else f"{one[key][name]:.3f}" for name in names] for key in ("chosen", "default")]
        return [*cells[0], "", *cells[1]]

    shown = list(told["categories"].items())
    shown = shown if len(shown) <= _MOST_CATEGORIES else []
    table.add_row("all", "", *figures(told))
    for name, one in shown:
        table.add_row(name, f"{one['threshold']:g}", *figures(one))
    Console(width=None if Console().is_terminal else 120).print(table)
    if split == VAL:
        print("chosen on these images, and a little too good on them: --split test says what they do on others")
    for one in thresholds.fallbacks[:_MOST_CATEGORIES]:
        print(f"{one.name}: {one.reason}; it has {one.score:g}, {one.source}")
    if (more := len(thresholds.fallbacks) - _MOST_CATEGORIES) > 0:
        print(f"{more} more categories have no threshold of their own: {THRESHOLDS} says why")
