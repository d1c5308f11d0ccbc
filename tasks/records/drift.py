"""How far a split has moved from an earlier one: in its categories, in the sizes of its objects, in the number of them in an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.records.manifest import Manifest
from tasks.records.statistics import SIZES, Statistics, bucket_text, in_buckets

CATEGORIES = "objects by category"
LEAST_DISTANCE = 0.1
_TIMES_CHANCE = 2


@dataclass(frozen=True)
class Share:
    """One group's part of the whole, between 0 and 1, before and after."""

    group: str
    before: float
    after: float


@dataclass(frozen=True)
class Drift:
    """One distribution before and after, over the groups that at least one of the two has.

    `distance` is `jensen_shannon_distance`; `threshold` is what it takes to be told: 0.1, and twice what two samples of this many from
    one and the same distribution are apart by chance.
    """

    what: str
    shares: tuple[Share, ...]
    distance: float
    threshold: float

    @property
    def gone(self) -> tuple[str, ...]:
        return tuple(share.group for share in self.shares if share.before and not share.after)

    @property
    def new(self) -> tuple[str, ...]:
        return tuple(share.group for share in self.shares if share.after and not share.before)

    @property
    def farthest(self) -> Share:
        """The group whose share has changed most."""
        return max(self.shares, key=lambda share: abs(share.after - share.before))

    @property
    def is_worth_telling(self) -> bool:
        """Whether it is farther than the threshold; a category that is gone or new always is."""
        return self.distance >= self.threshold or (self.what == CATEGORIES and bool(self.gone or self.new))


def compare_manifests(before: Manifest, after: Manifest) -> dict[str, tuple[Drift, ...]]:
    """The drift of each split that both have, by its name."""
    return {
        name: compare_statistics(before.splits[name].statistics, split.statistics, before.label_map.names, after.label_map.names)
        for name, split in after.splits.items()
        if name in before.splits
    }


def compare_statistics(
    before: Statistics, after: Statistics, names_before: Mapping[int, str], names_after: Mapping[int, str]
) -> tuple[Drift, ...]:
    """The drift of each distribution that both have. Categories are the same where their names are, whatever their ids."""
    compared = (
        _drift(CATEGORIES, _named(before.objects_per_category, names_before), _named(after.objects_per_category, names_after)),
        _drift("objects by size", before.sizes, after.sizes, order=SIZES.index),
        _drift("images by number of objects", in_buckets(before.objects_per_image), in_buckets(after.objects_per_image), text=bucket_text),
    )
    return tuple(drift for drift in compared if drift is not None)


def jensen_shannon_distance(shares: Iterable[Share]) -> float:
    """From 0, equal, to 1, nothing in common: the root of the divergence in bits (Lin 1991; a metric: Endres and Schindelin 2003)."""
    bits = 0.0
    for share in shares:
        middle = (share.before + share.after) / 2
        bits += sum(part * math.log2(part / middle) for part in (share.before, share.after) if part) / 2
    return math.sqrt(max(bits, 0.0))


def _drift(
    what: str,
    before: Counter[Any],
    after: Counter[Any],
    order: Callable[[Any], Any] | None = None,
    text: Callable[[Any], str] = str,
) -> Drift | None:
    totals = before.total(), after.total()
    if not all(totals):
        return None
    groups = sorted({*before, *after}, key=order)
    shares = tuple(Share(text(group), before[group] / totals[0], after[group] / totals[1]) for group in groups)
    # The divergence of two samples is, but for a factor, a chi-squared statistic of one degree of freedom fewer than there are groups.
    chance = math.sqrt((len(shares) - 1) * (1 / totals[0] + 1 / totals[1]) / (8 * math.log(2)))
    return Drift(what, shares, jensen_shannon_distance(shares), max(LEAST_DISTANCE, _TIMES_CHANCE * chance))


def _named(counts: Mapping[int, int], names: Mapping[int, str]) -> Counter[str]:
    return Counter({names[category_id]: count for category_id, count in counts.items()})
