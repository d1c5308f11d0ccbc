"""Plots of evaluated models."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_INK, _FAINT, _GRID = "#22252b", "#6b7280", "#e5e7eb"
_COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#ca8a04", "#4b5563")


def draw_accuracy_against_speed(points: Sequence[tuple[str, float, float, int]]) -> bytes:
    """A PNG with a disc, as large as the model, for each (label, images per second, mask AP, parameters).

    Better is up and to the right. No points give a plot that says so.
    """
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(color=_GRID, linewidth=0.8)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_FAINT, length=0)
    axes.set_title("Mask AP against speed", loc="left", color=_INK, fontsize=13, fontweight="bold", pad=12)
    axes.set_xlabel("images per second, inference (log scale)", color=_FAINT)
    axes.set_ylabel("mask AP", color=_FAINT)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if not points:
        axes.text(0.5, 0.5, "no model with masks was evaluated", transform=axes.transAxes, ha="center", color=_FAINT)
    largest = max((parameters for *_, parameters in points), default=1)
    for index, (label, speed, precision, parameters) in enumerate(points):
        # Area, not diameter, tells the size.
        area = max(900 * parameters / largest, 30)
        axes.scatter(speed, precision, s=area, color=_COLORS[index % len(_COLORS)], alpha=0.8, linewidth=0)
        axes.annotate(
            f"{label}\n{parameters / 1e6:.0f} M parameters",
            (speed, precision),
            # Alternately above and below the disc, as good models crowd together.
            xytext=(0, (1 if index % 2 == 0 else -1) * (math.sqrt(area) / 2 + 5)),
            textcoords="offset points",
            ha="center",
            va="bottom" if index % 2 == 0 else "top",
            fontsize=9,
            color=_INK,
        )
    if points:
        speeds = [speed for _, speed, _, _ in points]
        low, high = min(speeds), max(speeds)
        margin = max((high / low) ** 0.25, 2.2)
        axes.set_xlim(low / margin, high * margin)
        precisions = [precision for _, _, precision, _ in points]
        spread = max(max(precisions) - min(precisions), 0.05)
        axes.set_ylim(max(min(precisions) - 0.35 * spread, -0.35 * spread), max(precisions) + 0.35 * spread)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
