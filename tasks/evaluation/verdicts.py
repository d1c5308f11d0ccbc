"""Whether a difference between models is real, by how much, and how many images would settle it.

A paired bootstrap over images: the same images are drawn again, with repetition, for every model, and each figure is computed anew from
the stored matches. Of several models all differences are held to one error: an interval is as wide as the largest of them needs (max-T,
Westfall and Young 1993). Where models were trained several times, what another seed would change enters too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.coco.bootstrap import drawn_again, resampled_precision
from tasks.coco.matches import BOUNDARY, BOX, MASK, Matches
from tasks.running.errors import UserError

Floats = npt.NDArray[np.float64]

FIGURES = {MASK: "mask AP", BOX: "box AP", BOUNDARY: "boundary AP"}
RESAMPLES = 1000
FEWEST_IMAGES = 10
"""With fewer a resample is hardly another one, and the bootstrap finds differences that are none."""

_CONFIDENCE, _NORMAL = 0.95, 1.96
_POWER = 0.84
"""Standard errors by which a difference has to be beyond the interval's end to be shown four times out of five."""
_POINT = 0.01


@dataclass(frozen=True)
class Contender:
    """A model, by the matches of each of its trainings: of one, or of several with different seeds."""

    name: str
    runs: tuple[Matches, ...]


@dataclass(frozen=True)
class Standing:
    """A model's figure, the mean over its trainings, and where it is in 95 % of the resamples; `spread`: standard deviation over seeds."""

    name: str
    value: float
    interval: tuple[float, float]
    trainings: int
    spread: float | None


@dataclass(frozen=True)
class Verdict:
    """What is known of `first` minus `second`. All figures are AP from 0 to 1.

    `interval` holds the true difference, together with the intervals of all other pairs, in 95 % of all data sets. `probability` is the
    share of resamples in which the difference is above zero, equal ones by half. `detectable` is the difference that would be shown on as
    many images four times out of five, and `more_images` how many more would bring that to one point: None where it is there already, or
    no number of images would.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    probability: float
    detectable: float
    more_images: int | None
    remark: str
    """What a sentence on the two ends with"""

    @property
    def shown(self) -> bool:
        """Whether there is a difference at all."""
        return self.interval[0] > 0 or self.interval[1] < 0

    def sentence(self, name: Callable[[str], str] = str) -> str:
        """What is known, in words, of models by the names that `name` makes of theirs."""
        first, second = name(self.first), name(self.second)
        if self.shown:
            better, worse = (first, second) if self.difference > 0 else (second, first)
            return f"{better} is better than {worse} {self.remark}"
        return f"no difference shown between {first} and {second}{self.remark}"


@dataclass(frozen=True)
class Verdicts:
    """Of models, best figure first, and of each pair of them in that order."""

    figure: str
    images: int
    resamples: int
    standings: tuple[Standing, ...]
    pairs: tuple[Verdict, ...]

    def between(self, first: str, second: str) -> Verdict:
        """The pair's, in whichever order it stands."""
        return next(pair for pair in self.pairs if {pair.first, pair.second} == {first, second})


def incomparable(one: Matches, other: Matches) -> str | None:
    """Why two evaluations cannot be compared, None where they can."""
    for name, what in (("dataset_digest", "state of the data set"), ("split", "split")):
        if one.about.get(name) != other.about.get(name):
            return f"another {what}: {_short(one.about.get(name))} and {_short(other.about.get(name))}"
    if one.categories != other.categories:
        names = sorted(set(one.names) ^ set(other.names))
        return f"other categories: {', '.join(names[:5]) or 'the same names under other ids'}"
    if one.images.ids.tolist() != other.images.ids.tolist() or one.images.file_names.tolist() != other.images.file_names.tolist():
        return "other images"
    if not all(np.array_equal(getattr(one.objects, name), getattr(other.objects, name)) for name in ("image", "category", "area", "crowd")):
        return "other objects on the same images"
    return None


def verdicts(
    contenders: Sequence[Contender], kind: str | None = None, resamples: int = RESAMPLES, seed: int = 0, target: float = _POINT
) -> Verdicts:
    """What the images say of the models, by the AP of one kind of overlap, by default the one that ranks.

    `target`: the difference that one would like to see, for which more images are counted. UserError where there is nothing to compare,
    and where the models were not measured on the same.
    """
    runs = [run for contender in contenders for run in contender.runs]
    if len(contenders) < 2 or not all(contender.runs for contender in contenders):
        raise UserError("there are no two evaluated models", "name several, and evaluate them first")
    for contender in contenders:
        for run in contender.runs:
            if (reason := incomparable(runs[0], run)) is not None:
                raise UserError(
                    f"{contenders[0].name} and {contender.name} were measured on different things, {reason}",
                    "evaluate them on the same split of the same data set",
                )
    kind = kind or runs[0].kind
    if not all(kind in run.kinds for run in runs):
        raise UserError(f"not all models have a {FIGURES[kind]}", "compare them by their boxes")
    images = len(runs[0].images)
    if not runs[0].objects.counted().any():
        raise UserError("the images hold no object to find", "evaluate on images with objects")
    weights = np.concatenate([np.ones((1, images), np.int64), drawn_again(images, resamples, seed)])
    # The first column is the figure itself.
    figures = [np.stack([resampled_precision(run, weights, kind) for run in contender.runs]) for contender in contenders]
    drawn = ~np.isnan(figures[0][0])
    figures = [of_runs[:, drawn] for of_runs in figures]
    seeds = _Seeds.of([of_runs[:, 0] for of_runs in figures])
    order = sorted(range(len(contenders)), key=lambda index: -figures[index][:, 0].mean())
    random = np.random.default_rng([seed, 1])
    values = {index: of_runs[:, 0].mean() for index, of_runs in enumerate(figures)}
    resampled = {index: of_runs[:, 1:].mean(axis=0) for index, of_runs in enumerate(figures)}
    seeded = {index: one + seeds.draws(len(figures[index]), one.size, random) for index, one in resampled.items()}
    pairs = list(itertools.combinations(order, 2))
    differences = {(a, b): seeded[a] - seeded[b] for a, b in pairs}
    errors = {pair: float(np.std(one, ddof=1)) * _for_few(images) for pair, one in differences.items()}
    critical = _critical({(a, b): differences[a, b] - (values[a] - values[b]) for a, b in pairs}, errors)
    told = []
    for a, b in pairs:
        names, value = (contenders[a].name, contenders[b].name), values[a] - values[b]
        reach = critical * errors[a, b]
        interval = (value - reach, value + reach)
        if images < FEWEST_IMAGES:
            interval = (min(interval[0], 0.0), max(interval[1], 0.0))
        detectable = (critical + _POWER) * errors[a, b]
        of_seeds = (critical + _POWER) * seeds.error(len(figures[a]), len(figures[b]))
        more = _more_images(images, detectable, of_seeds, target)
        probability = float(np.mean(differences[a, b] > 0) + np.mean(differences[a, b] == 0) / 2)
        remark = _remark(interval, images, detectable, of_seeds, more, target)
        told.append(Verdict(*names, value, interval, probability, detectable, more, remark))
    standings = [
        Standing(
            contenders[index].name,
            values[index],
            tuple(np.quantile(seeded[index], ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)).tolist()),
            len(figures[index]),
            float(np.std(figures[index][:, 0], ddof=1)) if len(figures[index]) > 1 else None,
        )
        for index in order
    ]
    return Verdicts(FIGURES[kind], images, resamples, tuple(standings), tuple(told))


def paired_interval(first: Floats, second: Floats, images: int) -> tuple[float, tuple[float, float]]:
    """The difference of two models' figures, `first` minus `second`, and the interval that holds it in 95 % of all data sets.

    Each is [1 + resamples]: the figure itself, and those of resamples of `images` images; NaN where there is none.
    """
    drawn = ~(np.isnan(first) | np.isnan(second))
    difference = (first - second)[drawn]
    value, resampled = float(difference[0]), difference[1:]
    error = {(0, 1): float(np.std(resampled, ddof=1)) * _for_few(images)}
    reach = _critical({(0, 1): resampled - value}, error) * error[0, 1]
    return value, (value - reach, value + reach)


@dataclass(frozen=True)
class _Seeds:
    """How far trainings that differ by their seed alone lie apart: the pooled variance, and its degrees of freedom, none for unknown.

    It is taken for the same in all models, those with one training too.
    """

    variance: float
    freedom: int

    @classmethod
    def of(cls, values: Sequence[Floats]) -> _Seeds:
        """From the figures of each model's trainings."""
        freedom = sum(len(one) - 1 for one in values)
        squares = sum(float(((one - one.mean()) ** 2).sum()) for one in values)
        return cls(squares / freedom if freedom else 0.0, freedom)

    def draws(self, trainings: int, size: int, random: np.random.Generator) -> Floats | float:
        """What other seeds would have added to the mean of so many trainings."""
        if not self.freedom:
            return 0.0
        # Student's, as the variance is known from a few trainings alone.
        drawn: Floats = random.standard_t(self.freedom, size) * math.sqrt(self.variance / trainings)
        return drawn

    def error(self, *trainings: int) -> float:
        """Of the difference of two means."""
        return math.sqrt(sum(self.variance / number for number in trainings))


def _for_few(images: int) -> float:
    """By how much the bootstrap's error is too small with few images: as a mean's variance, and the normal's quantile beside Student's."""
    freedom = max(images - 1, 1)
    return math.sqrt((freedom + 1) / freedom) * (1 + (_NORMAL**2 + 1) / (4 * freedom))


def _critical(deviations: dict[tuple[int, int], Floats], errors: dict[tuple[int, int], float]) -> float:
    """By how many standard errors the largest of all deviations is passed in one resample of twenty."""
    studentized = [np.abs(deviations[pair]) / np.std(deviations[pair], ddof=1) for pair, error in errors.items() if error > 0]
    return float(np.quantile(np.max(studentized, axis=0), _CONFIDENCE)) if studentized else 0.0


def _more_images(images: int, detectable: float, of_seeds: float, target: float) -> int | None:
    if detectable <= target or of_seeds >= target:
        return None
    # What the images leave open shrinks with their number, what the seeds do does not.
    needed = images * (detectable**2 - of_seeds**2) / (target**2 - of_seeds**2)
    return _rounded(needed - images)


def _rounded(number: float) -> int:
    """To two digits, upwards: more would claim more than is known."""
    unit = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / unit) * unit


def _remark(interval: tuple[float, float], images: int, detectable: float, of_seeds: float, more: int | None, target: float) -> str:
    low, high = interval
    if low > 0 or high < 0:
        least, most = sorted((abs(low), abs(high)))
        return f"by {_points(least)} to {_points(most)} points"
    if images < FEWEST_IMAGES:
        return f": fewer than {FEWEST_IMAGES} images show none"
    if detectable == 0:
        return ": they are alike on every image"
    words = f"; with these {images} images {_points(detectable)} points can be shown"
    if more is not None:
        return f"{words}; label about {more} more to show {100 * target:g}"
    if of_seeds >= target:
        return f"{words}, and no number of images shows {100 * target:g}: train more seeds"
    return words


def _points(value: float) -> str:
    """Hundredths of AP; with another digit where one would hide what there is."""
    points = 100 * value
    return f"{points:.1f}" if points >= 0.1 else f"{points:.2f}"


def _short(value: object) -> str:
    return str(value)[:12]
