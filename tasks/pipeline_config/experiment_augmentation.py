"""The augmentation part of an experiment: `train_config.data_augmentation_options` to a list, in order, of names and parameters."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tasks.input.augmentation_options import OPTIONS, option
from tasks.pipeline_config.fields import FieldError, descriptor_of
from tasks.pipeline_config.ledger import Reading
from tasks.running.errors import UserError


def translate_augmentations(train: Reading) -> list[dict[str, Any]]:
    """The `task.train_data.augmentations` list, every parameter told. What is unsupported or contradicts itself is refused."""
    return [augmentation for step in train.each("data_augmentation_options") if (augmentation := step.attempt(_augmentation))]


def _augmentation(step: Reading) -> dict[str, Any]:
    kind = step.choose("preprocessing_step", OPTIONS, "augmentation")
    reading = step.inside(kind)
    parameters = {field.name: reading.value(field.name) for field in fields(OPTIONS[kind])}
    for name in descriptor_of(reading.message).fields_by_name.keys() - parameters.keys():
        reading.ignore("there are no keypoints", name)
    try:
        option(kind, parameters)
    except UserError as error:
        raise FieldError(reading.path, error.message, error.fix) from error
    return {"kind": kind, "parameters": parameters}
