"""The pictures of an analysis: each of one part, or of several side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.evaluation.error_split import KINDS

_INK, _FAINT, _GRID = "#22252b", "#6b7280", "#e5e7eb"
# Apart in hue and in lightness, so that neighbours differ for the colour-blind and in grey.
_COLORS = ("#1d4ed8", "#f59e0b", "#0f766e", "#db2777", "#7c3aed", "#65a30d", "#0891b2", "#b45309")
_MOST_PARTS = len(_COLORS)
_MOST_CATEGORIES, _MOST_CONFUSED, _MOST_MATRICES = 40, 25, 4
_LONGEST_NAME = 28
_ROW_INCHES = 0.28
_NARROWEST_INCHES = 7.5  # of a picture, so that the line below it fits

Parts = Mapping[str, Any]


def _summary(parts: Parts, attribute: str) -> bytes:
    """Bars of AP by each kind of overlap, a group for each part."""
    kinds = [name for name in next(iter(parts.values())) if name.endswith(" AP")]
    labels = [f"{_shortened(name)}\n{one['images']} images, {one['objects']} objects" for name, one in parts.items()]
    figure, axes = _axes(7.5, 1.4 + len(parts) * (0.3 + 0.24 * len(kinds)), left=2.4)
    for place, kind in enumerate(kinds):
        rows = np.arange(len(parts)) + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        _bars(axes, rows, [one[kind] for one in parts.values()], 0.72 / len(kinds), _COLORS[place], kind)
    _rows(axes, labels)
    axes.set_xlim(0, 1.08)
    _legend(figure, axes)
    return _png(figure, _title("AP", attribute))


def _categories(parts: Parts, attribute: str) -> bytes:
    """A row for each category, best first: its AP by each kind of overlap, or by the first one in each part."""
    drawn = _drawn(parts)
    every = next(iter(parts.values()))
    kinds = [name for name in next(iter(every.values()), {}) if name.endswith(" AP")]
    series = {name: {category: values[kinds[0]] for category, values in drawn[name].items()} for name in drawn}
    if len(parts) == 1:
        series = {kind: {category: values[kind] for category, values in every.items()} for kind in kinds}
    means = {
        category: np.mean(known)
        for category in every
        if (known := [values[category] for values in series.values() if values[category] is not None])
    }
    shown = sorted(means, key=lambda category: -means[category])
    left_out = len(shown) - _MOST_CATEGORIES
    if left_out > 0:
        shown = [*shown[: _MOST_CATEGORIES // 2], *shown[-_MOST_CATEGORIES // 2 :]]
    figure, axes = _axes(7.5, 1.5 + _ROW_INCHES * max(len(shown), 1), left=2.2)
    for place, (name, values) in enumerate(series.items()):
        # A little apart, so that equal ones hide none.
        beside = (place - (len(series) - 1) / 2) * 0.6 / max(len(series), 3)
        known = [(values[category], row + beside) for row, category in enumerate(shown) if values[category] is not None]
        if known:
            across, rows = zip(*known, strict=True)
            axes.scatter(across, rows, s=30, color=_COLORS[place], label=_shortened(name), zorder=3)
    objects = {category: sum(one[category]["objects"] for one in parts.values()) for category in shown}
    _rows(axes, [f"{_shortened(category)} ({objects[category]})" for category in shown])
    axes.set_xlim(0, 1.02)
    _legend(figure, axes)
    middle = f", the best and the worst; {left_out} between them are in the JSON file" if left_out > 0 else ""
    what = "AP" if len(parts) == 1 else kinds[0]
    return _png(figure, _title(f"{what} by category (objects){middle}", attribute))


def _curves(parts: Parts, attribute: str) -> bytes:
    """Precision by recall, the mean over categories: at some IoUs, or at 0.5 in each part."""
    figure, axes = _axes(6.2, 4.6, left=0.8)
    if len(parts) == 1:
        (one,) = parts.values()
        lines = {f"IoU {name}": values for name, values in one["precision"].items()}
    else:
        lines = {name: one["precision"]["0.50"] for name, one in _drawn(parts).items()}
    recall = next(iter(parts.values()))["recall"]
    for color, (name, values) in zip(_COLORS, lines.items(), strict=False):
        if values is not None:
            axes.plot(recall, values, color=color, linewidth=1.8, label=f"{_shortened(name)}, mean {np.mean(values):.3f}")
    _square(axes, "recall", "precision")
    _legend(figure, axes)
    return _png(figure, _title("Precision by recall" if len(parts) == 1 else "Precision by recall, IoU 0.5", attribute))


def _calibration(parts: Parts, attribute: str) -> bytes:
    """The share of right detections by their score, beside the diagonal on which scores would keep their word."""
    figure, axes = _axes(6.2, 4.6, left=0.8)
    axes.plot((0, 1), (0, 1), color=_FAINT, linewidth=1, linestyle="--")
    for color, (name, one) in zip(_COLORS, _drawn(parts).items(), strict=False):
        held = [each for each in one["bins"] if each["detections"]]
        if not held:
            continue
        label = f"{_shortened(name)}, off by {one['error']:.3f}"
        scores, right, sizes = ([each[key] for each in held] for key in ("score", "right", "detections"))
        axes.plot(scores, right, color=color, linewidth=1.6, label=label, zorder=3)
        axes.scatter(scores, right, s=[14 + 90 * size / max(sizes) for size in sizes], color=color, zorder=4, clip_on=False)
    _square(axes, "score", "share that is right, IoU 0.5")
    _legend(figure, axes)
    return _png(figure, _title("Calibration; larger dots stand for more detections", attribute))


def _confusion(parts: Parts, attribute: str) -> bytes:
    """A matrix for each part: of the objects of a category, the share that is called each."""
    drawn = dict(sorted(parts.items(), key=lambda item: -int(np.sum(item[1]["counts"])))[:_MOST_MATRICES])
    drawn = {name: one for name, one in parts.items() if name in drawn}
    together = np.sum([one["counts"] for one in drawn.values()], axis=0)
    names = next(iter(parts.values()))["categories"]
    used = [index for index in range(len(names)) if together[index].sum() or together[:, index].sum()]
    mixed = sorted(used, key=lambda index: together[index, index] - together[index].sum() - together[:, index].sum())
    shown = sorted(mixed[:_MOST_CONFUSED])
    size = 1.6 + 0.3 * (len(shown) + 1)
    figure = Figure(figsize=(max((size + 1.2) * len(drawn) + 0.4, _NARROWEST_INCHES), size + 1.3), dpi=100)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    keep = [*shown, len(names)]
    labels = [_shortened(names[index], 16) for index in shown]
    for axes, (name, one) in zip(all_axes, drawn.items(), strict=True):
        counts = np.array(one["counts"])
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        _matrix(axes, share[np.ix_(keep, keep)], counts[np.ix_(keep, keep)], labels)
        axes.set_title(_shortened(name) if len(parts) > 1 else "", loc="left", color=_INK, fontsize=10)
    less = "" if len(shown) == len(used) else f"The {len(shown)} categories that are mixed up most; all are in the JSON file. "
    some = "" if len(drawn) == len(parts) else f"The {len(drawn)} largest of {len(parts)} parts."
    score = next(iter(parts.values()))["min_score"]
    title = _title(f"What objects are called, scored {score:g} or more, IoU 0.5", attribute)
    note = "\n".join(filter(None, ("Rows are objects, columns detections; colour is the row's share, numbers are counts.", less + some)))
    figure.suptitle(title, x=0.02, ha="left", color=_INK, fontsize=11)
    figure.supxlabel(note, x=0.02, ha="left", color=_FAINT, fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    return _encoded(figure)


def _errors(parts: Parts, attribute: str) -> bytes:
    """What each kind of error costs, with how many there are; or the costs of each part, one behind the other."""
    figure, axes = _axes(8.0, 1.5 + 0.4 * (len(KINDS) if len(parts) == 1 else len(parts)), left=2.2)
    if len(parts) == 1:
        (one,) = parts.values()
        costs = [one["kinds"][kind]["cost"] for kind in KINDS]
        remarks = [f"{one['kinds'][kind]['errors']} errors" for kind in KINDS]
        _bars(axes, np.arange(len(KINDS)), costs, 0.62, _COLORS[0], "", remarks)
        _rows(axes, list(KINDS))
        longest = max((cost for cost in costs if cost is not None), default=0.0)
        axes.set_xlim(min(0.0, *(cost or 0.0 for cost in costs)), max(longest, 0.01) * 1.35)
        known = "" if one["ap50"] is None else f", which is {one['ap50']:.3f}"
        return _png(figure, f"AP50 that each kind of error costs{known}; errors scored 0.3 or more")
    drawn = _drawn(parts)
    before = np.zeros(len(drawn))
    for color, kind in zip(_COLORS, KINDS, strict=False):
        added = np.array([max(one["kinds"][kind]["cost"] or 0.0, 0.0) for one in drawn.values()])
        axes.barh(np.arange(len(drawn)), added, left=before, height=0.62, color=color, label=kind)
        before += added
    _rows(axes, [_shortened(name) for name in drawn])
    _legend(figure, axes)
    return _png(figure, _title("AP50 that each kind of error costs", attribute))


def _operating(parts: Parts, attribute: str) -> bytes:
    """F1 at the default score and at the chosen ones: of each category, or of each part."""
    ((_, first), *_) = parts.items()
    if len(parts) == 1:
        known = [(name, one) for name, one in first["categories"].items() if one["objects"]]
        # Where the choice changes most.
        known.sort(key=lambda item: -abs((item[1].get("chosen", item[1]["default"])["f1"] or 0) - (item[1]["default"]["f1"] or 0)))
        shown = known[:_MOST_CATEGORIES]
        rows = {
            f"{_shortened(name)} ({one['objects']})" + (f", {one['threshold']:.2f}" if "threshold" in one else ""): one
            for name, one in shown
        }
        rows = {"all categories": first, **rows}
    else:
        rows = {_shortened(name): one for name, one in _drawn(parts).items()}
    figure, axes = _axes(7.5, 1.5 + 0.5 * len(rows), left=2.4)
    for place, (key, label) in enumerate((("default", f"at {first['default_threshold']:g}"), ("chosen", "at the operating thresholds"))):
        if key in first:
            places = np.arange(len(rows)) + (place - 0.5) * 0.4
            _bars(axes, places, [one[key]["f1"] for one in rows.values()], 0.36, _COLORS[place], label)
    _rows(axes, list(rows))
    axes.set_xlim(0, 1.08)
    _legend(figure, axes)
    return _png(figure, _title("F1, IoU 0.5" if attribute else "F1, IoU 0.5, by category (objects), threshold", attribute))


DRAWN: Mapping[str, Callable[[Parts, str], bytes]] = {
    "summary": _summary,
    "categories": _categories,
    "curves": _curves,
    "calibration": _calibration,
    "confusion": _confusion,
    "errors": _errors,
    "operating": _operating,
}
"""By the name of what is drawn: a PNG of its values by part, under the name of the attribute that tells the parts apart, if any."""


def _title(what: str, attribute: str) -> str:
    return f"{what}, by {attribute.replace('_', ' ')}" if attribute else what


def _drawn(parts: Parts) -> dict[str, Any]:
    """As many parts as there are colours."""
    return dict(list(parts.items())[:_MOST_PARTS])


def _shortened(text: str, longest: int = _LONGEST_NAME) -> str:
    """A name that fits before its row; a long one keeps its beginning and its end."""
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"


def _axes(width: float, height: float, left: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, 0.72 / height, (width - left - 0.3) / width, (height - 1.2) / height))
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_GRID)
    axes.tick_params(colors=_FAINT, length=0, labelsize=9)
    return figure, axes


def _bars(
    axes: Axes,
    rows: Any,
    values: Sequence[float | None],
    height: float,
    color: str,
    label: str,
    remarks: Sequence[str] = (),
) -> None:
    axes.barh(rows, [value or 0.0 for value in values], height=height, color=color, label=label or None)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        text = "nothing to measure" if value is None else f"{value:.3f}"
        text += f"  {remarks[place]}" if remarks else ""
        axes.annotate(text, (max(value or 0.0, 0.0), row), (4, 0), textcoords="offset points", va="center", color=_INK, fontsize=8)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, color=_INK)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)


def _square(axes: Axes, across: str, up: str) -> None:
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(across, color=_FAINT, fontsize=9)
    axes.set_ylabel(up, color=_FAINT, fontsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, where no line or dot can lie on it."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="lower left", ncols=min(len(handles), 4), frameon=False, fontsize=8, labelcolor=_INK)


def _matrix(axes: Axes, share: Any, counts: Any, labels: Sequence[str]) -> None:
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    rows = [*labels, "nothing"]
    axes.set_yticks(range(len(rows)), rows, color=_INK)
    axes.set_xticks(range(len(rows)), [*labels, "missed"], color=_INK, rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0, labelsize=8)
    for side in axes.spines.values():
        side.set_color(_GRID)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "#ffffff" if share[row, column] > 0.55 else _INK
            axes.annotate(str(count), (column, row), ha="center", va="center", color=ink, fontsize=7)


def _png(figure: Figure, title: str) -> bytes:
    figure.text(0.02, 1 - 0.12 / figure.get_size_inches()[1], title, ha="left", va="top", color=_INK, fontsize=10)
    return _encoded(figure)


def _encoded(figure: Figure) -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
