"""What corrected labels gained: models from before and from after, on the same images, by the same labels.

Figures by different labels cannot be compared: a model may look better because the labels of the validation images became right, and not
because it learnt more. So the stored detections of the model from before are graded anew by the labels that the other was evaluated by,
on the images that both have; no network runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.annotations.split_names import TEST
from tasks.coco.figures import PREFIXES, SUMMARY_NAMES, figures
from tasks.coco.matches import Matches
from tasks.comparison.models import models_in, named_models
from tasks.data_queue.regraded import Graded, LabelChange, graded, label_change
from tasks.evaluation.verdicts import FIGURES, Contender, Verdict, verdicts
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, read_json


def gains(before: Path, after: Path, split: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What is told of each model in the second folder, `sentences` for people among it; and the models that only one of two runs has.

    UserError where the two have no image or no class in common, and for runs without models of the same names.
    """
    pairs, left_out = _pairs(before, after)
    told = []
    for old, new in pairs:
        named = named_models([old, new])
        if len(named) < 2:
            raise UserError(f"{before} and {after} are one model", "name the model from before the correction, and one from after")
        told.append(_regraded(named, split))
    return told, left_out


def _pairs(before: Path, after: Path) -> tuple[list[tuple[ModelDir, ModelDir]], list[str]]:
    """The two models, or those of two runs that have the same names; and the names that only one of the runs has."""
    old, new = models_in(before), models_in(after)
    if len(old) == len(new) == 1:
        return [(old[0], new[0])], []
    of_name = {one.name: one for one in old}
    pairs = [(of_name[one.name], one) for one in new if one.name in of_name]
    if not pairs:
        raise UserError(
            f"no model of {after} has the name of one of {before}: {', '.join(one.name for one in new)}, and {', '.join(of_name)}",
            "name two models instead",
        )
    return pairs, sorted({*of_name} ^ {one.name for one in new})


def _regraded(named: Mapping[str, ModelDir], split: str) -> dict[str, Any]:
    """What is told of two models by their names, the one from before first."""
    (old_name, old), (new_name, new) = named.items()
    folders = [model.test_evaluation if split == TEST else model.evaluation for model in (old, new)]
    digests = [str(read_json(folder / "metrics.json").get("dataset_digest", "")) for folder in folders]
    earlier, later = (Graded.of(folder) for folder in folders)
    names = [name for name in later.images if name in earlier.images]
    if not names:
        raise UserError(f"{old_name} and {new_name} were evaluated on no image of the same name", "evaluate both on the same images")
    for name in names:
        sizes = [(one.images[name].height, one.images[name].width) for one in (earlier, later)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{name} is another image in each of the two: {sizes[0]} and {sizes[1]} pixels", "evaluate both on the same images"
            )
    if not {name for _, name in earlier.categories} & {name for _, name in later.categories}:
        raise UserError(f"{old_name} and {new_name} have no class in common", "name models of the same data")
    change = label_change(earlier, later, names)
    about = {"dataset_digest": digests[1], "split": split}
    by_old, by_new, of_new = (
        graded(detections, labels, names, about) for detections, labels in ((earlier, earlier), (earlier, later), (later, later))
    )
    kind = by_new.kind if by_new.kind in of_new.kinds else of_new.kind
    verdict = verdicts([Contender(old_name, (by_new,)), Contender(new_name, (of_new,))], kind).between(old_name, new_name)
    values = {
        "before_by_old_labels": _ap(by_old, kind),
        "before_by_new_labels": _ap(by_new, kind),
        "after_by_new_labels": _ap(of_new, kind),
    }
    left_out = {old_name: len(earlier.images) - len(names), new_name: len(later.images) - len(names)}
    lines = _lines(old_name, new_name, change, values, verdict, FIGURES[kind], left_out, is_same=digests[0] == digests[1])
    return {
        "before": old_name,
        "after": new_name,
        "dataset_digests": digests,
        "labels": asdict(change),
        "figure": FIGURES[kind],
        **values,
        "shown": bool(verdict.shown),
        "verdict": asdict(verdict),
        "sentences": lines,
    }


def _ap(matches: Matches, kind: str) -> float | None:
    value = figures(matches)[PREFIXES[kind] + SUMMARY_NAMES[0]]
    return value if value >= 0 else None


def _lines(
    old: str,
    new: str,
    change: LabelChange,
    values: Mapping[str, float | None],
    verdict: Verdict,
    figure: str,
    left_out: Mapping[str, int],
    *,
    is_same: bool,
) -> list[str]:
    images = f"{change.images} image{'s' * (change.images != 1)}"
    lines = []
    if is_same:
        lines.append(f"both were evaluated on the same state of the dataset: {images}, and the labels are the same")
    else:
        lines.append(
            f"of {images}, {change.changed_images} have other labels now; objects: {change.replaced} replaced, {change.added} added, "
            f"{change.removed} removed, {change.unchanged} as they were"
        )
        by_old, by_new = (_told(values[f"before_by_{which}_labels"]) for which in ("old", "new"))
        lines.append(
            f"{old}: {figure} {by_old} by the old labels, {by_new} by the new: what the labels of these images do alone, with the same "
            "detections"
        )
    lines.append(f"{new}: {figure} {_told(values['after_by_new_labels'])} by the new labels, {_points(values)} {old} has by the same")
    lines.append(verdict.sentence())
    if change.changed_images:
        lines.append("Labels that were corrected where models contradicted them are right there; what all models miss is still in them.")
    lines.append("Each model was trained once: what another seed would change is not in it.")
    lines += [f"left out: {count} images that only {name} was evaluated on" for name, count in left_out.items() if count]
    return lines


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(values: Mapping[str, float | None]) -> str:
    before, after = values["before_by_new_labels"], values["after_by_new_labels"]
    if before is None or after is None:
        return "beside what"
    if before == after:
        return "just what"
    return f"{abs(100 * (after - before)):.1f} points {'more' if after > before else 'less'} than"
