"""Plots of evaluated models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

_INK, _FAINT, _GRID = "#22252b", "#6b7280", "#e5e7eb"
_BEST, _LEVEL, _OTHER = "#1d4ed8", "#7aa2e3", "#b6bcc8"
_KEY = (
    ("best", "Dark blue:", "the highest"),
    ("level", "light blue:", "no difference from it shown"),
    ("other", "grey:", "shown to be lower, or not tested"),
)
_ROW_INCHES, _FRAME_INCHES = 0.42, 1.7
_LONGEST_LABEL = 36
_TEXT_SHARE = 1.3
"""What an axis is longer than its longest bar or interval, so that the figure behind it stays inside."""


@dataclass(frozen=True)
class ModelBar:
    """One model; a figure that does not exist is None."""

    label: str
    precision: float | None
    interval: tuple[float, float] | None
    """95 %, from the chance of which images were at hand."""
    seconds_per_image: float | None
    parameters: int | None
    standing: str
    """`best` (the highest figure), `level` (no difference from it shown) or `other`."""


def draw_models(models: Sequence[ModelBar], precision: str, note: str) -> bytes:
    """A PNG with a row for each model, in their order, in three panels from zero: its precision, its time of inference, its size.

    `precision` names the first panel, `note` stands below: what the figures stand on. Rows have one height, whatever their number, so
    that no name can lie on another.
    """
    figure = Figure(figsize=(11, _FRAME_INCHES + _ROW_INCHES * max(len(models), 1)), dpi=130, layout=ConstrainedLayoutEngine(wspace=0.06))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1.2, 1.2))
    intervals = [model.interval for model in models]
    title = f"{precision}, with its 95 % interval" if any(intervals) else precision
    _panel(panels[0], models, title, [model.precision for model in models], "{:.3f}", intervals)
    _panel(panels[1], models, "seconds an image", [model.seconds_per_image for model in models], "{:.3g}")
    sizes = [None if model.parameters is None else model.parameters / 1e6 for model in models]
    _panel(panels[2], models, "million parameters", sizes, "{:.1f}")
    panels[0].set_yticks(range(len(models)), [_shortened(model.label) for model in models], color=_INK)
    panels[0].set_ylim(max(len(models), 1) - 0.5, -0.5)
    if not models:
        panels[0].text(0.5, 0.5, "no model was evaluated", transform=panels[0].transAxes, ha="center", color=_FAINT)
    told = {model.standing for model in models}
    key = [f"{color} {meaning}" for standing, color, meaning in _KEY if standing in told and {"best"} < told]
    figure.supxlabel("\n".join(filter(None, [note, ", ".join(key)])), color=_FAINT, fontsize=9)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()


def _shortened(label: str) -> str:
    """What fits before the bars; a long name keeps its beginning and its end."""
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL // 2]}…{label[1 - _LONGEST_LABEL // 2 :]}"


def _panel(
    axes: Axes,
    models: Sequence[ModelBar],
    title: str,
    values: Sequence[float | None],
    form: str,
    intervals: Sequence[tuple[float, float] | None] = (),
) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_GRID)
    axes.tick_params(colors=_FAINT, length=0)
    axes.set_title(title, loc="left", color=_INK, fontsize=10, pad=8)
    axes.xaxis.set_major_locator(MaxNLocator(5 if intervals else 4))
    colors = {"best": _BEST, "level": _LEVEL, "other": _OTHER}
    longest = 0.0
    for row, (model, value) in enumerate(zip(models, values, strict=True)):
        end = value or 0.0
        if value is not None:
            axes.barh(row, value, height=0.62, color=colors[model.standing])
        if intervals and (interval := intervals[row]) is not None:
            axes.plot(interval, (row, row), color=_INK, linewidth=1.2, solid_capstyle="butt")
            end = max(end, interval[1])
        longest = max(longest, end)
        text = "not measured" if value is None else form.format(value)
        axes.annotate(text, (end, row), (5, 0), textcoords="offset points", va="center", color=_INK, fontsize=9)
    axes.set_xlim(0, longest * _TEXT_SHARE or 1)
