"""A model as the original's training left it: a checkpoint and the `pipeline.config` that it was trained by, without a folder of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.checkpoints.files import find_checkpoint
from tasks.checkpoints.own_checkpoint import own_checkpoint
from tasks.pipeline_config.edits import end_training
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.fields import ConfigError, FieldError
from tasks.pipeline_config.parser import located, parse_pipeline_config, read_text
from tasks.pipeline_config.zoo import find_config, find_label_map
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.serving.trained_model import TrainedModel
from tasks.training.experiment import experiment_from

_CONFIG, _NOWHERE = "pipeline.config", "-"
_LABEL_MAPS_OF_COCO = ("mscoco_label_map.pbtxt", "mscoco_complete_label_map.pbtxt")


def original_model(path: Path, config: str = "") -> TrainedModel:
    """The model in a checkpoint, as `find_checkpoint` takes it, by a config: a zoo config's name or a path, by default the one beside it.

    UserError where there is no checkpoint or no config, where the config is not supported, and for a checkpoint of ours.
    """
    file = find_config(config) if config else _config_beside(path)
    text = read_text(file)
    refused: list[UserError] = []
    parsed = parse_pipeline_config(text, str(file), refused)
    checkpoint = find_checkpoint(path, file.stem)
    if own_checkpoint(checkpoint) is not None:
        raise UserError(f"{path} is of a model that was trained here", "name its folder, and the checkpoint with --checkpoint")
    # What only a training needs may be missing.
    parsed, _ = end_training(parsed)
    for reader in (parsed.train_input_reader, *parsed.eval_input_reader):
        reader.label_map_path = reader.label_map_path or _NOWHERE
        if not reader.tf_record_input_reader.input_path:
            reader.tf_record_input_reader.input_path.append(_NOWHERE)
    try:
        if refused:
            raise refused[0]
        values = translate(parsed, name=file.stem).values
    except (FieldError, ConfigError) as error:
        raise located(error, text, str(file)) from error
    return TrainedModel(experiment_from(values, file), file, str(checkpoint), "", trained_here=False)


def class_names(model: TrainedModel) -> Mapping[int, str]:
    """The names of its classes: the label map that its config names, there or beside the config; of the zoo's own, COCO's; else none."""
    named = Path(model.experiment.task.validation_data.label_map_path or model.experiment.task.train_data.label_map_path)
    for file in (named, model.experiment_file.parent / named.name):
        if file.is_file():
            return read_label_map(file).names
    return read_label_map(find_label_map("coco")).names if named.name in _LABEL_MAPS_OF_COCO else {}


def _config_beside(path: Path) -> Path:
    file = (path if path.is_dir() else path.parent) / _CONFIG
    if file.is_file():
        return file
    raise UserError(
        f"{path} is a checkpoint without a {_CONFIG} beside it",
        "give the config that it was trained by: --config with a path or a zoo name",
    )
