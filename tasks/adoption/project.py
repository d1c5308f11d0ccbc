"""What of a folder is one project: its config, the weights of its training, its classes and its records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.adoption.old_paths import parts_of, place_of
from tasks.adoption.project_folder import ProjectFolder, Weights
from tasks.annotations.split_names import TEST, TRAIN, VAL, split_meaning
from tasks.checkpoints.files import TARBALLS
from tasks.pipeline_config.checkpoint_fit import Shapes
from tasks.pipeline_config.fields import together
from tasks.pipeline_config.fine_tuning import names_checkpoint
from tasks.pipeline_config.input_reader_pb2 import InputReader
from tasks.pipeline_config.parser import located, parse_pipeline_config, read_text
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.refusals import refusals
from tasks.records.tfrecord import shard_family
from tasks.running.errors import UserError

_SHARD = re.compile(r"-\d+(?=-(?:of-)?\d+$)")


@dataclass(frozen=True)
class Candidate:
    """A config of the folder; `refused` says why it cannot be the project's."""

    file: Path
    config: TrainEvalPipelineConfig | None
    refused: UserError | None = None


@dataclass(frozen=True)
class Opened:
    """Weights that could be read: their shapes by the original's names, the step of their training (0: not told), and its optimizer's
    state."""

    weights: Weights
    shapes: Shapes
    step: int
    has_optimizer_state: bool


@dataclass(frozen=True)
class FoundRecords:
    """The records of one reader: what the config says, the files that it means, and how it would be written here."""

    written: str
    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    """Other folders with files of the same names"""
    by_name: bool = False
    """Whether they were found by what splits are called, since no file is called as the config says"""

    @property
    def pattern(self) -> str:
        first = self.files[0]
        return str(
            first if len(self.files) == 1 else first.with_name(_SHARD.sub(lambda number: "-" + "?" * (len(number[0]) - 1), first.name))
        )


def candidates(found: ProjectFolder) -> list[Candidate]:
    """All configs, the one first that has most behind it: weights that it has trained, exports, records, an own place."""
    read = [candidate_of(file) for file in found.configs]
    return sorted(read, key=lambda one: _rank(one, found), reverse=True)


def candidate_of(file: Path) -> Candidate:
    """A config, read and held against what `convert` refuses."""
    try:
        text = read_text(file)
        faults: list[UserError] = []
        config = parse_pipeline_config(text, str(file), faults)
        faults += refusals(config, file.stem, with_dataset=True)
        return Candidate(file, config, located(together(faults), text, str(file)) if faults else None)
    except UserError as error:
        return Candidate(file, None, error)


def _rank(candidate: Candidate, found: ProjectFolder) -> tuple[bool, bool, bool, bool, int, float]:
    folder = candidate.file.parent
    own = [one for one in found.weights if one.home == folder or folder in one.home.parents]
    records = candidate.config is not None and records_of(candidate.config.train_input_reader, found, TRAIN) is not None
    return (
        not found.is_pretrained(candidate.file),
        candidate.refused is None,
        any(one.is_training for one in own),
        records,
        len(own),
        candidate.file.stat().st_mtime,
    )


def weights_of(candidate: Candidate, found: ProjectFolder, all_configs: Sequence[Candidate]) -> list[Weights]:
    """What may be the trained weights of a config, the likeliest first: its own trainings, then models that were exported of it."""
    configs = {one.file.parent: one for one in all_configs}
    folder = candidate.file.parent

    def belongs(one: Weights) -> bool:
        nearest = next((place for place in (one.home, *one.home.parents) if place in configs), folder)
        if nearest == folder:
            return one.home == folder or not found.is_pretrained(one.path)
        return not one.is_training and not found.is_pretrained(one.path) and _is_same_model(candidate, configs[nearest])

    own = [one for one in found.weights if belongs(one)]
    return sorted(own, key=lambda one: (not one.is_training, one.home != folder, -(one.number or 0), one.path))


def _is_same_model(one: Candidate, other: Candidate) -> bool:
    if one.config is None or other.config is None:
        return False
    first, second = one.config.model.faster_rcnn, other.config.model.faster_rcnn
    return (first.feature_extractor.type, first.num_classes) == (second.feature_extractor.type, second.num_classes)


def start_of(config: TrainEvalPipelineConfig, found: ProjectFolder) -> Path | None:
    """The checkpoint that a config names to start from, where it lies below the folder; a name alone is too little to know it by."""
    written = config.train_config.fine_tune_checkpoint
    if not names_checkpoint(written):
        return None
    paths = [path for one in found.weights for path in (one.path, *(one.path.with_name(name) for name in one.others))]
    if place := place_of(written, paths, least=2):
        return place.files[0]
    names = {part.casefold() for part in parts_of(written)}
    for tarball in found.tarballs:
        stem = next(tarball.name[: -len(ending)] for ending in TARBALLS if tarball.name.lower().endswith(ending))
        if stem.casefold() in names:
            return tarball
    return None


def label_map_of(config: TrainEvalPipelineConfig, found: ProjectFolder) -> Path | None:
    """The label map that the config's readers name, or else the likeliest of those that are there: one with as many classes."""
    readers = (config.train_input_reader, *config.eval_input_reader)
    for reader in readers:
        if place := place_of(reader.label_map_path, found.label_maps):
            return place.files[0]
    classes = config.model.faster_rcnn.num_classes
    ranked = sorted(found.label_maps, key=lambda file: (found.label_maps[file].num_classes != classes, found.is_pretrained(file), file))
    return ranked[0] if ranked else None


def records_of(reader: InputReader, found: ProjectFolder, split: str) -> FoundRecords | None:
    """The records of a reader of the split `train` or `val`, by its paths, or else by what splits are called; None where there are none."""
    written = list(reader.tf_record_input_reader.input_path)
    for one in written:
        if place := place_of(one, found.records):
            return FoundRecords(one, place.files, place.others)
    for meaning in (TRAIN,) if split == TRAIN else (VAL, TEST):
        if files := _called(found.records, meaning):
            return FoundRecords(", ".join(written), files, by_name=True)
    return None


def _called(files: Iterable[Path], meaning: str) -> tuple[Path, ...]:
    """The first set of shards whose name says that it is of a split."""
    families: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        words = re.split(r"[^A-Za-z]+", shard_family(file.name))
        if meaning in {split_meaning(word) for word in words if word}:
            families.setdefault((file.parent, shard_family(file.name)), []).append(file)
    return tuple(next(iter(families.values()))) if families else ()
