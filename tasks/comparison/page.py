"""A comparison on one page of HTML that needs nothing beside it, and its Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.comparison.charts import Axis, Chart, Series, axis
from tasks.comparison.disagreement import Disagreement, sentences
from tasks.comparison.findings import Findings
from tasks.comparison.judgement import Comparison
from tasks.comparison.rows import EVALUATED, Row
from tasks.comparison.side_by_side import Panel, records_of, side_by_side
from tasks.comparison.table import HIGHEST, TEXTS, cell, columns, short_name
from tasks.evaluation.analysis import MIN_SCORE
from tasks.evaluation.error_split import KINDS
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir

_TEMPLATE = "page.html"
_COLORS = 8
GAINED = "What the data gained"
_MOST_DIFFERENCES = 60
_MOST_CATEGORIES = 40


@dataclass(frozen=True)
class Disputed:
    """An image that is shown: its file's name, what is told of it, and its pictures."""

    name: str
    told: Disagreement
    lines: Sequence[str]
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Heading:
    """What stands at the head of a comparison."""

    name: str
    dataset: Mapping[str, str] | None
    gained: Sequence[str] = ()
    """What other labels than an earlier run's did, in sentences"""


def comparison_page(heading: Heading, comparison: Comparison, found: Findings, models: Mapping[str, ModelDir]) -> str:
    """The page. Where the images cannot be shown any more, it says why."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": _figure, "points": _points, "cell": lambda row, name: cell(name, getattr(row, name)), "tick": _tick}
    evaluated = [model for model in comparison.models if model.row.state == EVALUATED]
    color_of = {row.config: index % _COLORS for index, model in enumerate(evaluated) for row in (model.row, *model.trainings)}
    disputed, why = _disputed(comparison, found, models)
    return environment.get_template(_TEMPLATE).render(
        heading=heading,
        gained=GAINED,
        comparison=comparison,
        found=found,
        columns=columns(comparison.shown),
        texts=TEXTS,
        highest=HIGHEST,
        short=short_name,
        color_of=color_of,
        charts=[*_charts(comparison, found, color_of)],
        categories=_categories(found),
        kinds=KINDS,
        min_score=MIN_SCORE,
        disputed=disputed,
        no_pictures=why,
        most_differences=_MOST_DIFFERENCES,
    )


def comparison_markdown(heading: Heading, comparison: Comparison, found: Findings) -> str:
    """The same without pictures, for a text's reader."""
    lines = [f"# {heading.name}", "", comparison.markdown(heading.dataset)]
    if heading.gained:
        lines += [f"## {GAINED}", "", *(f"- {line}" for line in heading.gained), ""]
    names = list(comparison.matches)
    if len(names) > 1 and found.categories:
        lines += [f"## {comparison.ranking} by category", "", *_markdown(["category", "objects", *map(short_name, names)])]
        shown = _categories(found)
        lines += [_row([name, one["objects"], *(_figure(one["models"][model]) for model in names)]) for name, one in shown.items()]
        lines += ["", f"## AP50 that each kind of error costs (errors scored {MIN_SCORE:g} or more)", ""]
        lines += _markdown(["error", *map(short_name, names)])
        lines += [
            _row([kind, *(f"{_figure(one['kinds'][kind]['cost'])} ({one['kinds'][kind]['errors']})" for one in found.errors.values())])
            for kind in KINDS
        ]
        lines += ["", *_operating_markdown(found, names, list(shown))]
        lines += [
            "",
            "## Objects that one finds and another misses",
            "",
            *_markdown(["right", *(f"{short_name(one)} wrong" for one in names)]),
        ]
        lines += [
            _row([short_name(name), *(of_name.get(other, "") for other in names)]) for name, of_name in found.right_where_wrong.items()
        ]
        lines += [""]
    if found.config_differences:
        configs = next(iter(found.config_differences.values()))
        lines += ["## How the configs differ", "", *_markdown(["field", *map(short_name, configs)])]
        lines += [
            _row([path, *("absent" if value is None else value for value in values.values())])
            for path, values in found.config_differences.items()
        ]
        lines += [""]
    lines += [f"- left out: {one}" for one in found.left_out]
    return "\n".join(lines)


def _operating_markdown(found: Findings, names: Sequence[str], categories: Sequence[str]) -> list[str]:
    default = found.operating[names[0]]["default_threshold"]
    rules = ", ".join(f"{short_name(name)}: {found.operating[name]['rule']}" for name in names)
    lines = [f"## Operating thresholds ({rules}): threshold, precision, recall, F1 (F1 at {default:g})", ""]
    lines += _markdown(["category", *map(short_name, names)])

    def told(one: Mapping[str, Any]) -> str:
        at = f"{one['threshold']:.3g}: " if "threshold" in one else ""
        chosen = ", ".join(_figure(one["chosen"][name]) for name in ("precision", "recall", "f1"))
        return f"{at}{chosen} ({_figure(one['default']['f1'])})"

    lines += [_row(["all", *(told(found.operating[name]) for name in names)])]
    return lines + [_row([one, *(told(found.operating[name]["categories"][one]) for name in names)]) for one in categories]


def _markdown(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(one).replace("|", "\\|") for one in cells) + " |"


def _categories(found: Findings) -> Mapping[str, Mapping[str, Any]]:
    """Those in which the models differ most; all others are in the JSON file."""
    known = {name: one for name, one in found.categories.items() if any(value is not None for value in one["models"].values())}
    if len(known) <= _MOST_CATEGORIES:
        return known
    spread = {name: float(np.ptp([value for value in one["models"].values() if value is not None])) for name, one in known.items()}
    return {name: known[name] for name in sorted(spread, key=lambda name: -spread[name])[:_MOST_CATEGORIES]}


def _charts(comparison: Comparison, found: Findings, color_of: Mapping[str, int]) -> Iterator[Chart]:
    rows = [model.row for model in comparison.models if model.row.state == EVALUATED]
    timed = [row for row in rows if row.seconds_per_image and comparison.figure(row) is not None]
    if timed:
        yield _speed(comparison, timed, color_of)
    if any(len(curve) > 1 for curve in found.losses.values()):
        values = [value for curve in found.losses.values() for _, value in curve]
        steps = [step for curve in found.losses.values() for step, _ in curve]
        yield Chart("Loss", axis("step", steps), axis("total loss", values, by_powers=True), _lines(found.losses, color_of))
    if found.measured_on_the_way:
        values = [value for curve in found.measured_on_the_way.values() for _, value in curve]
        steps = [step for curve in found.measured_on_the_way.values() for step, _ in curve]
        yield Chart(
            f"{comparison.ranking} on the way",
            axis("step", steps),
            axis(comparison.ranking, values),
            _lines(found.measured_on_the_way, color_of),
        )
    for name, words in (("0.50", "at IoU 0.5"), ("0.50:0.95", "mean over IoU 0.5 to 0.95")):
        curves = {
            model: list(zip(one["recall"], one["precision"][name], strict=True))
            for model, one in found.precision.items()
            if one["precision"][name]
        }
        if curves:
            yield Chart(f"Precision by recall, {words}", Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0), _lines(curves, color_of))


def _speed(comparison: Comparison, timed: Sequence[Row], color_of: Mapping[str, int]) -> Chart:
    dots = [
        Series(
            short_name(row.config),
            color_of[row.config],
            [(1000 * (row.seconds_per_image or 0.0), comparison.figure(row) or 0.0)],
            [row.interval],
        )
        for row in timed
    ]
    times = [1000 * (row.seconds_per_image or 0.0) for row in timed]
    values = [value for row in timed for value in (comparison.figure(row) or 0.0, *(row.interval or ()))]
    title = (
        f"{comparison.ranking} and latency, with 95 % intervals"
        if any(row.interval for row in timed)
        else f"{comparison.ranking} and latency"
    )
    return Chart(
        title,
        axis("ms an image at batch 1, median", times),
        axis(comparison.ranking, values),
        dots,
        is_lines=False,
        note=comparison.timed_on,
    )


def _lines(curves: Mapping[str, Sequence[tuple[float, float]]], color_of: Mapping[str, int]) -> list[Series]:
    return [Series(short_name(name), color_of[name], curve) for name, curve in curves.items()]


def _disputed(comparison: Comparison, found: Findings, models: Mapping[str, ModelDir]) -> tuple[list[Disputed], str]:
    """The disputed images with their pictures, or with none and the reason."""
    if not found.disputed:
        return [], ""
    names = list(comparison.matches)
    matches = comparison.matches[names[0]]
    panels: dict[int, list[Panel]] = {}
    why = ""
    try:
        files = records_of(models[names[0]].evaluation)
        images = [one.image for one in found.disputed]
        panels = dict(side_by_side(matches, images, files, {name: models[name] for name in names}))
    except (UserError, ValueError) as error:
        panels, why = {}, error.message if isinstance(error, UserError) else str(error)
    return [
        Disputed(str(matches.images.file_names[one.image]), one, sentences(one, names, short_name), panels.get(one.image, []))
        for one in found.disputed
    ], why


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    """A difference of APs in hundredths, with its sign."""
    return "" if value is None else f"{100 * value:+.1f}"


def _tick(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e4 else f"{value / 1000:g}k"
