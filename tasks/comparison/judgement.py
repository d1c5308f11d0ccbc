"""Models judged by what was measured: their order, the verdicts on their differences, and what is said of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.coco.matches import BOX, MASK, Matches, read_matches
from tasks.comparison.rows import EVALUATED, Row
from tasks.comparison.seeds import mean_row, named_groups, seed_of
from tasks.comparison.table import HIGHEST, LEVEL, UNTESTED, WORSE, cell, markdown_table, short_name
from tasks.evaluation.results import MATCHES
from tasks.evaluation.verdicts import Contender, Verdicts, incomparable, verdicts
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir

_MOST_LINES = 15
"""Of verdicts; the JSON file has all."""


@dataclass(frozen=True)
class Judged:
    """A model: its row, and those of its trainings where it was trained with several seeds, the best first."""

    row: Row
    trainings: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All models, best figure first, and the verdicts on those that can be compared, None where these are not two.

    `matches`: of each evaluated model that was measured on the same as the others, by its name, the best first; of one that was trained
    with several seeds, of the training that is nearest to their mean, by that one's name.
    """

    models: tuple[Judged, ...]
    verdicts: Verdicts | None
    matches: Mapping[str, Matches] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """Of each training."""
        return [row for model in self.models for row in model.trainings or (model.row,)]

    @property
    def shown(self) -> list[Row]:
        """Of each model, and below it of each of its trainings, where these are several."""
        return [row for model in self.models for row in (model.row, *model.trainings)]

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
    def highest_model(self) -> Judged | None:
        return next((model for model in self.models if model.row.standing == HIGHEST), None)

    @property
    def highest(self) -> Row | None:
        """The highest training of the highest model."""
        model = self.highest_model
        return (model.trainings or (model.row,))[0] if model else None

    @property
    def lines(self) -> list[str]:
        """What is known, in sentences: verdicts, those on the model with the highest figure first, and what was left out."""
        found = [pair.sentence(short_name) for pair in self.verdicts.pairs] if self.verdicts else []
        if len(found) > _MOST_LINES:
            found = [*found[:_MOST_LINES], f"{len(found) - _MOST_LINES} more verdicts are in comparison.json"]
        return found + [f"left out: {row.config}, {row.left_out}" for row in self.ready if row.left_out]

    @property
    def heading(self) -> str:
        model, highest = self.highest_model, self.highest
        if model is None or highest is None:
            if all(self.figure(row) is None for row in self.ready):
                return "Nothing to rank: there was nothing to measure."
            return f"Nothing to rank: every model's {self.ranking} is zero."
        words = f"Highest {self.ranking}: {model.row.config}, {cell('mask_ap', self.figure(model.row))}"
        if not model.trainings:
            return f"{words}."
        highest_of_them = f"the highest of these is {highest.config}, {cell('mask_ap', self.figure(highest))}"
        return f"{words} on average of {len(model.trainings)} seeds; {highest_of_them}."

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
    def timed_on(self) -> str:
        """On which device of which machine inference was timed; "" where nobody knows."""
        timed = [model.row for model in self.models if model.row.state == EVALUATED and model.row.seconds_per_image is not None]
        devices = {row.device for row in timed}
        if len(devices) > 1:
            told = (f"{short_name(row.config)} on {row.device or 'several or an unknown one'}" for row in timed)
            return f"Inference was timed on different machines: {'; '.join(told)}."
        return f"Inference was timed on {', '.join(filter(None, devices))}." if devices - {None} else ""

    @property
    def note(self) -> str:
        """What the figures stand on, and how models were told apart."""
        return " ".join(filter(None, (self.measured_on, self._told_apart, self.timed_on)))

    @property
    def _told_apart(self) -> str:
        if self.verdicts is None:
            return ""
        together = " for all pairs together" if len(self.verdicts.pairs) > 1 else ""
        several = [one for one in self.verdicts.standings if one.spread is not None]
        if several:
            freedom = sum(one.trainings - 1 for one in several)
            spread = math.sqrt(sum((one.trainings - 1) * (one.spread or 0.0) ** 2 for one in several) / freedom)
            seeds = f" What another seed would change is in them: trainings of one model differ by {100 * spread:.2g} points"
            seeds += " (standard deviation)"
            seeds += "." if len(several) == len(self.verdicts.standings) else ", which is taken to hold of those that were trained once."
        else:
            seeds = " Each model was trained once: what another seed would change is not in it."
        return f"Intervals hold 95 % of the time{together}, by {self.verdicts.resamples} resamples of the images.{seeds}"

    def markdown(self, dataset: Mapping[str, str] | None) -> str:
        head = [f"Dataset {dataset['name']}, digest `{dataset['digest'][:12]}`.", ""] if dataset else []
        told = [f"- {line}" for line in self.lines]
        return "\n".join([*head, self.heading, "", *told, *([""] if told else []), *markdown_table(self.shown), "", self.note, ""])

    def summary(self) -> dict[str, Any]:
        return {
            "best": self.highest and self.highest.config,
            "mask_ap": self.highest and self.highest.mask_ap,
            "verdicts": self.lines,
            "not_told_apart": [model.row.config for model in self.models if model.row.standing == LEVEL],
            "not_evaluated": [row.config for row in self.rows if row.state != EVALUATED],
        }


def judged(rows: Sequence[Row], models: Mapping[str, ModelDir]) -> Comparison:
    """The comparison of models whose rows come best figure first, at least one of them evaluated."""
    found = Comparison(tuple(map(Judged, rows)), None)
    ready, figure = found.ready, found.figure
    if not figure(ready[0]):
        return found
    kind = MASK if found.ranking == "mask AP" else BOX
    matches: dict[str, Matches] = {}
    left_out: dict[str, str] = {}
    for row in ready:
        of_model = _matches(models[row.config], kind)
        if isinstance(of_model, Matches) and matches and (reason := incomparable(next(iter(matches.values())), of_model)) is not None:
            hint = "; maskline regrade compares the two by the same labels" if reason.startswith("another state") else ""
            of_model = f"{reason} ({next(iter(matches))} has the first){hint}"
        if isinstance(of_model, Matches):
            matches[row.config] = of_model
        else:
            left_out[row.config] = of_model
    by_name = {row.config: replace(row, left_out=left_out.get(row.config)) for row in rows}
    groups = named_groups({name: models[name] for name in matches})
    contenders = [Contender(name, tuple(matches[one] for one in names)) for name, names in groups.items()]
    verdict = verdicts(contenders, kind) if len(contenders) > 1 else None
    together = {name: _together(name, {one: by_name[one] for one in names}, models, kind) for name, names in groups.items()}
    ranked = [*together.values(), *(Judged(row) for name, row in by_name.items() if name not in matches)]
    ranked.sort(key=lambda model: model.row.config)
    ranked.sort(key=lambda model: model.row.rank, reverse=True)
    shown = {name: _nearest(model) for name, model in together.items()}
    first = next(model.row for model in ranked if model.row.state == EVALUATED)
    return Comparison(
        tuple(replace(model, row=_with_standing(model.row, first, verdict, figure)) for model in ranked),
        verdict,
        {name: matches[name] for model in ranked if model.row.config in shown for name in (shown[model.row.config],)},
    )


def _together(name: str, rows: Mapping[str, Row], models: Mapping[str, ModelDir], kind: str) -> Judged:
    if len(rows) == 1:
        return Judged(rows[next(iter(rows))])
    trainings = tuple(replace(row, seed=seed_of(models[one])) for one, row in rows.items())
    return Judged(mean_row(name, trainings, "mask_ap" if kind == MASK else "box_ap"), trainings)


def _nearest(model: Judged) -> str:
    """The name of the training whose figures stand for the model's."""
    return min(model.trainings or (model.row,), key=lambda one: [abs(a - b) for a, b in zip(one.rank, model.row.rank, strict=True)]).config


def _with_standing(row: Row, first: Row, verdict: Verdicts | None, figure: Callable[[Row], float | None]) -> Row:
    standings = {one.name: one for one in verdict.standings} if verdict else {}
    standing = UNTESTED if row.state == EVALUATED and figure(row) is not None else None
    if row.config not in standings or verdict is None:
        return replace(row, standing=HIGHEST if row is first else standing)
    if row is first:
        standing = HIGHEST
    elif first.config in standings:
        standing = WORSE if verdict.between(first.config, row.config).shown else LEVEL
    return replace(row, standing=standing, interval=standings[row.config].interval)


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
