"""The rules of a policy, each with its ruling and what it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.annotations.split_names import TEST
from tasks.coco.figures import PREFIXES, SUMMARY_NAMES
from tasks.coco.matches import Matches
from tasks.evaluation.verdicts import FIGURES, Contender, verdicts
from tasks.promotion.differences import Difference, by_category, by_slice
from tasks.promotion.policy import Policy
from tasks.tracking.registry import Version

_NAMED = 3
_GB = 1e9


@dataclass(frozen=True)
class Measured:
    """A version of the registered model, and what was found of it on one state of the data."""

    version: Version
    matches: Matches


@dataclass(frozen=True)
class Challenger(Measured):
    """`metrics` are `metrics.json` of the evaluation; `records_now` is the digest of the dataset as it lies there today, None unknown;
    `content_digest` that of the files that the registry hands out; `decided` how often the same records have decided before."""

    metrics: Mapping[str, Any]
    records_now: str | None
    content_digest: str
    decided: int


@dataclass(frozen=True)
class Ruling:
    """`numbers` are what it rests on, by name."""

    rule: str
    passed: bool
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def rulings(policy: Policy, challenger: Challenger, champion: Measured | None) -> list[Ruling]:
    """Of each rule that the policy asks for, in a fixed order. Without a champion the rules that compare pass, and say so."""
    asked: list[tuple[bool, Callable[[], Ruling]]] = [
        (policy.split_chose_nothing, lambda: _split_chose_nothing(challenger)),
        (policy.data_known, lambda: _data_known(challenger)),
        (policy.export_agrees, lambda: _export_agrees(challenger)),
        (policy.least_ap is not None, lambda: _least_ap(policy.least_ap or 0.0, challenger)),
        (policy.most_seconds_per_image is not None, lambda: _latency(policy.most_seconds_per_image or 0.0, challenger)),
        (policy.most_memory_gb is not None, lambda: _memory(policy.most_memory_gb or 0.0, challenger)),
        (policy.least_probability_better is not None, lambda: _better(policy.least_probability_better or 0.0, challenger, champion)),
        (
            policy.margin_by_category is not None,
            lambda: _margin("margin_by_category", "category", policy.margin_by_category or 0.0, policy, challenger, champion, by_category),
        ),
        (
            policy.margin_by_slice is not None,
            lambda: _margin("margin_by_slice", "slice", policy.margin_by_slice or 0.0, policy, challenger, champion, by_slice),
        ),
    ]
    return [rule() for is_asked, rule in asked if is_asked]


def _split_chose_nothing(challenger: Challenger) -> Ruling:
    split = str(challenger.matches.about.get("split"))
    before = f"; these records have decided {challenger.decided} times before" if challenger.decided else ""
    if split == TEST:
        return Ruling("split_chose_nothing", True, f"the figures are of the split {TEST}, by which nothing was chosen{before}")
    return Ruling("split_chose_nothing", False, f"the figures are of the split {split}, by which checkpoints and models are chosen")


def _data_known(challenger: Challenger) -> Ruling:
    evaluated, trained = challenger.metrics.get("dataset_digest"), challenger.version.tags.get("trained_on")
    name = challenger.metrics.get("dataset", "")
    if not evaluated or challenger.matches.about.get("dataset_digest") != evaluated:
        return Ruling("data_known", False, "the evaluation does not say which state of the dataset it was made on")
    if not trained:
        return Ruling("data_known", False, "nothing says which state of the dataset the model was trained on")
    if challenger.records_now not in (None, evaluated):
        return Ruling(
            "data_known", False, f"{name} was {evaluated[:12]} when the model was evaluated, and is {str(challenger.records_now)[:12]} now"
        )
    same = "the same" if trained == evaluated else trained[:12]
    remark = "" if challenger.records_now else "; the dataset is not where it was, and was not looked at"
    return Ruling("data_known", True, f"evaluated on {name} {evaluated[:12]}, trained on {same}{remark}")


def _export_agrees(challenger: Challenger) -> Ruling:
    tags = challenger.version.tags
    check = json.loads(tags.get("export_check", "null"))
    if check is None:
        return Ruling("export_agrees", False, "the registered model was never held against its checkpoint")
    if challenger.content_digest != tags.get("content_digest"):
        return Ruling("export_agrees", False, "the files in the registry are not those that were held against the checkpoint")
    told = f"{check['agreeing']} of {check['detections']} detections on {check['images']} images are the checkpoint's"
    numbers = {name: float(check[name]) for name in ("agreeing", "detections", "score_difference", "box_difference", "least_mask_iou")}
    return Ruling("export_agrees", bool(check["agrees"]) and check["detections"] > 0, told, numbers)


def _least_ap(least: float, challenger: Challenger) -> Ruling:
    kind = challenger.matches.kind
    value = challenger.metrics["metrics"].get(f"{PREFIXES[kind]}{SUMMARY_NAMES[0]}")
    if value is None:
        return Ruling("least_ap", False, "nothing was measured: the records hold no object to find")
    return Ruling("least_ap", value >= least, f"{FIGURES[kind]} is {value:.4f}, at least {least:g} is asked", {"ap": value})


def _latency(most: float, challenger: Challenger) -> Ruling:
    timed = challenger.metrics.get("latency")
    if not timed:
        return Ruling("most_seconds_per_image", False, "the evaluation has measured no latency")
    value = timed["seconds_per_image"]["1"]["p95"]
    where = f"on {timed['device']}, {timed['machine']}, at {timed['image_size'][0]} x {timed['image_size'][1]} pixels"
    evidence = f"95 of 100 images within {value:.3g} s {where}; at most {most:g} s are asked"
    return Ruling("most_seconds_per_image", value <= most, evidence, {"seconds_per_image_p95": value})


def _memory(most: float, challenger: Challenger) -> Ruling:
    held = (challenger.metrics.get("latency") or {}).get("peak_memory")
    if not held:
        return Ruling("most_memory_gb", False, "the evaluation has measured no memory")
    value = held["bytes"] / _GB
    evidence = f"{value:.2f} GB were held, of the {held['of']}; at most {most:g} GB are asked"
    return Ruling("most_memory_gb", value <= most, evidence, {"peak_memory_gb": value})


def _better(least: float, challenger: Challenger, champion: Measured | None) -> Ruling:
    if champion is None:
        return Ruling("least_probability_better", True, "there is no champion yet")
    names = f"challenger, {challenger.version}", f"champion, {champion.version}"
    found = verdicts([Contender(names[0], (challenger.matches,)), Contender(names[1], (champion.matches,))])
    pair = found.between(*names)
    sign = 1.0 if pair.first == names[0] else -1.0
    probability = pair.probability if sign > 0 else 1 - pair.probability
    difference, ends = sign * pair.difference, sorted(sign * end for end in pair.interval)
    evidence = (
        f"{found.figure} {difference:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f}) on {found.images} images, better with probability "
        f"{probability:.3f}, at least {least:g} is asked: {pair.sentence()}"
    )
    numbers = {"difference": difference, "difference_low": ends[0], "difference_high": ends[1], "probability_better": probability}
    return Ruling("least_probability_better", probability >= least, evidence, numbers)


def _margin(
    rule: str,
    part: str,
    margin: float,
    policy: Policy,
    challenger: Challenger,
    champion: Measured | None,
    differences: Callable[[Matches, Matches, int], list[Difference]],
) -> Ruling:
    if champion is None:
        return Ruling(rule, True, "there is no champion yet")
    found = differences(challenger.matches, champion.matches, policy.fewest_objects)
    judged = [one for one in found if one.interval is not None]
    worse = [one for one in judged if one.interval is not None and one.interval[0] < -margin]
    left = [one for one in found if one.interval is None]
    told = f"{len(judged) - len(worse)} of {len(judged)} are shown to be no more than {margin:g} below the champion's"
    told += _list("; not", worse) if worse else _list("; the nearest", judged[:1])
    told += _list(f"; with fewer than {policy.fewest_objects} objects or too few images", left)
    if not judged:
        return Ruling(rule, False, f"no {part} has enough objects to judge{_list('', left)}")
    numbers = {f"{part}/{one.where}": one.value for one in found}
    return Ruling(rule, not worse, told, numbers)


def _list(before: str, some: list[Difference]) -> str:
    if not some:
        return ""
    more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
    return f"{before}: {', '.join(map(str, some[:_NAMED]))}{more}"
