"""The queue on one page of HTML that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.comparison.side_by_side import Panel

_TEMPLATE = "page.html"


@dataclass(frozen=True)
class Item:
    """A line of the queue: its image, how it is called (the kind of a doubt), its score, what is said, and pictures."""

    kind: str
    file_name: str
    score: float
    why: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Heading:
    """What the queue is of. `counts`: by kind all doubts, those that are not shown too."""

    dataset: str
    digest: str
    split: str
    images: int
    models: Sequence[str]
    sure: float
    counts: Mapping[str, int]
    notes: Sequence[str]
    next_steps: Sequence[str]


def queue_page(heading: Heading, doubts: Sequence[Item], teaching: Sequence[Item], limits: Mapping[str, Any]) -> str:
    """The page; `limits` are the numbers by which doubts are found, for its explanations."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(_TEMPLATE).render(heading=heading, doubts=doubts, teaching=teaching, limits=limits)
