"""Where the time of an input pipeline goes: each stage alone, one image after the other, and the whole as training runs it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tasks.coco.mask_png import own_rows
from tasks.input.batches import record_files, record_order, training_dataset
from tasks.input.config import Augmentation, DataConfig
from tasks.input.preparation import Preparation, State
from tasks.input.record_faults import faulty_records_named
from tasks.input.record_reader import RecordReader
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.example import MASK_KEY
from tasks.records.feature_bytes import byte_strings
from tasks.records.label_map import LabelMap

NO_MASKS, NUMBERS, OWN_PNGS, OTHER_PNGS = "none", "numbers", "own PNGs", "other PNGs"

_AUGMENT = "augment"
_AUGMENTED_IMAGES = 8
_WARM_UP_IMAGES = 3
_WARM_UP_BATCHES = 2


@dataclass(frozen=True)
class StageCost:
    """Of one stage for an image, alone on the machine: milliseconds by the clock, and of processors."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Profile:
    """Means over the images that were looked at, which are drawn as a training draws them."""

    records: int
    record_bytes: float
    stored_size: tuple[float, float]
    """Height and width of the records' images"""
    trained_size: tuple[float, float]
    """The same after resizing, without padding"""
    objects: float
    mask_form: str
    """`NO_MASKS` where none are read, `NUMBERS`, `OWN_PNGS` that this program wrote, `OTHER_PNGS`"""
    stages: dict[str, StageCost]
    augmentations: dict[str, float]
    """Milliseconds of processor, by kind"""
    batch_size: int
    images_per_second: float
    """Of the whole pipeline, with all processors"""
    cpu: float
    """Milliseconds of processor for an image in the whole pipeline"""
    processors: int

    @property
    def rest(self) -> float:
        """What an image costs in the whole pipeline beside its stages: putting batches together and handing them over; ms of processor."""
        return max(0.0, self.cpu - sum(cost.cpu for cost in self.stages.values()))


def profile(data: DataConfig, resizer: ImageResizer, label_map: LabelMap, images: int, seconds: float) -> Profile:
    """Looks at so many images stage by stage, and runs the whole pipeline for so long; UserError names a record that cannot be used."""
    with tf.device("CPU:0"), faulty_records_named(data, label_map):
        return _profile(data, resizer, label_map, images, seconds)


def _profile(data: DataConfig, resizer: ImageResizer, label_map: LabelMap, images: int, seconds: float) -> Profile:
    reader = RecordReader(record_files(data))
    order = record_order(data, reader)

    def prepared(*augmentations: Augmentation) -> Preparation:
        return Preparation(data.replace(augmentations=augmentations), resizer, label_map, reader, order)

    looked = _Look(prepared(*data.augmentations), images)
    plain = looked.augmenting(prepared())
    rate, cpu = _whole(data, resizer, label_map, seconds)
    return Profile(
        records=len(reader),
        record_bytes=statistics.fmean(len(one.serialized) for one in looked.seen),
        stored_size=_mean_size([one.stored_size for one in looked.seen]),
        trained_size=_mean_size([one.trained_size for one in looked.seen]),
        objects=statistics.fmean(one.objects for one in looked.seen),
        mask_form=_mask_form(data, looked.seen),
        stages=looked.stages,
        augmentations={one.kind: max(0.0, looked.augmenting(prepared(one)) - plain) for one in data.augmentations},
        batch_size=data.global_batch_size,
        images_per_second=rate,
        cpu=cpu,
        processors=len(os.sched_getaffinity(0)),
    )


@dataclass(frozen=True)
class _Seen:
    """What is remembered of an image: not its pixels, which for all of them would take gigabytes."""

    serialized: bytes
    objects: int
    stored_size: tuple[int, int]
    trained_size: tuple[int, int]


class _Look:
    """So many images taken through the stages of a preparation one by one."""

    def __init__(self, prepare: Preparation, images: int) -> None:
        at = tf.data.Dataset.range(_WARM_UP_IMAGES + images).map(lambda position: {"position": position})
        self._specs: dict[str, Any] = {}
        compiled: dict[str, _Timed] = {}
        for name, stage in prepare.stages.items():
            self._specs[name] = at.element_spec
            compiled[name] = _Timed(stage, at.element_spec)
            at = at.map(stage)
        self.seen: list[_Seen] = []
        self._augmented: list[State] = []
        costs: dict[str, list[StageCost]] = {name: [] for name in compiled}
        for position in range(_WARM_UP_IMAGES + images):
            state: State = {"position": tf.constant(position, tf.int64)}
            known: State = {}
            for name, timed in compiled.items():
                known |= state
                if name == _AUGMENT and len(self._augmented) < _AUGMENTED_IMAGES:
                    self._augmented.append(state)
                state, cost = timed(state)
                costs[name].append(cost)
            stored, trained = known["stored_size"].numpy(), state["true_shape"].numpy()
            self.seen.append(_Seen(known["serialized"].numpy(), int(known["count"]), tuple(stored), tuple(trained)))
        del self.seen[:_WARM_UP_IMAGES]
        self.stages = {name: _mean(found[_WARM_UP_IMAGES:]) for name, found in costs.items()}

    def augmenting(self, prepare: Preparation) -> float:
        """What the augmentations of another preparation cost for an image, in milliseconds of processor."""
        stage = _Timed(prepare.stages[_AUGMENT], self._specs[_AUGMENT])
        stage(self._augmented[0])
        return _mean([stage(state)[1] for state in self._augmented]).cpu


class _Timed:
    """A stage as a program for images of any size, without what calling a program costs by itself: in a pipeline nobody calls it so."""

    def __init__(self, stage: Callable[[State], State], spec: Any) -> None:
        self._stage = tf.function(stage).get_concrete_function(spec)
        self._nothing = tf.function(lambda state: tf.nest.map_structure(tf.identity, state)).get_concrete_function(spec)

    def __call__(self, state: State) -> tuple[State, StageCost]:
        _, idle = _cost(self._nothing, state)
        result, whole = _cost(self._stage, state)
        return result, StageCost(max(0.0, whole.wall - idle.wall), max(0.0, whole.cpu - idle.cpu))


def _cost(stage: Callable[[State], State], state: State) -> tuple[State, StageCost]:
    wall, cpu = time.perf_counter(), time.process_time()
    state = stage(state)
    return state, StageCost(1000.0 * (time.perf_counter() - wall), 1000.0 * (time.process_time() - cpu))


def _mean(costs: Sequence[StageCost]) -> StageCost:
    return StageCost(statistics.fmean(one.wall for one in costs), statistics.fmean(one.cpu for one in costs))


def _mean_size(sizes: Sequence[tuple[int, int]]) -> tuple[float, float]:
    heights, widths = zip(*sizes, strict=True)
    return statistics.fmean(heights), statistics.fmean(widths)


def _mask_form(data: DataConfig, seen: Sequence[_Seen]) -> str:
    if not data.load_instance_masks:
        return NO_MASKS
    if data.mask_type == "NUMERICAL_MASKS":
        return NUMBERS
    pngs = [bytes(png) for one in seen for png in (byte_strings(one.serialized, MASK_KEY) or [])[:1]]
    return OWN_PNGS if all(own_rows(png) is not None for png in pngs) else OTHER_PNGS


def _whole(data: DataConfig, resizer: ImageResizer, label_map: LabelMap, seconds: float) -> tuple[float, float]:
    """Images a second, and milliseconds of processor for an image, of the pipeline as training runs it."""
    batches = iter(training_dataset(data, resizer, label_map, data.global_batch_size))
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while count == 0 or time.perf_counter() - wall < seconds:
        next(batches)
        count += data.global_batch_size
    return count / (time.perf_counter() - wall), 1000.0 * (time.process_time() - cpu) / count
