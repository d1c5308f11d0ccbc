"""The step that says what to do next with the data: labels that all models contradict, and images that would teach most.

    maskline review RUN_OR_MODEL_DIR... --output FOLDER [--split test] [--dataset-yaml DATASET.yaml]

Reads what evaluations of one state of a dataset have left, of two models at least. Writes to the folder `queue.html`, a page that needs
nothing beside it, the surest first, with pictures; the same as `queue.json`; and `corrections.json`, COCO instances JSON of the queue's
images with what is proposed, for CVAT, Label Studio and others. A person reviews it there; `maskline materialize DATASET.yaml --corrections
FILE` lays it over the annotations, and `maskline regrade` says what it gained. With `--dataset-yaml` the file holds the annotations as the
dataset's COCO JSON has them, under their own ids; without it those of the records. Usual runtime: some seconds, and a tenth of one for each
line of the queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.categories import share_categories
from tasks.annotations.corrections import CorrectedSource, Corrections, category_keys
from tasks.annotations.dataset import GivenSplits, HashedSplits, read_dataset_config
from tasks.annotations.recognition import description_of
from tasks.annotations.record_choice import choose
from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.coco.image_opening import opened_image
from tasks.coco.matches import Matches, read_matches
from tasks.comparison.models import models_in, named_models
from tasks.comparison.side_by_side import Panel, records_by_id, records_of
from tasks.comparison.table import short_name
from tasks.data_queue.doubts import KINDS, LOOSE, MARGIN, MISSING, NEAR, SAME, SEEN, UNSEEN, WRONG_CLASS, Doubt, find_doubts
from tasks.data_queue.evaluated import Things, TrueImage, found_things, true_images
from tasks.data_queue.page import Heading, Item, queue_page
from tasks.data_queue.patch import Annotated, as_evaluated, as_in_source, corrections, write_corrections
from tasks.data_queue.pictures import image_panels, place_panels
from tasks.data_queue.screening import Teaching, may_contradict, most_teaching, often_found
from tasks.evaluation.results import MATCHES
from tasks.evaluation.verdicts import incomparable
from tasks.records.features import RecordFeatures
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workspace import ModelDir, StepResult, staged_directory, write_json

PAGE, QUEUE, CORRECTIONS = "queue.html", "queue.json", "corrections.json"
FORMAT_VERSION = 1
_SHOWN_MODELS = 6  # in pictures


@dataclass(frozen=True)
class Options:
    """`sure`: the score from which a model is sure of a detection; how many doubts and images the queue has at most."""

    sure: float = 0.5
    doubts: int = 50
    images: int = 12

    def __post_init__(self) -> None:
        if not SEEN <= self.sure <= 1:
            raise UserError(f"--min-score is {self.sure}", f"give a number from {SEEN} to 1")
        for name in ("doubts", "images"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} is {getattr(self, name)}", "give at least 0")


@dataclass(frozen=True)
class _Found:
    """What was found: doubts by image id, all of them, and of each image that has some or would teach its objects and detections."""

    doubts: Mapping[str, Sequence[Doubt]]
    teaching: Sequence[Teaching]
    images: Mapping[str, TrueImage]
    detections: Mapping[str, Mapping[str, Things]]
    """By image and model"""
    categories: Sequence[Mapping[str, Any]]
    next_id: int


def review(
    folders: Sequence[Path], output: Path, split: str = VAL, options: Options = Options(), dataset_yaml: Path | None = None
) -> StepResult:  # it is frozen
    """Writes the queue to `output`, in place of an earlier one, of the models in some folders, of models or of pipeline runs.

    UserError where fewer than two of them were evaluated on the same, and for a folder that holds something else.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / QUEUE).is_file():
        raise UserError(f"{output} is not empty, and holds no earlier queue", "name a new or empty folder")
    evaluations, matches, left_out = _evaluated(named_models([model for folder in folders for model in models_in(folder)]), split)
    first = next(iter(matches.values()))
    found = _found(evaluations, matches, options)
    annotated = _annotated(found, first, dataset_yaml)
    told = {id(doubt): _why(doubt, found.images[key], found.categories) for key, doubts in found.doubts.items() for doubt in doubts}
    queue = sorted(((key, doubt) for key, doubts in found.doubts.items() for doubt in doubts), key=lambda one: (-one[1].score, one[0]))
    shown = queue[: options.doubts]
    counts = Counter(doubt.kind for _, doubt in queue)
    teaching_why = {one.image: _teaches(one) for one in found.teaching}
    panels, why_none = _pictures(evaluations, found, first, shown)
    notes = [f"left out: {name}, {reason}" for name, reason in left_out.items()]
    notes += [f"There are no pictures: {why_none}."] if why_none else []
    about = {
        "dataset": first.about.get("dataset", ""),
        "dataset_digest": first.about.get("dataset_digest", ""),
        "split": _split_name(split),
    }
    by_image: dict[str, list[Doubt]] = {}
    for key, doubt in shown:
        by_image.setdefault(key, []).append(doubt)
    kept = {key: one for key, one in annotated.images.items() if key in by_image or _index(first, key) in teaching_why}
    content = corrections(
        Annotated(kept, annotated.annotations, annotated.categories, annotated.category_of, annotated.first_new_id, annotated.info),
        by_image,
        told,
        about,
    )
    heading = Heading(
        about["dataset"] or "the dataset",
        about["dataset_digest"],
        about["split"],
        len(first.images),
        [short_name(name) for name in matches],
        options.sure,
        {kind: counts[kind] for kind in KINDS},
        notes,
        _next_steps(dataset_yaml, annotated),
    )
    doubts = [
        Item(doubt.kind, found.images[key].file_name, doubt.score, told[id(doubt)], panels.get(("doubt", place), []))
        for place, (key, doubt) in enumerate(shown)
    ]
    teaching = [
        Item("in doubt", str(first.images.file_names[one.image]), one.score, teaching_why[one.image], panels.get(("image", one.image), []))
        for one in found.teaching
    ]
    limits = {"same": SAME, "near": NEAR, "margin": MARGIN, "seen": SEEN}
    with staged_directory(output) as folder:
        (folder / PAGE).write_text(queue_page(heading, doubts, teaching, limits), encoding="utf-8")
        write_corrections(folder / CORRECTIONS, content)
        write_json(
            folder / QUEUE,
            {
                "format_version": FORMAT_VERSION,
                **about,
                "models": list(matches),
                "left_out": left_out,
                "min_score": options.sure,
                "limits": limits,
                "counts": heading.counts,
                "doubts": [_line(key, doubt, found, told[id(doubt)]) for key, doubt in shown],
                "teaching": [
                    {
                        "image": str(first.images.ids[one.image]),
                        "file_name": str(first.images.file_names[one.image]),
                        "score": one.score,
                        "objects_in_doubt": one.objects,
                        "detections_on_nothing": one.detections,
                    }
                    for one in found.teaching
                ],
            },
        )
    _print(heading, doubts, teaching, output)
    names = {"page": PAGE, "queue": QUEUE, "corrections": CORRECTIONS}
    summary = {
        **about,
        "models": list(matches),
        "doubts": dict(heading.counts),
        "teaching": len(teaching),
        "images": len(content["images"]),
    }
    return StepResult("review", "done", {name: str(output / file) for name, file in names.items()}, summary)


def _split_name(split: str) -> str:
    meaning = split_meaning(split)
    if meaning not in (VAL, TEST):
        raise UserError(f"--split is {split!r}", "use val or test, whichever the models were evaluated on")
    return TEST if meaning == TEST else VAL


def _evaluated(models: Mapping[str, ModelDir], split: str) -> tuple[dict[str, Path], dict[str, Matches], dict[str, str]]:
    """Of the models that were evaluated on the same as the first: folders of evaluations and matches; and why others are left out."""
    is_test = _split_name(split) == TEST
    evaluations: dict[str, Path] = {}
    matches: dict[str, Matches] = {}
    left_out: dict[str, str] = {}
    for name, model in models.items():
        evaluation = model.test_evaluation if is_test else model.evaluation
        try:
            one = read_matches(evaluation / MATCHES)
        except UserError as error:
            left_out[name] = error.message
            continue
        first = next(iter(matches.values()), None)
        reason = None if first is None else incomparable(first, one)
        if reason is None and first is not None and one.kind != first.kind:
            reason = "one has masks and the other has none"
        if reason is not None:
            left_out[name] = f"{reason} ({next(iter(matches))} has the first)"
        else:
            evaluations[name], matches[name] = evaluation, one
    if len(matches) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UserError(
            f"fewer than two models were evaluated on the same images{f' ({reasons})' if reasons else ''}",
            "evaluate another model on the same split of the same dataset: what one model says alone contradicts nothing",
        )
    return evaluations, matches, left_out


def _index(matches: Matches, key: str) -> int:
    return int(np.flatnonzero(matches.images.ids == key)[0])


def _found(evaluations: Mapping[str, Path], matches: Mapping[str, Matches], options: Options) -> _Found:
    first = next(iter(matches.values()))
    able = {str(one) for one in first.images.ids[may_contradict(matches, options.sure)]}
    expected = often_found(matches)
    images, categories = true_images(next(iter(evaluations.values())))
    next_id = 1 + max((one["id"] for image in images.values() for one in image.annotations), default=0)
    detections: dict[str, dict[str, Things]] = {}
    for name, evaluation in evaluations.items():
        for key, one in found_things(evaluation, able, SEEN).items():
            detections.setdefault(key, {})[name] = one
    nothing = Things(np.zeros(0, np.int64), np.zeros((0, 4)), [], np.zeros(0), np.zeros(0, bool))
    starts = np.searchsorted(first.objects.image, np.arange(len(first.images)))
    doubts: dict[str, list[Doubt]] = {}
    for key in sorted(able, key=int):
        found = {name: detections.get(key, {}).get(name, nothing) for name in evaluations}
        start = int(starts[_index(first, key)])
        objects = images[key].objects
        if own := find_doubts(objects, found, options.sure, expected[start : start + len(objects)].tolist()):
            doubts[key] = own
        detections[key] = found
    doubted = np.isin(first.images.ids, list(doubts))
    teaching = most_teaching(matches, doubted, options.images)
    wanted = {str(first.images.ids[one.image]) for one in teaching}
    for name, evaluation in evaluations.items():
        further = found_things(evaluation, wanted, SEEN)
        for key in wanted:
            detections.setdefault(key, {})[name] = further.get(key, nothing)
    kept = {key: one for key, one in images.items() if key in doubts or key in wanted}
    return _Found(doubts, teaching, kept, detections, categories, next_id)


def _annotated(found: _Found, first: Matches, dataset_yaml: Path | None) -> Annotated:
    if dataset_yaml is None:
        return as_evaluated(found.images, found.categories, found.next_id)
    config = read_dataset_config(description_of(dataset_yaml))
    choice = choose(config.options, {})
    split = str(first.about.get("split", VAL))
    if isinstance(config.images, GivenSplits):
        sources, name = config.images.splits, split
    elif isinstance(config.images, HashedSplits):
        sources, name = {config.name: config.images.source}, config.name
    else:
        raise UserError(f"{dataset_yaml} draws its images, and has no annotations", "name the dataset.yaml beside what it has drawn")
    if name not in sources:
        raise UserError(f"{dataset_yaml} has no split `{name}`, which the models were evaluated on", "name the YAML of the same dataset")
    listings = {key: source.list() for key, source in sources.items()}
    labels, label_ids = share_categories({key: listing.categories for key, listing in listings.items()}, choice.categories)
    listed = listings[name].images
    if choice.corrections:
        keys = category_keys(listings[name].categories, label_ids[name], labels)
        listed = Corrections(choice.corrections).laid_over(name, sources[name], listed, keys)
    return as_in_source(found.images, name, CorrectedSource(sources[name]), listed, label_ids[name], listings[name].categories)


def _why(doubt: Doubt, image: TrueImage, categories: Sequence[Mapping[str, Any]]) -> str:
    names = {one["id"]: one["name"] for one in categories}
    label = "" if doubt.object is None else names[int(image.objects.category_ids[doubt.object])]
    if doubt.kind == UNSEEN:
        return f"labelled {label}; no model sees anything there, and of such objects they find {doubt.expected:.0%}"
    seen = names.get(doubt.category_id or 0, f"#{doubt.category_id}")
    least, most = min(doubt.scores.values()), max(doubt.scores.values())
    scored = f"scored {least:.2f} to {most:.2f}" if f"{least:.2f}" != f"{most:.2f}" else f"scored {most:.2f}"
    all_of_them = "both models" if len(doubt.scores) == 2 else f"all {len(doubt.scores)} models"
    if doubt.kind == WRONG_CLASS:
        return f"labelled {label}; {all_of_them} call it {seen} ({scored}), overlapping each other by {doubt.agreement:.2f} or more"
    if doubt.kind == MISSING:
        return f"no label; {all_of_them} see {seen} there ({scored}), overlapping each other by {doubt.agreement:.2f} or more"
    assert doubt.kind == LOOSE
    agree = f"overlap each other by {doubt.agreement:.2f} or more, and the label by {doubt.overlap:.2f} at most"
    return f"labelled {label}; {all_of_them} see it ({scored}), {agree}"


def _teaches(one: Teaching) -> str:
    return f"the models are in doubt about {_counted(one.objects, 'object')}, and have {_counted(one.detections, 'detection')} on nothing"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _pictures(
    evaluations: Mapping[str, Path], found: _Found, first: Matches, shown: Sequence[tuple[str, Doubt]]
) -> tuple[dict[tuple[str, int], list[Panel]], str]:
    """Of each doubt by its place in the queue, and of each image that would teach, by its index; or none, and why."""
    names = {one["id"]: one["name"] for one in found.categories}
    places: dict[str, list[tuple[int, Doubt]]] = {}
    for place, (key, doubt) in enumerate(shown):
        places.setdefault(key, []).append((place, doubt))
    teaching = {str(first.images.ids[one.image]): one.image for one in found.teaching}
    wanted = {*places, *teaching}
    panels: dict[tuple[str, int], list[Panel]] = {}
    progress = Progress("drawn", len(wanted))
    try:
        left = set(wanted)
        for key, record, where in records_by_id(records_of(next(iter(evaluations.values()))), set(wanted)):
            left.discard(key)
            image = found.images[key]
            with opened_image(RecordFeatures.parse(record, where).byte_strings("image/encoded", 1)[0]) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            if pixels.shape[:2] != (image.height, image.width):
                raise UserError(f"{where} is not what was evaluated: the records have changed since", "evaluate the models again")
            of_models = {short_name(name): one for name, one in list(found.detections[key].items())[:_SHOWN_MODELS]}
            for place, doubt in places.get(key, ()):
                panels["doubt", place] = place_panels(pixels, doubt, image.objects, of_models, names)
            if key in teaching:
                panels["image", teaching[key]] = image_panels(pixels, image.objects, of_models, names)
            progress.advance()
        if left:
            raise UserError(f"the records no longer hold image {next(iter(left))}", "evaluate the models again")
    except (UserError, ValueError) as error:
        return {}, error.message if isinstance(error, UserError) else str(error)
    return panels, ""


def _line(key: str, doubt: Doubt, found: _Found, why: str) -> dict[str, Any]:
    names = {one["id"]: one["name"] for one in found.categories}
    image = found.images[key]
    return {
        "kind": doubt.kind,
        "score": doubt.score,
        "image": key,
        "file_name": image.file_name,
        "object": doubt.object,
        "label": None if doubt.object is None else names[int(image.objects.category_ids[doubt.object])],
        "proposed": None if doubt.category_id is None else names.get(doubt.category_id),
        "scores": dict(doubt.scores),
        "agreement": doubt.agreement,
        "overlap": doubt.overlap,
        "why": why,
    }


def _next_steps(dataset_yaml: Path | None, annotated: Annotated) -> list[str]:
    ids = (
        "Its annotations are those of the dataset's COCO JSON, under their own ids."
        if annotated.info
        else "Its annotations are those of the records; with --dataset-yaml they are those of the dataset's COCO JSON, under their own ids."
    )
    return [
        f"Open {CORRECTIONS} in the label tool (COCO instances; images by file names), look at each proposal, keep, change or undo it. "
        + ids,
        f"maskline materialize {dataset_yaml or 'DATASET.yaml'} --corrections REVIEWED.json lays the file over the annotations, and counts "
        "what it replaces, adds and removes. Of an image in the file, what is not in it is removed.",
        "Train on the corrected dataset; maskline regrade OLD_RUN NEW_RUN says what that gained, on the same images and by the same "
        "labels.",
    ]


def _print(heading: Heading, doubts: Sequence[Item], teaching: Sequence[Item], output: Path) -> None:
    for note in heading.notes:
        print(note)
    counts = ", ".join(f"{count} x {kind}" for kind, count in heading.counts.items())
    print(f"{heading.images} images, {len(heading.models)} models: {counts}")
    for item in doubts[:5]:
        print(f"  {item.score:.2f} {item.file_name}: {item.kind}, {item.why}")
    if teaching:
        print(f"and {len(teaching)} images that would teach most, {teaching[0].file_name} first")
    print(f"queue: {output / PAGE}\nfor a label tool: {output / CORRECTIONS}")
