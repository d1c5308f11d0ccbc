"""What lies where a config points: records and how they store masks, label maps, the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.checkpoints.files import find_checkpoint
from tasks.mask_rcnn.mask_depth import KERAS
from tasks.pipeline_config.checkpoint_fit import Shapes
from tasks.pipeline_config.fine_tuning import names_checkpoint
from tasks.pipeline_config.input_reader_pb2 import InputReader
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.manifest import Manifest, Split
from tasks.records.record_set import manifest_of
from tasks.records.survey import survey
from tasks.records.tfrecord import matching_files, missing_shards
from tasks.running.errors import UserError

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class InputPath:
    """A path or pattern of records, the files that it means, the names of all files in its folder, and shards that are not there."""

    pattern: str
    files: tuple[Path, ...]
    neighbours: tuple[str, ...]
    missing: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ReaderEvidence:
    """What an input reader finds; `path` is its own in the config. Errors stand for what cannot be read."""

    path: str
    reader: InputReader
    inputs: tuple[InputPath, ...]
    label_map: LabelMap | UserError
    mask_type: str | UserError | None
    """`PNG_MASKS` or `NUMERICAL_MASKS`, the first mask's; None where there is no record, or no mask in any"""
    most_objects: int = 0
    """In one image"""
    fullest: str = ""
    """Where that image is"""
    without_masks: str | None = None
    """Where the first record is that has objects and no mask"""
    other_masks: str | None = None
    """Where the first record is that has masks of the other type"""
    fault: UserError | None = None
    """What the first record has wrong that training could not use"""

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for one in self.inputs for file in one.files)


@dataclass(frozen=True)
class Evidence:
    """A config and what was found out about it."""

    config: TrainEvalPipelineConfig
    training: ReaderEvidence
    evaluation: tuple[ReaderEvidence, ...]
    checkpoint: Shapes | UserError | None
    """What is in it; None where training starts from scratch"""
    refused: tuple[UserError, ...] = ()
    """What `convert` refuses of the config itself"""
    overwritten: tuple[UserError, ...] = ()
    """What its text says for nothing"""

    @property
    def readers(self) -> tuple[ReaderEvidence, ...]:
        return (self.training, *self.evaluation)


def gather(
    config: TrainEvalPipelineConfig, name: str, refused: tuple[UserError, ...] = (), overwritten: tuple[UserError, ...] = ()
) -> Evidence:
    """Looks at every file that the config called `name` points to; only a checkpoint needs TensorFlow, which takes seconds to load.

    `refused` and `overwritten` are what is known of the config itself and of its text.
    """
    evaluation = (_reader(f"eval_input_reader[{index}]", reader) for index, reader in enumerate(config.eval_input_reader))
    path = config.train_config.fine_tune_checkpoint
    network = config.model.faster_rcnn.feature_extractor.type.removesuffix(KERAS)
    checkpoint = _or_error(lambda: _shapes(find_checkpoint(Path(path), name), network)) if names_checkpoint(path) else None
    return Evidence(config, _reader("train_input_reader", config.train_input_reader), tuple(evaluation), checkpoint, refused, overwritten)


def _reader(path: str, reader: InputReader) -> ReaderEvidence:
    inputs = tuple(
        InputPath(pattern, files := matching_files(pattern), _neighbours(pattern), missing_shards(pattern, files))
        for pattern in reader.tf_record_input_reader.input_path
    )
    label_map = _or_error(lambda: read_label_map(Path(reader.label_map_path)))
    files = tuple(file for one in inputs for file in one.files)
    labels = label_map if isinstance(label_map, LabelMap) else None
    if labels and (manifest := manifest_of([str(file) for file in files], Path(reader.label_map_path))) is not None:
        most = max(max(split.statistics.objects_per_image, default=0) for split in _splits(manifest, files))
        return ReaderEvidence(path, reader, inputs, label_map, manifest.mask_type, most, "an image")
    found = _or_error(lambda: survey(files, labels))
    if isinstance(found, UserError):
        return ReaderEvidence(path, reader, inputs, label_map, found)
    types = [*found.mask_types, None]
    other = [*found.mask_types.values()][1:]
    more = (found.most_objects, found.fullest, found.without_masks, other[0] if other else None, found.fault)
    return ReaderEvidence(path, reader, inputs, label_map, types[0], *more)


def _splits(manifest: Manifest, files: Sequence[Path]) -> list[Split]:
    """Those that the files are of."""
    names = {file.name for file in files}
    return [split for split in manifest.splits.values() if names & set(split.shards)]


def _shapes(checkpoint: Path, network: str) -> Shapes:
    from tasks.checkpoints.reader import stored_variables

    with stored_variables(checkpoint, network) as stored:
        return stored.shapes


def _neighbours(pattern: str) -> tuple[str, ...]:
    return tuple(file.name for file in matching_files(f"{Path(pattern).parent}/*"))


def _or_error(look: Callable[[], _Found]) -> _Found | UserError:
    try:
        return look()
    except UserError as error:
        return error
