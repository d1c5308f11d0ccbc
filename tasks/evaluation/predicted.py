"""What any kept model finds on records, one image after the other, and how long it takes for one."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.image_opening import opened_image
from tasks.evaluation.image_results import Job, NetworkOutput
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import located

Answer = Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[Any]]]
"""An image uint8 [H, W, 3], RGB -> an exported model's outputs for it, without the batch."""

_WARM_UP = 3


class Predictions:
    """The detections of a model whose classes have `names`, by id, on records of the classes `labels`.

    Classes are the same where their names are, or, where the model knows no names, their ids; of the others no detection counts.
    UserError where no class is the same.
    """

    def __init__(self, answer: Answer, names: Mapping[int, str], labels: LabelMap) -> None:
        self._answer = answer
        own = {category.name: category.id for category in labels.categories}
        self._ids = {number: own[name] for number, name in names.items() if name in own} if names else {one: one for one in own.values()}
        if not self._ids:
            told = ", ".join([*names.values()][:5]), ", ".join([*own][:5])
            raise UserError(f"the model has none of the dataset's classes: {told[0]}, and there {told[1]}", "name a dataset of its classes")
        if lacking := sorted(set(own) - set(names.values())) if names else []:
            print(f"the model does not know {', '.join(lacking[:5])}{' ...' * (len(lacking) > 5)}: it cannot find them", flush=True)
        self._seconds: list[float] = []
        self._sizes: Counter[tuple[int, int]] = Counter()

    def has_masks(self, file: str) -> bool:
        """Whether it predicts masks, asked of the first record; what that takes is no measure."""
        for record in read_shard(located(file)):
            return "detection_masks" in self._answer(_pixels(record, f"{file}: record 0"))
        raise UserError(f"{file} holds no record", "materialize the dataset again with images in that split")

    def jobs(self, file: str) -> Iterator[Job]:
        """The records of a file with what is found on each."""
        for index, record in enumerate(read_shard(located(file))):
            where = f"{file}: record {index}"
            pixels = _pixels(record, where)
            began = time.perf_counter()
            outputs = self._answer(pixels)
            self._seconds.append(time.perf_counter() - began)
            self._sizes[pixels.shape[:2]] += 1
            yield Job(index, record, where, pixels.shape[:2], self._found(outputs))

    def latency(self, device: str) -> dict[str, Any]:
        """Seconds for one image, resizing included; the first few, which warm up, do not count where there are more."""
        seconds = self._seconds[_WARM_UP:] or self._seconds
        p50, p95 = np.percentile(seconds, (50, 95))
        return {
            "device": device,
            "machine": platform.node(),
            "image_size": list(self._sizes.most_common(1)[0][0]),
            "seconds_per_image": {"1": {"p50": float(p50), "p95": float(p95), "runs": len(seconds)}},
        }

    def _found(self, outputs: Mapping[str, npt.NDArray[Any]]) -> NetworkOutput:
        count = int(outputs["num_detections"])
        classes = outputs["detection_classes"][:count].astype(int).tolist()
        kept = [place for place, number in enumerate(classes) if number in self._ids]
        masks = outputs.get("detection_masks")
        return NetworkOutput(
            outputs["detection_boxes"][kept].astype(np.float32).reshape(-1, 4),
            outputs["detection_scores"][kept].astype(np.float32),
            np.array([self._ids[classes[place]] - 1 for place in kept], np.int64),
            None if masks is None else masks[kept].astype(np.float32),
        )


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "CPU")


def _pixels(record: bytes, where: str) -> npt.NDArray[np.uint8]:
    with opened_image(RecordFeatures.parse(record, where).byte_strings("image/encoded", 1)[0]) as image:
        return np.asarray(image.convert("RGB"))
