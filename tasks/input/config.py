"""What batches are made of: the records, how they are read, and how they are augmented.

Fields carry the names and defaults of the original `pipeline.config` language where it has them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from official.core import config_definitions as cfg
from official.modeling.hyperparams import base_config

from tasks.input.augmentation_options import Option, option


@dataclasses.dataclass
class Augmentation(base_config.Config):
    """One of `augmentation_options.OPTIONS` by name, and its parameters; those that are left out have the original's defaults."""

    kind: str = ""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    def option(self) -> Option:
        return option(**self.as_dict())


@dataclasses.dataclass
class DataConfig(cfg.DataConfig):
    """Records as the original reads them. `mask_type`: `PNG_MASKS` or `NUMERICAL_MASKS`; `augmentations` in the order of their use.

    `merge_multiple_label_boxes`: objects with the same box are one object of several classes. `shuffle`: every epoch is in an order of its
    own, whole, however many records there are; else all are in the files' order. `max_bad_records`: so many that cannot be used may be
    left out of a training.
    """

    label_map_path: str = ""
    mask_type: str = "PNG_MASKS"
    load_instance_masks: bool = True
    max_number_of_boxes: int = 100
    merge_multiple_label_boxes: bool = False
    shuffle: bool = True
    max_bad_records: int = 0
    drop_remainder: bool = False
    augmentations: tuple[Augmentation, ...] = ()
