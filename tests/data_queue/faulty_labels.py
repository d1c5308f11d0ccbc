"""Drawn scenes whose validation labels were spoilt in known ways, and models that were never trained, which see the scenes as they are."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.evaluation.given_results import GivenResults, read_results
from tasks.evaluation.image_results import Job, Settings, image_result
from tasks.evaluation.parts import Parts
from tasks.evaluation.results import measured, write_results
from tasks.materialize import materialize
from tasks.records.features import RecordFeatures
from tasks.records.record_set import materialized
from tasks.records.tfrecord import read_shard, record_files
from tasks.running.workspace import DatasetDir, ModelDir, write_json
from tasks.shapes.dataset import ShapesConfig, shapes

HEIGHT, WIDTH = 96, 128


@dataclass(frozen=True)
class Spoilt:
    """A data set with faults, by kind the id of the annotation that has each, and its annotations as they were and as they are."""

    dataset_yaml: Path
    dataset: DatasetDir
    faults: dict[str, int]
    truth: dict[str, Any]
    labels: dict[str, Any]


def write_spoilt(folder: Path, images: int = 16) -> Spoilt:
    """One label of another class, one that is missing, one of which half is lacking, and one where nothing is, each in an image of its own.

    Objects are far larger than a detection's small shift.
    """
    source = folder / "drawn"
    shapes(ShapesConfig(train=2, val=images, height=HEIGHT, width=WIDTH, seed=5, most_objects=4, smallest_radius=0.14), source)
    truth = json.loads((source / "val.json").read_text())
    labels = copy.deepcopy(truth)
    large = [one for one in labels["annotations"] if one["area"] > 400]
    chosen = {one["image_id"]: one for one in reversed(large)}  # the first of each image
    wrong, missing, loose, phantom = (chosen[key] for key in sorted(chosen)[:4])
    faults = {"wrong class": wrong["id"], "missing label": missing["id"], "loose outline": loose["id"], "seen by no model": 1999999}
    wrong["category_id"] = wrong["category_id"] % 4 + 1
    labels["annotations"].remove(missing)
    mask = coco_mask.decode(coded(loose["segmentation"]))
    _, columns = np.nonzero(mask)
    mask[:, int(np.median(columns)) :] = 0
    loose |= entry_of(mask)
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    everything = sum(coco_mask.decode(coded(one["segmentation"])) for one in truth["annotations"] if one["image_id"] == phantom["image_id"])
    # Where nothing is drawn, of all places the first.
    top, left = next(
        (top, left)
        for top in range(0, HEIGHT - 20, 4)
        for left in range(0, WIDTH - 20, 4)
        if not np.asarray(everything)[top : top + 20, left : left + 20].any()
    )
    empty[top : top + 20, left : left + 20] = 1
    of_nothing = {"id": 1999999, "image_id": phantom["image_id"], "category_id": phantom["category_id"], "iscrowd": 0, **entry_of(empty)}
    labels["annotations"].append(of_nothing)
    (source / "val.json").write_text(json.dumps(labels))
    dataset = DatasetDir(folder / "spoilt")
    materialize(source / "dataset.yaml", dataset.root)
    return Spoilt(source / "dataset.yaml", dataset, faults, truth, labels)


def write_model(folder: Path, dataset: DatasetDir, truth: dict[str, Any], seed: int, *, finds: float = 1.0, score: float = 0.9) -> ModelDir:
    """Evaluated detections of the scenes as they are, each shifted by a pixel or not; a model that does not find all is unsure too."""
    random = np.random.default_rng(seed)
    found = []
    for one in truth["annotations"]:
        mask = coco_mask.decode(coded(one["segmentation"]))
        if random.random() < 0.5:
            mask = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
        is_found = random.random() < finds
        entry = {"image_id": one["image_id"], "category_id": one["category_id"], "score": score - float(random.uniform(0, 0.1))}
        if is_found:
            found.append(entry | {"segmentation": entry_of(mask)["segmentation"]})
    model = ModelDir(folder)
    model.evaluation.mkdir(parents=True)
    (folder / "found.json").write_text(json.dumps(found))
    _evaluate(model, read_results(folder / "found.json", materialized(dataset).labels), dataset)
    return model


def _evaluate(model: ModelDir, given: GivenResults, dataset: DatasetDir) -> None:
    """What `maskline evaluate --results` leaves, but for its analysis and for MLflow, which take the longest."""
    records = materialized(dataset)
    files = [str(file) for file in record_files(records.root / records.patterns["val"])]
    settings = Settings(records.labels, with_masks=True)
    parts = Parts(model.root / "parts", files, settings)
    for number, file in enumerate(files):
        jobs = [
            Job(index, record, file, None, given.of(int(RecordFeatures.parse(record, file).text("image/source_id", ""))))
            for index, record in enumerate(read_shard(Path(file)))
        ]
        parts.write(number, [image_result(settings, job) for job in jobs])
    about = {"config": model.name, "split": "val", "dataset": records.name, "dataset_digest": records.digest}
    matches = write_results(parts, model.evaluation, about)
    write_json(model.evaluation / "metrics.json", {**about, **measured(matches), "records": files})


def entry_of(mask: Any) -> dict[str, Any]:
    """Segmentation, box and area of a mask, as COCO has them."""
    code = coco_mask.encode(np.asfortranarray(mask))
    x, y, width, height = coco_mask.toBbox(code).tolist()
    text = {"size": list(map(int, code["size"])), "counts": code["counts"].decode()}
    return {"segmentation": text, "bbox": [x, y, width, height], "area": float(mask.sum())}


def coded(segmentation: dict[str, Any]) -> Any:
    return {**segmentation, "counts": segmentation["counts"].encode()}
