"""What evaluation costs beside pycocotools, and pasting masks beside Model Garden's way and the original's, side by side in one run.

    python -m benchmarks.evaluation [--images 1000] [--repeats 3] [--workers N] [--memory] [--verdicts]

Made-up images of 640 x 480 with 100 detections each. Both must give the same figures and curves, and pasting the original's codes.
`--memory` instead evaluates 5,000 images as `maskline evaluate` does after its network, records and files included, and tells the peak;
`--verdicts` instead asks which of two models is better on 5,000 images. Prints Markdown tables of medians, and whether they reach their
goals. Usual runtime on two cores: two minutes; with `--memory` ten, with `--verdicts` one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measured import cost_of
from tasks.coco.figures import accumulated, figures, summary
from tasks.coco.matches import BOX, MASK, ImageFound, ImageTruth, Matches, joined, match_image, read_matches
from tasks.coco.paste import paste_masks
from tasks.evaluation.image_results import Job, NetworkOutput, Settings, image_result
from tasks.evaluation.parts import Parts
from tasks.evaluation.results import MATCHES, measured, write_results
from tasks.evaluation.verdicts import Contender, verdicts
from tasks.records.annotated_image import AnnotatedImage, Category, Instance
from tasks.records.example import build_example
from tasks.records.image_file import EncodedImage
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import read_shard, write_shard
from tasks.running.workers import Workers

HEIGHT, WIDTH, CATEGORIES, DETECTIONS = 480, 640, 80, 100
MANY_IMAGES = 5000
_OBJECTS = 9.5  # of an image, on average
_PASTED = 100
_PASTINGS = 5  # for each repeat
_LARGE = (800, 1333)


def shapes(random: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Centre and radius of objects of COCO's sizes, [count, 3], pixels."""
    radius = np.minimum(22 * np.exp(random.normal(size=count)), 200)
    return np.stack([random.uniform(0, HEIGHT, count), random.uniform(0, WIDTH, count), radius], axis=1)


def outlines(random: np.random.Generator, some: npt.NDArray[np.float64]) -> list[Any]:
    """Masks of star-shaped outlines around these."""
    angles = np.sort(random.uniform(0, 2 * np.pi, (len(some), 12)))
    distance = some[:, 2:] * random.uniform(0.7, 1.3, angles.shape)
    x = np.clip(some[:, 1:2] + np.cos(angles) * distance, 0, WIDTH - 1)
    y = np.clip(some[:, :1] + np.sin(angles) * distance, 0, HEIGHT - 1)
    return list(coco_mask.frPyObjects(np.stack([x, y], axis=2).reshape(len(some), -1).tolist(), HEIGHT, WIDTH)) if len(some) else []


def objects_and_detections(images: int) -> Iterator[tuple[list[Any], npt.NDArray[np.int64], list[Any], npt.NDArray[np.int64]]]:
    """Of each image masks and categories of what is there and of what was found: half of it on an object, a fifth of that misnamed."""
    for image in range(images):
        random = np.random.default_rng(image)
        there = shapes(random, random.poisson(_OBJECTS))
        masks = outlines(random, there)
        kept = [index for index, mask in enumerate(masks) if coco_mask.area(mask)]
        there, masks = there[kept], [masks[index] for index in kept]
        categories = random.integers(0, CATEGORIES, len(there))
        found, named = shapes(random, DETECTIONS), random.integers(0, CATEGORIES, DETECTIONS)
        if len(there):
            near = random.integers(0, len(there), DETECTIONS // 2)
            found[: len(near)] = there[near] * [1, 1, 1] + random.normal(0, 0.15, (len(near), 3)) * there[near, 2:]
            found[: len(near), 2] = np.maximum(found[: len(near), 2], 1)
            right = random.random(len(near)) > 0.2
            named[: len(near)][right] = categories[near][right]
        yield masks, categories, outlines(random, found), named


def coco_files(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and mask results in COCO's formats."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (masks, categories, found, named) in enumerate(objects_and_detections(images), start=1):
        random = np.random.default_rng(image)
        for mask, category in zip(masks, categories.tolist(), strict=True):
            crowd = int(random.random() < 0.01)
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": category + 1, "segmentation": mask, "iscrowd": crowd}
            annotations.append(entry | {"area": float(coco_mask.area(mask)), "bbox": coco_mask.toBbox(mask).tolist()})
        for mask, category, score in zip(found, named.tolist(), random.random(len(found)).tolist(), strict=True):
            results.append({"image_id": image, "category_id": category + 1, "score": score, "segmentation": mask})
    entries = [{"id": image, "height": HEIGHT, "width": WIDTH, "file_name": f"{image}.jpg"} for image in range(1, images + 1)]
    kinds = [{"id": number, "name": name} for number, name in names()]
    return {"images": entries, "categories": kinds, "annotations": annotations}, results


@cache
def names() -> tuple[tuple[int, str], ...]:
    return tuple((number, f"thing {number}") for number in range(1, CATEGORIES + 1))


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


Entries = tuple[Mapping[str, Any], list[Any], list[Any]]


def by_image(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Entries]:
    """Each image with its objects and detections."""
    objects: dict[int, list[Any]] = {image["id"]: [] for image in truth["images"]}
    found: dict[int, list[Any]] = {image["id"]: [] for image in truth["images"]}
    for entries, held in ((truth["annotations"], objects), (results, found)):
        for entry in entries:
            held[entry["image_id"]].append(entry)
    return [(image, objects[image["id"]], found[image["id"]]) for image in truth["images"]]


def pair_of(entries: Entries) -> tuple[ImageTruth, ImageFound]:
    """The same as our evaluation has it."""
    image, there, detected = entries
    masks = [entry["segmentation"] for entry in detected]
    truth = ImageTruth(
        str(image["id"]),
        image["file_name"],
        HEIGHT,
        WIDTH,
        np.array([entry["bbox"] for entry in there], np.float64).reshape(-1, 4),
        np.array([entry["category_id"] - 1 for entry in there], np.int32),
        np.array([entry["area"] for entry in there], np.float64),
        np.array([entry["iscrowd"] for entry in there], bool),
        [entry["segmentation"] for entry in there],
    )
    found = ImageFound(
        coco_mask.toBbox(masks).reshape(-1, 4),
        np.array([entry["category_id"] - 1 for entry in detected], np.int32),
        np.array([entry["score"] for entry in detected], np.float64),
        masks,
    )
    return truth, found


def matched(kinds: tuple[str, ...] | None, entries: Entries) -> Matches:
    return match_image(*pair_of(entries), names(), kinds)


def by_us(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], workers: Workers, kinds: tuple[str, ...] | None) -> Matches:
    parts = list(workers.map(partial(matched, kinds), by_image(truth, results)))
    matches = joined(parts, [image["id"] for image in truth["images"]], {})
    for kind in matches.kinds:
        summary(accumulated(matches, kind))
    return matches


def compare_engines(images: int, repeats: int, count: int) -> Iterator[str]:
    """Rows of the table. CPU seconds are of one process, and tell more where a machine has other work."""
    truth, results = coco_files(images)
    kinds: dict[str, tuple[str, ...] | None] = {"masks": (MASK,), "masks and boxes": (MASK, BOX), "masks, boxes and boundaries": None}
    spent: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with Workers(count, __name__) as several, Workers(1, __name__) as one:
        for _ in range(repeats):
            own = copy.deepcopy(truth), copy.deepcopy(results)  # pycocotools writes into them
            expected, cost = timed(partial(by_pycocotools, *own))
            spent.setdefault(("pycocotools, masks", 1), []).append(cost)
            for name, some in kinds.items():
                for workers in (one, several):
                    matches, cost = timed(partial(by_us, truth, results, workers, some))
                    spent.setdefault((f"ours, {name}", workers.count), []).append(cost)
                    curves = accumulated(matches)
                    np.testing.assert_array_equal(curves.precision, expected.eval["precision"][..., -1])
                    np.testing.assert_array_equal(summary(curves), expected.stats)
    wall, cpu = (statistics.median(values) for values in zip(*spent["pycocotools, masks", 1], strict=True))
    for (name, processes), costs in spent.items():
        own_wall, own_cpu = (statistics.median(values) for values in zip(*costs, strict=True))
        told = f"{own_cpu:.2f} | {cpu / own_cpu:.1f}" if processes == 1 else "- | -"
        yield f"| {name} | {processes} | {own_wall:.2f} | {wall / own_wall:.1f} | {told} |"
    ratio = wall / statistics.median(own_wall for own_wall, _ in spent["ours, masks", several.count])
    yield beside_goal("times pycocotools' speed by the clock, masks", ratio, least=10)


def beside_goal(what: str, value: float, *, least: float | None = None, most: float | None = None) -> str:
    """A line below a table: what was to be reached, and whether it was."""
    is_met = (least is None or value >= least) and (most is None or value <= most)
    asked = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return f"\ngoal, {asked} {what}: {value:.3g}, {'met' if is_met else 'MISSED'}"


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What work gives, and its seconds by the clock and of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, (time.perf_counter() - wall, time.process_time() - cpu)


def original_codes(masks: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> list[Any]:
    """The original's operations: every mask sampled on the whole image."""
    import tensorflow as tf

    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(1e-4))
    image_in_box = np.concatenate([(0 - boxes[:, :2]) / extent, (1 - boxes[:, :2]) / extent], axis=1)
    sampled = tf.image.crop_and_resize(masks[..., None], image_in_box, np.arange(len(masks)), _LARGE).numpy()[..., 0]
    return list(coco_mask.encode(np.asfortranarray((sampled > 0.5).astype(np.uint8).transpose(1, 2, 0))))


def model_garden_codes(masks: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> list[Any]:
    from official.vision.ops import mask_ops

    top, left, bottom, right = (boxes * np.array([*_LARGE, *_LARGE], np.float32)).T
    pasted = mask_ops.paste_instance_masks(masks, np.stack([left, top, right - left, bottom - top], axis=1), *_LARGE)
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in pasted]


def compare_pasting(repeats: int) -> Iterator[str]:
    """Of masks of 33 x 33 with soft edges, in boxes of COCO's sizes."""
    random = np.random.default_rng(0)
    scale = _LARGE[0] / HEIGHT
    some = shapes(random, _PASTED) * scale
    sizes = some[:, 2:] * random.uniform(0.7, 1.3, (len(some), 2))
    corners = np.concatenate([some[:, :2] - sizes, some[:, :2] + sizes], axis=1) / np.array([*_LARGE, *_LARGE])
    boxes = corners.clip(0, 1).astype(np.float32)
    rows, columns = np.mgrid[-1:1:33j, -1:1:33j]
    blobs = 1 / (1 + np.exp(12 * (np.hypot(rows, columns) - random.uniform(0.6, 1.1, (len(some), 1, 1)))))
    masks = (blobs + random.normal(0, 0.05, blobs.shape)).clip(0, 1).astype(np.float32)
    ways: dict[str, Callable[[], list[Any]]] = {
        "ours": lambda: list(paste_masks(masks, boxes, *_LARGE)),
        "Model Garden's": lambda: model_garden_codes(masks, boxes),
        "the original's": lambda: original_codes(masks, boxes),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    codes: dict[str, list[Any]] = {}
    # One way after the other: TensorFlow's threads turn on the spot for a while after their work.
    for name, way in ways.items():
        for repeat in range(repeats + 1):
            started = time.perf_counter()
            codes[name] = way()
            if repeat:
                spent[name].append(time.perf_counter() - started)
    assert [code["counts"] for code in codes["ours"]] == [code["counts"] for code in codes["the original's"]]
    medians = {name: statistics.median(values) for name, values in spent.items()}
    for name, value in medians.items():
        yield f"| {name} | {1000 * value:.0f} | {value / medians['ours']:.1f} |"
    for name, least in (("Model Garden's", 6), ("the original's", 15)):
        yield beside_goal(f"times the speed of {name} way", medians[name] / medians["ours"], least=least)


def write_records(folder: Path, images: int) -> str:
    """Records of so many images, of eight kinds."""
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(stream, "JPEG")
    encoded = EncodedImage(stream.getvalue(), "jpeg", HEIGHT, WIDTH, "", ())
    kinds = []
    for masks, categories, _, _ in objects_and_detections(8):
        boxes = [(y, x, y + height, x + width) for x, y, width, height in coco_mask.toBbox(masks).tolist()]
        areas = [float(coco_mask.area(mask)) for mask in masks]
        values = zip(categories.tolist(), boxes, masks, areas, strict=True)
        kinds.append([Instance(category + 1, box, mask, area, is_crowd=False) for category, box, mask, area in values])
    named = (AnnotatedImage(str(n + 1), f"{n + 1}.jpg", HEIGHT, WIDTH, tuple(kinds[n % 8])) for n in range(images))
    write_shard(folder / "val.record-00000-of-00001", (build_example(image, encoded, dict(names())) for image in named))
    return str(folder / "val.record-00000-of-00001")


def evaluate_many(folder: Path, images: int, count: int) -> None:
    """What `maskline evaluate` does beside and after its network, whose detections are made up."""
    file = write_records(folder, images)
    settings = Settings(LabelMap(tuple(Category(*one) for one in names())), with_masks=True)

    def jobs() -> Iterator[Job]:
        for index, record in enumerate(read_shard(Path(file))):
            random = np.random.default_rng(index)
            some = shapes(random, DETECTIONS)
            corners = np.concatenate([some[:, :2] - some[:, 2:], some[:, :2] + some[:, 2:]], axis=1) / [HEIGHT, WIDTH, HEIGHT, WIDTH]
            masks = np.broadcast_to(random.random((DETECTIONS, 1, 1), np.float32), (DETECTIONS, 33, 33))
            boxes, scores = corners.clip(0, 1).astype(np.float32), random.random(DETECTIONS, np.float32)
            output = NetworkOutput(boxes, scores, random.integers(0, CATEGORIES, DETECTIONS), np.ascontiguousarray(masks))
            yield Job(index, record, f"{file}: record {index}", (HEIGHT, WIDTH), output)

    parts = Parts(folder / "parts", [file], settings)
    with Workers(count, image_result.__module__) as workers:
        parts.write(0, workers.stream(partial(image_result, settings), jobs(), ahead=4))
    (folder / "evaluation").mkdir()
    found = measured(write_results(parts, folder / "evaluation", {}))
    assert figures(read_matches(folder / "evaluation" / MATCHES)).items() >= found["metrics"].items()


def judge(images: int, count: int) -> tuple[float, float]:
    """Seconds, by the clock and of the process, of a verdict on two models of so many images, the second's scores of which are others."""
    truth, results = coco_files(1000)
    images_held = by_image(truth, results)
    random = np.random.default_rng(0)
    contenders = []
    with Workers(count, __name__) as workers:
        for name in ("first", "second"):
            parts = list(workers.map(partial(matched, (MASK,)), images_held))
            matches = joined([parts[index % len(parts)] for index in range(images)], range(images), {})
            contenders.append(Contender(name, (matches,)))
            for _, _, detected in images_held:
                for entry in detected:
                    entry["score"] = float(random.random())
    found, cost = timed(partial(verdicts, contenders))
    print(found.pairs[0].sentence(), flush=True)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare evaluation with pycocotools, and pasting with Model Garden's and the original's.")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which medians are told")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", action="store_true", help=f"tell the memory of an evaluation of {MANY_IMAGES} images instead")
    parser.add_argument("--verdicts", action="store_true", help=f"tell the time of a verdict on {MANY_IMAGES} images instead")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate is not None:
        evaluate_many(arguments.evaluate, arguments.images, arguments.workers)
        return
    if arguments.memory:
        print("| images | detections | workers | wall s | CPU s | peak MB of a process |\n|---|---|---|---|---|---|", flush=True)
        for images in (500, MANY_IMAGES):
            with tempfile.TemporaryDirectory(prefix="maskline-") as folder:
                options = [f"--evaluate={folder}", f"--images={images}", f"--workers={arguments.workers}"]
                cost = cost_of([sys.executable, "-m", "benchmarks.evaluation", *options])
            print(f"| {images} | {DETECTIONS} | {arguments.workers} | {cost.wall:.0f} | {cost.cpu:.0f} | {cost.peak:.0f} |", flush=True)
        print(beside_goal(f"MB of a process, {MANY_IMAGES} images of {HEIGHT} x {WIDTH}", cost.peak, most=1500))
        return
    if arguments.verdicts:
        wall, cpu = judge(MANY_IMAGES, arguments.workers)
        print(f"a verdict on two models, {MANY_IMAGES} images, 1000 resamples: {wall:.1f} s, {cpu:.1f} s of one CPU")
        print(beside_goal("seconds for a verdict", wall, most=60))
        return
    print(f"{arguments.images} images, {DETECTIONS} detections each, {arguments.workers} workers\n")
    print("| evaluation | processes | wall s | of pycocotools' | CPU s | of pycocotools' |\n|---|---|---|---|---|---|", flush=True)
    for row in compare_engines(arguments.images, arguments.repeats, arguments.workers):
        print(row, flush=True)
    print(f"\n{_PASTED} masks pasted and encoded, {_LARGE[0]} x {_LARGE[1]}\n")
    print("| way | wall ms | of ours |\n|---|---|---|", flush=True)
    for row in compare_pasting(_PASTINGS * arguments.repeats):
        print(row, flush=True)


if __name__ == "__main__":
    main()
