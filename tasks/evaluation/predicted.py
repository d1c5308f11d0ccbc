"""What any kept model finds on records, one image after the other, and how long it takes for one."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.coco.image_opening import opened_image
from tasks.evaluation.image_results import Job, NetworkOutput
from tasks.evaluation.timing import TIMED_IMAGES, seconds_per_image
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import located

Pixels = npt.NDArray[np.uint8]


class Answer(Protocol):
    """A model that is ready."""

    @property
    def takes_batches(self) -> bool: ...

    @property
    def decode(self) -> Callable[[bytes], Pixels] | None:
        """The pixels of an image file, where the model was trained on others than Pillow's."""

    def __call__(self, pixels: Pixels) -> Mapping[str, npt.NDArray[Any]]:
        """An exported model's outputs for an image uint8 [H, W, 3], RGB, without the batch."""

    @property
    def batch(self) -> Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]:
        """The same of images [N, H, W, 3], N = 1 where it takes no batches."""


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

    def has_masks(self, file: str) -> bool:
        """Whether it predicts masks, asked of the first record."""
        for record in read_shard(located(file)):
            return "detection_masks" in self._answer(self._pixels(record, f"{file}: record 0"))
        raise UserError(f"{file} holds no record", "materialize the dataset again with images in that split")

    def jobs(self, file: str) -> Iterator[Job]:
        """The records of a file with what is found on each."""
        for index, record in enumerate(read_shard(located(file))):
            where = f"{file}: record {index}"
            pixels = self._pixels(record, where)
            yield Job(index, record, where, pixels.shape[:2], self._found(self._answer(pixels)))

    def latency(self, files: Sequence[str], device: str, batch_size: int) -> dict[str, Any]:
        """Seconds per image at batch 1, and at `batch_size` where it takes batches, as `seconds_per_image` times them: from an image in
        memory to its detections, resizing included. Images of one size, the commonest of the first 64."""
        if batch_size > 1 and not self._answer.takes_batches:
            print(f"the model takes one image at a time: it is not timed at batch {batch_size}", flush=True)
            batch_size = 1
        records = ((record, f"{file}: record {index}") for file in files for index, record in enumerate(read_shard(located(file))))
        by_size: dict[tuple[int, ...], list[Pixels]] = {}
        for record, where in itertools.islice(records, TIMED_IMAGES):
            pixels = self._pixels(record, where)
            by_size.setdefault(pixels.shape, []).append(pixels)
        images = max(by_size.values(), key=len)
        return {
            "device": device,
            "machine": platform.node(),
            "image_size": list(images[0].shape[:2]),
            "seconds_per_image": seconds_per_image(lambda some: self._answer.batch(np.stack(some)), images, batch_size),
        }

    def _pixels(self, record: bytes, where: str) -> Pixels:
        encoded = RecordFeatures.parse(record, where).byte_strings("image/encoded", 1)[0]
        if self._answer.decode is not None:
            return self._answer.decode(encoded)
        with opened_image(encoded) as image:
            return np.asarray(image.convert("RGB"))

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
