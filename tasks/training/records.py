"""The records that an experiment reads."""

from __future__ import annotations

from pathlib import Path

from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.mask_rcnn.config import MaskRCNN
from tasks.records.record_set import RecordSet, record_set
from tasks.running.errors import UserError
from tasks.training.experiment import MaskRCNNTask


def with_needed_masks(data: DataConfig, model: MaskRCNN) -> DataConfig:
    """The data with masks only where the model has a stage for them: no other loss reads them."""
    return data.replace(load_instance_masks=data.load_instance_masks and model.number_of_stages == 3)


def records_read(task: MaskRCNNTask) -> RecordSet:
    """The records of training and evaluation; UserError where they cannot be read, or know more classes than the model."""
    train, validation, label_map = task.train_data, task.validation_data, Path(task.train_data.label_map_path).absolute()
    records = record_set(record_files(train), record_files(validation), label_map, train.max_bad_records)
    if records.labels.num_classes > task.model.num_classes:
        raise UserError(
            f"{task.train_data.label_map_path} has the id {records.labels.num_classes}, the model {task.model.num_classes} classes",
            f"convert again with --set model.faster_rcnn.num_classes={records.labels.num_classes}",
        )
    return records
