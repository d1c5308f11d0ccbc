"""A pipeline run whose models were never trained: their detections are a dataset's objects, more or less shifted, lost and misnamed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.coco.masks import rle_from_mask
from tasks.comparison.learning import LOSS
from tasks.comparison.rows import MASK_AP
from tasks.evaluate import Effort, evaluate_results
from tasks.evaluation.image_results import Settings, image_truth
from tasks.pipeline_config.zoo import find_config
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.record_set import materialized
from tasks.records.tfrecord import read_shard, record_files
from tasks.running.workspace import DatasetDir, RunDir, write_json


@dataclass(frozen=True)
class Skill:
    """How much of the objects a model finds, and how often it gives one another name; `seconds` an image."""

    finds: float
    misnames: float
    seconds: float


SKILLS = {
    "mask_rcnn_inception_resnet_v2_atrous_coco": Skill(0.92, 0.04, 0.41),
    "mask_rcnn_resnet101_atrous_coco": Skill(0.85, 0.08, 0.17),
    "mask_rcnn_resnet50_atrous_coco": Skill(0.82, 0.08, 0.12),
    "mask_rcnn_inception_v2_coco": Skill(0.6, 0.15, 0.06),
}


def write_run(run: RunDir, dataset: DatasetDir, skills: Mapping[str, Skill] = SKILLS) -> None:
    """Evaluates made-up detections on the dataset's validation records, and puts beside them what a training would have left."""
    for number, (name, skill) in enumerate(skills.items()):
        model = run.model(name)
        file = run.root / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(detections(dataset, skill, number)))
        evaluate_results(model, file, dataset, effort=Effort(workers=1))
        file.unlink()
        _train(run, name, skill, materialized(dataset).digest)


def detections(dataset: DatasetDir, skill: Skill, seed: int) -> list[dict[str, Any]]:
    """In COCO's results format."""
    records = materialized(dataset)
    labels = read_label_map(dataset.label_map)
    found: list[dict[str, Any]] = []
    random = np.random.default_rng(seed)
    for file in record_files(records.root / records.patterns["val"]):
        for record in read_shard(file):
            truth = image_truth(Settings(labels, with_masks=True), record, "here")
            for box, category in zip(truth.boxes_xywh, truth.categories.tolist(), strict=True):
                if random.random() < skill.finds:
                    named = random.integers(len(labels.categories)) if random.random() < skill.misnames else category
                    found.append(_detection(truth, box, labels, int(named), random, float(random.uniform(0.35, 1.0))))
            if random.random() < 1 - skill.finds:
                box = [random.uniform(0, truth.width * 0.6), random.uniform(0, truth.height * 0.6), truth.width * 0.3, truth.height * 0.3]
                found.append(_detection(truth, box, labels, 0, random, float(random.uniform(0.3, 0.8))))
    return found


def _detection(truth: Any, box: Sequence[float], labels: LabelMap, category: int, random: Any, score: float) -> dict[str, Any]:
    """An ellipse about where the box is."""
    x, y, width, height = np.array(box) + random.normal(0, 0.04, 4) * max(box[2:])
    rows, columns = np.mgrid[: truth.height, : truth.width] + 0.5
    inside = ((rows - y - height / 2) / max(height / 2, 1)) ** 2 + ((columns - x - width / 2) / max(width / 2, 1)) ** 2 <= 1
    code = rle_from_mask(inside.astype(np.uint8))
    return {
        "image_id": int(truth.image_id),
        "category_id": labels.categories[category].id,
        "score": score,
        "segmentation": {"size": [truth.height, truth.width], "counts": code["counts"].decode()},
    }


def _train(run: RunDir, name: str, skill: Skill, digest: str) -> None:
    model = run.model(name)
    model.train.mkdir()
    model.pipeline_config.write_text(find_config(name).read_text())
    checkpoint = str(model.train / "ckpt-400")
    file = model.evaluation / "metrics.json"
    timed = {
        "1": {"p50": skill.seconds, "p95": skill.seconds * 1.2, "runs": 50},
        "8": {"p50": skill.seconds / 3, "p95": skill.seconds / 2, "runs": 9},
    }
    latency = {"device": "a device", "machine": "a machine", "image_size": [96, 128], "seconds_per_image": timed}
    metrics = json.loads(file.read_text())
    write_json(file, metrics | {"checkpoint": checkpoint, "latency": latency, "seconds_per_image": skill.seconds})
    steps = [
        {"step": step, LOSS: 9 * np.exp(-step / 60) + 1 - skill.finds, "system/process_memory_usage_megabytes": 2000.0}
        for step in range(1, 401)
    ]
    (model.train / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    on_the_way = [{"step": step, "metrics": {MASK_AP: metrics["metrics"][MASK_AP] * step / 400}} for step in range(100, 401, 100)]
    write_json(model.train / "evaluations.json", {"metric": MASK_AP, "best": None, "evaluations": on_the_way})
    plan = {"counted": {"tflop_per_step": 0.8}, "devices": {"count": 1}, "batch_size": 4, "cost": {"likely": 3.0}, "hours": {"likely": 1.5}}
    write_json(model.plan, plan)
    trained = {"config": name, "parameters": 40_000_000, "images_per_second": 2.5, "seconds": 5400.0}
    write_json(model.train / "result.json", trained | {"checkpoint": checkpoint, "dataset_digest": digest})
