"""The table of models: its columns, and how a figure is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.comparison.rows import Row

COLUMNS = (
    ("config", "config"),
    ("seed", "seed"),
    ("mask_ap", "mask AP"),
    ("mask_ap50", "AP50"),
    ("mask_ap75", "AP75"),
    ("mask_ap_small", "AP small"),
    ("mask_ap_medium", "AP medium"),
    ("mask_ap_large", "AP large"),
    ("spread", "spread over seeds"),
    ("box_ap", "box AP"),
    ("parameters", "parameters"),
    ("tflop_per_image", "TFLOP/image"),
    ("train_images_per_second", "train images/s"),
    ("seconds_per_image", "s/image"),
    ("seconds_per_image_p95", "95 % within"),
    ("seconds_per_image_batched", "s/image in batches"),
    ("seconds_per_image_batched_p95", "95 % within"),
    ("peak_memory_gb", "peak GB"),
    ("training_hours", "hours"),
    ("cost", "cost"),
    ("standing", "beside the highest"),
    ("state", "state"),
)
"""The fields of a row and their titles."""
TEXTS = ("config", "standing", "state")
_ALWAYS = ("config", "mask_ap", "mask_ap50", "box_ap", "parameters", "train_images_per_second", "seconds_per_image", "standing", "state")
_OF_SEEDS = ("seed", "spread")
"""The others stand there where a model has them; a terminal shows these alone, and what tells seeds apart."""
HIGHEST, LEVEL, WORSE, UNTESTED = "highest", "no difference shown", "worse", "not tested"


def columns(rows: Sequence[Row], is_short: bool = False) -> list[tuple[str, str]]:
    """Those that some model has a figure for; the short table has the most important."""
    return [
        (name, title)
        for name, title in COLUMNS
        if name in _ALWAYS or ((not is_short or name in _OF_SEEDS) and any(getattr(row, name) is not None for row in rows))
    ]


def cell(name: str, value: Any) -> str:
    """A field of a row as text."""
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    if name in ("train_images_per_second", "tflop_per_image", "peak_memory_gb", "training_hours"):
        return f"{value:.3g}"
    if name == "cost":
        return f"{value:.2f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """The table's lines; the highest model is bold."""
    shown = columns(rows)
    lines = ["| " + " | ".join(title for _, title in shown) + " |"]
    lines += ["|" + "|".join("---" if name in TEXTS else "---:" for name, _ in shown) + "|"]
    for row in rows:
        cells = [cell(name, getattr(row, name)) for name, _ in shown]
        lines.append("| " + " | ".join(f"**{text}**" if row.standing == HIGHEST else text for text in cells) + " |")
    return lines


def short_name(config: str) -> str:
    """What tells the zoo's configs apart: their backbone; and trainings of one their seed."""
    plain, seed, number = config.rpartition("-seed")
    if seed and number.isdigit():
        return f"{short_name(plain)} seed {number}"
    return config.removeprefix("mask_rcnn_").removesuffix("_coco")
