"""What lies behind the figures, for all images and for parts of them, as numbers: everything is derived from the stored matches.

Seven things, each a JSON file and a picture of the same name: `summary` (AP by masks, boundaries and boxes), `categories`, `curves`
(precision by recall), `calibration` (how often a score keeps its word), `confusion` (what is called what), `errors` (`error_split`) and
`operating` (what the operating thresholds do, `thresholds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.figures import RECALLS, Curves, accumulated
from tasks.coco.matches import BOUNDARY, BOX, MASK, Matches, bits
from tasks.coco.matching import AREAS
from tasks.evaluation import analysis_pictures as pictures
from tasks.evaluation.error_split import error_split
from tasks.evaluation.slices import ALL, Slice, slices_of, unsliced, whole
from tasks.evaluation.thresholds import Thresholds, operating
from tasks.running.workspace import staged_directory, write_json

MIN_SCORE = 0.3
"""Of detections in the counts of errors and in the confusion, as in the pictures of images."""
_BINS = 10
_NAMES = {MASK: "mask", BOX: "box", BOUNDARY: "boundary"}
_IOUS = {"0.50": slice(0, 1), "0.75": slice(5, 6), "0.50:0.95": slice(None)}


def write_analysis(matches: Matches, folder: Path, thresholds: Thresholds | None = None) -> list[str]:
    """Writes `analysis/`, and `slices/` with a folder for each attribute, into `folder`, in place of earlier ones.

    The attributes come back; `slices/unsliced.json` names those with too many values.
    """
    attributes = slices_of(matches)
    with staged_directory(folder / "analysis") as staged:
        _write(matches, [whole(matches)], "", staged, thresholds)
    with staged_directory(folder / "slices") as staged:
        for number, (attribute, parts) in enumerate(attributes.items()):
            # A name from a record may be no name of a folder.
            own = staged / _folder_name(attribute, number)
            own.mkdir()
            _write(matches, parts, attribute, own, thresholds)
        write_json(staged / "unsliced.json", unsliced(matches))
    return list(attributes)


def _folder_name(attribute: str, number: int) -> str:
    plain = "".join(character if character.isalnum() or character in "-_" else "_" for character in attribute)
    return plain if plain == attribute else f"{plain}_{number}"


def _write(matches: Matches, parts: Sequence[Slice], attribute: str, folder: Path, thresholds: Thresholds | None) -> None:
    curves = {part.name: {kind: accumulated(matches, kind, part.images) for kind in matches.kinds} for part in parts}
    found: dict[str, dict[str, Any]] = {
        "summary": {part.name: _summary(matches, part, curves[part.name]) for part in parts},
        "categories": {part.name: category_figures(matches, part, curves[part.name]) for part in parts},
        "curves": {part.name: precision_curves(matches, part, curves[part.name][matches.kind]) for part in parts},
        "calibration": {part.name: calibration(matches, part) for part in parts},
        "confusion": {part.name: confusion(matches, part) for part in parts},
        "errors": {part.name: error_split(matches, part, MIN_SCORE) for part in parts},
        "operating": {part.name: operating(matches, part, thresholds) for part in parts},
    }
    draw: Mapping[str, Callable[[Mapping[str, Any], str], bytes]] = pictures.DRAWN
    for name, values in found.items():
        write_json(folder / f"{name}.json", {"attribute": attribute or ALL, "by": _NAMES[matches.kind], "parts": values})
        (folder / f"{name}.png").write_bytes(draw[name](values, attribute))


def _precision(curves: Curves, part: Slice, category: int | slice = slice(None)) -> npt.NDArray[np.float64]:
    """[T, R, K] or [T, R]."""
    precision: npt.NDArray[np.float64] = curves.precision[:, :, category, list(AREAS).index(part.area)]
    return precision


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """None where there is nothing to measure."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _objects(matches: Matches, part: Slice) -> npt.NDArray[np.bool_]:
    chosen: npt.NDArray[np.bool_] = matches.objects.counted(part.area) & part.images[matches.objects.image]
    return chosen


def _summary(matches: Matches, part: Slice, curves: Mapping[str, Curves]) -> dict[str, Any]:
    """How many images and objects there are, and AP, AP50 and AP75 by each kind of overlap."""
    found: dict[str, Any] = {"images": int(part.images.sum()), "objects": int(_objects(matches, part).sum())}
    for kind, own in curves.items():
        precision = _precision(own, part)
        for name, thresholds in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6))):
            found[f"{_NAMES[kind]} {name}"] = _mean(precision[thresholds])
    return found


def category_figures(matches: Matches, part: Slice, curves: Mapping[str, Curves]) -> dict[str, Any]:
    """Of each category how many objects it has, its AP by each kind of overlap, and the share of its objects that is found at IoU 0.5."""
    counts = np.bincount(matches.objects.category[_objects(matches, part)], minlength=len(matches.categories))
    found = {}
    for category, name in enumerate(matches.names):
        recall = curves[matches.kind].recall[0, category, list(AREAS).index(part.area), -1]
        found[name] = {"objects": int(counts[category]), "recall50": float(recall) if recall > -1 else None}
        found[name] |= {f"{_NAMES[kind]} AP": _mean(_precision(own, part, category)) for kind, own in curves.items()}
    return found


def precision_curves(matches: Matches, part: Slice, curves: Curves) -> dict[str, Any]:
    """The precision at each of COCO's 101 recalls: the mean over categories at some IoUs, and each category's at 0.5."""
    precision = _precision(curves, part)
    has_objects = np.array((precision > -1).all(axis=(0, 1)))
    held = precision[:, :, has_objects]
    names = [name for name, kept in zip(matches.names, has_objects, strict=True) if kept]
    return {
        "recall": RECALLS.round(2).tolist(),
        "precision": {name: held[chosen].mean(axis=(0, 2)).round(6).tolist() if names else None for name, chosen in _IOUS.items()},
        "categories": {name: held[0, :, index].round(6).tolist() for index, name in enumerate(names)},
    }


def calibration(matches: Matches, part: Slice) -> dict[str, Any]:
    """How often detections of a score are objects, at IoU 0.5, in ten bins of scores; those on ignored objects are left out.

    `error` is the mean over detections of how far a bin's share of right ones is from its mean score (ECE), `largest` the greatest of
    these distances; None without a detection.
    """
    found, area = matches.detections, list(AREAS).index(part.area)
    hit, out = (bits(packed[matches.kind])[:, area, 0] for packed in (found.hits, found.ignored))
    counts = part.images[found.image] & ~out
    scores, right = found.score[counts], hit[counts]
    places = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    sizes = np.bincount(places, minlength=_BINS)
    bins: list[dict[str, Any]] = []
    for place in range(_BINS):
        inside = places == place
        size = int(sizes[place])
        mean = {"score": float(scores[inside].mean()), "right": float(right[inside].mean())} if size else {"score": None, "right": None}
        bins.append({"from": place / _BINS, "to": (place + 1) / _BINS, "detections": size, **mean})
    distances = [abs(one["score"] - one["right"]) for one in bins if one["detections"]]
    shares = sizes[sizes > 0] / max(len(scores), 1)
    return {
        "bins": bins,
        "error": float(np.dot(distances, shares)) if distances else None,
        "largest": max(distances, default=None),
    }


def confusion(matches: Matches, part: Slice) -> dict[str, Any]:
    """What objects are called: `counts` [K + 1][K + 1], a row for each category of an object and the last for none, a column for each
    category of a detection and the last for none.

    Detections of at least `MIN_SCORE` find the objects that they overlap most, at IoU 0.5, surest first, whatever their categories.
    """
    found, objects, last = matches.detections, matches.objects, len(matches.categories)
    out = bits(found.ignored[matches.kind])[:, list(AREAS).index(part.area), 0]
    to_find = _objects(matches, part)
    sure = part.images[found.image] & (found.score >= MIN_SCORE)
    paired = sure & (found.paired >= 0)
    paired[paired] = to_find[found.paired[paired]]
    alone = sure & (found.paired < 0) & ~out
    counts = np.zeros((last + 1, last + 1), np.int64)
    np.add.at(counts, (objects.category[found.paired[paired]], found.category[paired]), 1)
    np.add.at(counts, (np.full(alone.sum(), last), found.category[alone]), 1)
    missed = to_find.copy()
    missed[found.paired[paired]] = False
    np.add.at(counts, (objects.category[missed], np.full(missed.sum(), last)), 1)
    return {"categories": matches.names, "min_score": MIN_SCORE, "counts": counts.tolist()}
