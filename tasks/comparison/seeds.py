"""Trainings that differ by their seed alone are one model, measured several times."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import yaml

from tasks.comparison.rows import Row
from tasks.running.workspace import ModelDir

_SEED_OF_NAME = re.compile(r"-seed\d+$")
_OF_THE_MACHINE = ("runtime",)
"""What may differ between two trainings of one model: the machine, and how often a checkpoint was kept."""
_OF_THE_LOOP = ("checkpoint_interval", "max_to_keep", "grace_seconds", "summary_interval", "steps_per_loop")
_APART = ("config", "standing", "state", "left_out", "device", "interval", "seed")


def named_groups(models: Mapping[str, ModelDir]) -> dict[str, tuple[str, ...]]:
    """The names of the models whose trainings differ by their seed alone, by a name of all; most stand alone, under their own.

    So does a model of which the seed is not known, or is another's of the group already: a training done again is no other seed.
    """
    groups: dict[str, dict[int | None, str]] = {}
    # Those first that were named for their seed.
    for name in sorted(models, key=lambda name: not _SEED_OF_NAME.search(name)):
        settings, seed = _settings(models[name])
        group = groups.setdefault(settings if settings is not None else name, {})
        if seed in group:
            groups[name] = {None: name}
        else:
            group[seed] = name
    found: dict[str, tuple[str, ...]] = {}
    for group in groups.values():
        names = tuple(group.values())
        plain = {_SEED_OF_NAME.sub("", name) for name in names}
        common = plain.pop() if len(plain) == 1 else ""
        is_free = common and common not in found and (common in names or common not in models)
        found[common if len(names) > 1 and is_free else names[0]] = names
    return found


def seed_of(model: ModelDir) -> int | None:
    """That it was trained with; None where nobody knows."""
    return _settings(model)[1]


def mean_row(name: str, rows: Sequence[Row], figure: str) -> Row:
    """The row of a model that was trained several times: means of its figures, and how far its trainings lie apart in `figure`."""
    found: dict[str, Any] = {}
    for one in fields(Row):
        values = [getattr(row, one.name) for row in rows]
        known = [value for value in values if isinstance(value, int | float)]
        if one.name not in _APART and len(known) == len(rows):
            found[one.name] = known[0] if len(set(known)) == 1 else float(np.mean(known))
    devices = {row.device for row in rows}
    spread = float(np.std([getattr(row, figure) for row in rows], ddof=1))
    return replace(Row(name, rows[0].state), **found, device=devices.pop() if len(devices) == 1 else None, spread=spread)


def _settings(model: ModelDir) -> tuple[str | None, int | None]:
    """All that a model was trained by but its seed, as a text, and that; None where nobody knows."""
    try:
        values = yaml.safe_load((model.train / "experiment.yaml").read_bytes())
        seed = values["task"]["train_data"].pop("seed")
        trainer = {name: value for name, value in values["trainer"].items() if name not in _OF_THE_LOOP}
        rest = {name: value for name, value in values.items() if name not in _OF_THE_MACHINE}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None, None
    return (json.dumps({**rest, "trainer": trainer}, sort_keys=True, default=str), seed) if isinstance(seed, int) else (None, None)
