"""What lies where a config points: records and how they store masks, label maps, the checkpoint."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.errors import UserError
from tasks.mask_rcnn.checkpoint_files import find_checkpoint
from tasks.pipeline_config.checkpoint_fit import Shapes
from tasks.pipeline_config.fine_tuning import names_checkpoint
from tasks.pipeline_config.input_reader_pb2 import InputReader
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.stored_masks import stored_mask_type
from tasks.records.tfrecord import matching_files

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class InputPath:
    """A path or pattern of records, the files that it means, and the names of all files in its folder."""

    pattern: str
    files: tuple[Path, ...]
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class ReaderEvidence:
    """What an input reader finds; `path` is its own in the config. Errors stand for what cannot be read."""

    path: str
    reader: InputReader
    inputs: tuple[InputPath, ...]
    label_map: LabelMap | UserError
    mask_type: str | UserError | None
    """`PNG_MASKS` or `NUMERICAL_MASKS`; None where there is no record, or no mask in the first ones"""

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

    @property
    def readers(self) -> tuple[ReaderEvidence, ...]:
        return (self.training, *self.evaluation)


def gather(config: TrainEvalPipelineConfig, name: str) -> Evidence:
    """Looks at every file that the config called `name` points to; only a checkpoint needs TensorFlow, which takes seconds to load."""
    evaluation = (_reader(f"eval_input_reader[{index}]", reader) for index, reader in enumerate(config.eval_input_reader))
    path = config.train_config.fine_tune_checkpoint
    checkpoint = _or_error(lambda: _shapes(find_checkpoint(Path(path), name))) if names_checkpoint(path) else None
    return Evidence(config, _reader("train_input_reader", config.train_input_reader), tuple(evaluation), checkpoint)


def _reader(path: str, reader: InputReader) -> ReaderEvidence:
    inputs = tuple(
        InputPath(pattern, matching_files(pattern), _neighbours(pattern)) for pattern in reader.tf_record_input_reader.input_path
    )
    label_map = _or_error(lambda: read_label_map(Path(reader.label_map_path)))
    mask_type = _or_error(lambda: stored_mask_type(file for one in inputs for file in one.files))
    return ReaderEvidence(path, reader, inputs, label_map, mask_type)


def _shapes(checkpoint: Path) -> Shapes:
    from tasks.mask_rcnn.checkpoint_reader import stored_variables

    with stored_variables(checkpoint) as stored:
        return stored.shapes


def _neighbours(pattern: str) -> tuple[str, ...]:
    return tuple(file.name for file in matching_files(f"{glob.escape(str(Path(pattern).parent))}/*"))


def _or_error(look: Callable[[], _Found]) -> _Found | UserError:
    try:
        return look()
    except UserError as error:
        return error
