"""What a model has to show before it becomes the champion: a YAML file of rules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from tasks.annotations.split_names import TEST, VAL
from tasks.running.errors import UserError
from tasks.running.workspace import decoded

_HERE = Path(__file__).resolve()
_SHIPPED = (_HERE.parents[2] / "configs" / "promotion.yaml", _HERE.with_name("promotion.yaml"))
"""In a checkout; in an installed package."""


@dataclass(frozen=True)
class Policy:
    """One rule each; None or False where it is not asked. AP is from 0 to 1. `digest` is of the file's bytes."""

    split: str
    """Whose figures count"""
    split_chose_nothing: bool
    data_known: bool
    export_agrees: bool
    least_ap: float | None
    least_probability_better: float | None
    """Than the champion"""
    margin_by_category: float | None
    """By how much a category's AP may at most be below the champion's, by the lower end of the interval"""
    margin_by_slice: float | None
    fewest_objects: int
    """Of a category or a slice; with fewer it is not judged, but listed"""
    most_seconds_per_image: float | None
    """95 of 100 images within, one at a time"""
    most_memory_gb: float | None
    file: str
    digest: str


_SHARES = ("least_ap", "least_probability_better", "margin_by_category", "margin_by_slice")
_AMOUNTS = ("most_seconds_per_image", "most_memory_gb")
_ASKED = ("split_chose_nothing", "data_known", "export_agrees")


def shipped_policy() -> Path:
    """The policy that holds where none is named."""
    for file in _SHIPPED:
        if file.is_file():
            return file
    raise UserError("promotion.yaml is missing from this installation", "install maskline again, or name a policy with --policy")


def read_policy(file: Path) -> Policy:
    """The policy in a file. UserError, naming the rule, where one is unknown, missing, or asks for what cannot be."""
    try:
        content = file.read_bytes()
        values = yaml.safe_load(decoded(content))
    except OSError as error:
        raise UserError(f"the policy {file} cannot be read: {error.strerror}", f"name another, or copy {shipped_policy()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the policy {file} is not YAML: {error}", f"write a rule a line, as in {shipped_policy()}") from error
    rules = [one.name for one in fields(Policy) if one.name not in ("file", "digest")]
    if not isinstance(values, Mapping):
        raise UserError(f"the policy {file} holds no rules", f"write a rule a line: {', '.join(rules)}")
    if unknown := sorted(set(map(str, values)) - set(rules)):
        raise UserError(f"the policy {file} has the unknown rule {unknown[0]}", f"the rules are {', '.join(rules)}")
    if missing := [name for name in rules if name not in values]:
        raise UserError(f"the policy {file} says nothing of {missing[0]}", "write a value, or null where it is not asked")
    for name in rules:
        if (wrong := _fault(name, values[name])) is not None:
            raise UserError(f"the policy {file}: {name} is {values[name]!r}", f"give {wrong}")
    return Policy(**values, file=str(file), digest=hashlib.sha256(content).hexdigest())


def _fault(name: str, value: Any) -> str | None:
    """What would be right; None where it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "split":
        return None if value in (VAL, TEST) else f"{VAL} or {TEST}"
    if name in _ASKED:
        return None if isinstance(value, bool) else "true or false"
    if name == "fewest_objects":
        return None if isinstance(value, int) and is_number and value >= 1 else "a whole number, 1 or more"
    if value is None:
        return None
    if name in _SHARES:
        return None if is_number and 0 <= value <= 1 else "a number from 0 to 1, or null"
    return None if is_number and value > 0 else "a number above 0, or null"
