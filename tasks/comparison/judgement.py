"""Models judged by what was measured: their order, the verdicts on their differences, and what is said of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.coco.matches import BOX, MASK, Matches, read_matches
from tasks.comparison.rows import EVALUATED, Row
from tasks.comparison.table import HIGHEST, LEVEL, UNTESTED, WORSE, cell, markdown_table, short_name
from tasks.evaluation.results import MATCHES
from tasks.evaluation.verdicts import Contender, Verdicts, incomparable, verdicts
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir

_MOST_LINES = 15
"""Of verdicts; the JSON file has all."""


@dataclass(frozen=True)
class Comparison:
    """All models, best figure first, and the verdicts on those that can be compared, None where these are not two.

    `matches`: of each evaluated model that was measured on the same as the others, by its name, the best first.
    """

    rows: tuple[Row, ...]
    verdicts: Verdicts | None
    matches: Mapping[str, Matches] = field(default_factory=dict)

    @property
    def ranking(self) -> str:
        """The figure that ranks the models."""
        return "mask AP" if any(row.mask_ap is not None for row in self.ready) else "box AP"

    def figure(self, row: Row) -> float | None:
        """The figure that ranks, of a model."""
        return row.mask_ap if self.ranking == "mask AP" else row.box_ap

    @property
    def ready(self) -> list[Row]:
        return [row for row in self.rows if row.state == EVALUATED]

    @property
    def highest(self) -> Row | None:
        return next((row for row in self.rows if row.standing == HIGHEST), None)

    @property
    def lines(self) -> list[str]:
        """What is known, in sentences: verdicts, those on the model with the highest figure first, and what was left out."""
        found = [pair.sentence(short_name) for pair in self.verdicts.pairs] if self.verdicts else []
        if len(found) > _MOST_LINES:
            found = [*found[:_MOST_LINES], f"{len(found) - _MOST_LINES} more verdicts are in comparison.json"]
        return found + [f"left out: {row.config}, {row.left_out}" for row in self.ready if row.left_out]

    @property
    def heading(self) -> str:
        if self.highest is None:
            if all(self.figure(row) is None for row in self.ready):
                return "Nothing to rank: there was nothing to measure."
            return f"Nothing to rank: every model's {self.ranking} is zero."
        return f"Highest {self.ranking}: {self.highest.config}, {cell('mask_ap', self.figure(self.highest))}."

    @property
    def measured_on(self) -> str:
        images, objects = ({getattr(row, name) for row in self.ready} for name in ("images", "objects"))
        counts = [
            f"{count} {thing}{'' if count == 1 else 's'}"
            for numbers, thing in ((images, "image"), (objects, "object"))
            if (count := _one(numbers)) is not None
        ]
        return f"Measured on {' with '.join(counts)}." if counts else ""

    @property
    def note(self) -> str:
        """What the figures stand on, and how models were told apart."""
        if self.verdicts is None:
            return self.measured_on
        together = " for all pairs together" if len(self.verdicts.pairs) > 1 else ""
        once = all(one.trainings == 1 for one in self.verdicts.standings)
        seeds = " Each model was trained once: what another seed would change is not in it." if once else ""
        return f"{self.measured_on} Intervals hold 95 % of the time{together}, by {self.verdicts.resamples} resamples of the images.{seeds}"

    def markdown(self, dataset: Mapping[str, str] | None) -> str:
        head = [f"Dataset {dataset['name']}, digest `{dataset['digest'][:12]}`.", ""] if dataset else []
        told = [f"- {line}" for line in self.lines]
        return "\n".join([*head, self.heading, "", *told, *([""] if told else []), *markdown_table(self.rows), "", self.note, ""])

    def summary(self) -> dict[str, Any]:
        return {
            "best": self.highest and self.highest.config,
            "mask_ap": self.highest and self.highest.mask_ap,
            "verdicts": self.lines,
            "not_told_apart": [row.config for row in self.ready if row.standing == LEVEL],
            "not_evaluated": [row.config for row in self.rows if row.state != EVALUATED],
        }


def judged(rows: Sequence[Row], models: Mapping[str, ModelDir]) -> Comparison:
    """The comparison of models whose rows come best figure first, at least one of them evaluated."""
    found = Comparison(tuple(rows), None)
    ready, figure = found.ready, found.figure
    if not figure(ready[0]):
        return found
    kind = MASK if found.ranking == "mask AP" else BOX
    matches: dict[str, Matches] = {}
    left_out: dict[str, str] = {}
    for row in ready:
        of_model = _matches(models[row.config], kind)
        if isinstance(of_model, Matches) and matches and (reason := incomparable(next(iter(matches.values())), of_model)) is not None:
            of_model = f"{reason} ({next(iter(matches))} has the first)"
        if isinstance(of_model, Matches):
            matches[row.config] = of_model
        else:
            left_out[row.config] = of_model
    verdict = verdicts([Contender(name, (one,)) for name, one in matches.items()], kind) if len(matches) > 1 else None
    standings = {one.name: one for one in verdict.standings} if verdict else {}
    ranked = []
    for row in rows:
        changes: dict[str, Any] = {"left_out": left_out.get(row.config)}
        if row.state == EVALUATED and figure(row) is not None:
            changes["standing"] = UNTESTED
        if row.config in standings and verdict is not None:
            changes["interval"] = standings[row.config].interval
            if ready[0].config in standings and row is not ready[0]:
                changes["standing"] = WORSE if verdict.between(ready[0].config, row.config).shown else LEVEL
        if row is ready[0]:
            changes["standing"] = HIGHEST
        ranked.append(replace(row, **changes))
    return Comparison(tuple(ranked), verdict, matches)


def _matches(model: ModelDir, kind: str) -> Matches | str:
    """Of the model's evaluation; or why there are none of this kind."""
    try:
        matches = read_matches(model.evaluation / MATCHES)
    except UserError as error:
        return error.message
    if kind not in matches.kinds:
        return "it has no masks"
    return matches if matches.objects.counted().any() else "there was no object to find"


def _one(numbers: set[int | None]) -> int | None:
    return next(iter(numbers)) if len(numbers) == 1 else None
