"""The step that tells where the time of a training's input goes, and what to change first.

    maskline profile-input DATASET|MODEL_DIR [--label-map FILE] [--batch-size N] [--image-size N] [--images N] [--seconds S]

MODEL_DIR is a converted model: its records, resizer, augmentations and batch size count. DATASET is a materialized dataset's folder, or,
with the label map, a path or pattern of records of other tools; it is read as the zoo's configs read it: at 800 x 1365, flipped at random,
an image a step. Prints a table and one sentence, and writes nothing. Usual runtime: half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.input.config import Augmentation, DataConfig
from tasks.input.profile import NUMBERS, OTHER_PNGS, Profile, profile
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.example import MASK_KEY, NUMERICAL_MASKS, PNG_MASKS
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.shards import find_shards
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, override
from tasks.training.records import with_needed_masks

_ZOO = ImageResizer(min_dimension=800, max_dimension=1365)
# Of pixels stored to pixels trained on, from which on a smaller image is worth its trouble.
_MUCH_LARGER = 1.5
# Of reading's time by the clock, from which on it is storage that is waited for.
_WAITING = 0.5


def profile_input(
    target: str, label_map: str | None = None, overrides: Overrides | None = None, images: int = 64, seconds: float = 10.0
) -> StepResult:
    """The summary has the numbers of the table, and as `first_change` the sentence."""
    for option, value in (("images", images), ("seconds", seconds)):
        if value <= 0:
            raise UserError(f"--{option} is {value}", "give a number above zero")
    data, resizer, labels = _input(target, label_map, overrides or Overrides())
    found = profile(data, resizer, labels, images, seconds)
    advice = first_change(found)
    for line in (*_table(found), "", f"first thing to change: {advice}"):
        print(line, flush=True)
    summary = {
        "images_per_second": found.images_per_second,
        "cpu_ms": found.cpu,
        "stages": {name: {"ms": cost.wall, "cpu_ms": cost.cpu} for name, cost in found.stages.items()} | {"rest": {"cpu_ms": found.rest}},
        "augmentations_cpu_ms": found.augmentations,
        "mask_form": found.mask_form,
        "first_change": advice,
    }
    return StepResult("profile-input", "done", {}, summary)


def _input(target: str, label_map: str | None, overrides: Overrides) -> tuple[DataConfig, ImageResizer, LabelMap]:
    """What a training would read, how it would resize it, and its classes."""
    model = ModelDir(Path(target).absolute())
    if "://" not in target and model.experiment.is_file():
        experiment = load_experiment(model.experiment)
        override(experiment, overrides)
        task = experiment.task
        return (
            with_needed_masks(task.train_data, task.model),
            task.model.image_resizer,
            read_label_map(Path(task.train_data.label_map_path)),
        )
    given = find_shards(target, label_map)
    if given.labels is None:
        raise UserError(f"{target}: nothing says which classes the records have", "give their --label-map")
    files = given.splits.get("train") or next(iter(given.splits.values()))
    size = overrides.image_size or _ZOO.min_dimension
    data = DataConfig(
        input_path=[str(file) for file in files],
        mask_type=given.manifest.mask_type if given.manifest else _mask_type(files),
        global_batch_size=overrides.batch_size or 1,
        seed=overrides.seed or 0,
        augmentations=(Augmentation(kind="random_horizontal_flip"),),
    )
    return data, _ZOO.replace(min_dimension=size, max_dimension=round(size * _ZOO.max_dimension / _ZOO.min_dimension)), given.labels


def _mask_type(files: tuple[Path, ...]) -> str:
    """By the first record that has masks; UserError where none has any."""
    for file in files:
        for number, serialized in enumerate(read_shard(file)):
            stored = RecordFeatures.parse(serialized, f"{file}: record {number}").feature(MASK_KEY)
            if stored.bytes_list.value:
                return PNG_MASKS
            if stored.float_list.value:
                return NUMERICAL_MASKS
    raise UserError(
        f"{', '.join(map(str, files))}: no record has masks", "name the folder of a converted model, which says how they are read"
    )


def _table(found: Profile) -> Iterator[str]:
    stored, trained = ("{:.0f} x {:.0f}".format(*size) for size in (found.stored_size, found.trained_size))
    yield (
        f"{found.records} records of {found.record_bytes / 1000:.0f} kB, {found.objects:.1f} objects each, masks: {found.mask_form};"
        f" images of {stored} pixels, trained on at {trained} (means)"
    )
    yield (
        f"the whole pipeline, batches of {found.batch_size}: {found.images_per_second:.1f} images/s on {found.processors} processors,"
        f" {found.cpu:.1f} ms of processor an image; faster training waits for its input"
    )
    yield ""
    yield "stage, an image alone   ms   of processor   share"
    total = sum(cost.cpu for cost in found.stages.values()) + found.rest
    for name, cost in found.stages.items():
        yield f"{name:20}{cost.wall:8.2f}{cost.cpu:12.2f}{cost.cpu / total:9.0%}"
    yield f"{'batch and hand over':20}{'':8}{found.rest:12.2f}{found.rest / total:9.0%}"


def first_change(found: Profile) -> str:
    """What would make the pipeline faster first, in a sentence."""
    read, stages = found.stages["read"], {name: cost.cpu for name, cost in found.stages.items()} | {"batch": found.rest}
    everything = sum(cost.wall for cost in found.stages.values())
    if read.wall - read.cpu > _WAITING * everything:
        rate = found.record_bytes / read.wall / 1000.0
        return f"the records' storage is waited for, which gives {rate:.0f} MB/s to one reader: copy them to a disk of the machine"
    largest = max(stages, key=lambda name: stages[name])
    (height, width), (trained_height, trained_width) = found.stored_size, found.trained_size
    larger = height * width / (trained_height * trained_width)
    match largest:
        case "decode image" if larger > _MUCH_LARGER:
            return (
                f"images have {larger:.1f} times the pixels that training sees, and all are decoded: make the dataset of images of"
                f" {trained_height:.0f} x {trained_width:.0f}"
            )
        case "augment" if found.augmentations:
            kind = max(found.augmentations, key=lambda one: found.augmentations[one])
            return f"{kind} costs {found.augmentations[kind]:.1f} ms an image, most of all augmentations: see whether it is worth that"
        case "masks" if found.mask_form == NUMBERS:
            return "masks are numbers, four bytes a pixel: `maskline transcode --mask-type png` stores them as PNGs"
        case "masks" if found.mask_form == OTHER_PNGS:
            return (
                "masks are PNGs of another tool, which are decoded whole: materialize a dataset from these records (`format: tfrecord`,"
                " docs/sources.md), of whose PNGs only the rows with the object are"
            )
        case "read" | "parse" if found.mask_form == NUMBERS:
            return "records are large because masks are numbers: `maskline transcode --mask-type png` stores them as PNGs"
        case "resize image":
            return (
                f"making images {trained_height:.0f} x {trained_width:.0f} is most of the work, and follows from the model's image_resizer:"
                " what is left is more processors, or a smaller --image-size, if accuracy allows it"
            )
        case "batch" if found.batch_size > 1:
            return "putting batches together is most of the work: images of one size, as a fixed_shape_resizer makes them, are padded least"
    return f"nothing stands out: the most is `{largest}`, which an image costs anyway; more processors make it faster"
