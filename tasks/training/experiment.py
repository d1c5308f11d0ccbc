"""The experiment that training runs: Model Garden's `ExperimentConfig` with the zoo models' own fields.

Fields carry the names and defaults of the original `pipeline.config` language where it has them. A value enters once, through
`load_experiment`, which refuses unknown fields; `__post_init__` refuses values that contradict each other.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory

from tasks.input.config import DataConfig
from tasks.mask_rcnn import config
from tasks.running.errors import UserError
from tasks.running.workspace import read_settings
from tasks.training.optimization import OptimizationConfig

EXPERIMENT = "mask_rcnn_zoo"


@dataclasses.dataclass
class MaskRCNNTask(cfg.TaskConfig):
    """The zoo config's name, its model, its data, and how `init_checkpoint`, where there is one, is restored.

    `fine_tune_checkpoint_type`: `classification`, `detection` or `full`. Of a detection checkpoint the two backbones are
    restored, and with `load_all_detection_checkpoint_vars` the heads too. `checkpoint_label_map_path` names the
    checkpoint's classes; the heads are then restored for those that the training data has too.
    """

    name: str = ""
    fine_tune_checkpoint_type: str = "classification"
    load_all_detection_checkpoint_vars: bool = False
    checkpoint_label_map_path: str = ""
    model: config.MaskRCNN = dataclasses.field(default_factory=config.MaskRCNN)
    train_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=True))
    validation_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=False))


@dataclasses.dataclass
class TrainerConfig(cfg.TrainerConfig):
    """Model Garden's, and what its loop has no equal of: all of it can change from one start of a training to the next.

    `max_to_keep`: of the newest checkpoints; with its momentum one is half a gigabyte, and the one before is there for the case that the
    last is damaged. `evaluate_every`: steps between two evaluations of the validation records, 0 for none; the best checkpoint by
    `best_metric` stays too, and training ends after `patience` evaluations without a better one, unless that is 0. `on_nan`: `skip` a step
    whose loss or gradient is no number, within bounds, or `stop`. `deterministic`: every operation gives the same bits in every run, which
    costs time. `grace_seconds`: between SIGTERM and the end of the process.
    """

    max_to_keep: int = 2
    evaluate_every: int = 0
    best_metric: str = ""
    patience: int = 0
    on_nan: str = "skip"
    deterministic: bool = False
    grace_seconds: float = 30.0


@exp_factory.register_config_factory(EXPERIMENT)
def mask_rcnn_zoo() -> cfg.ExperimentConfig:
    """The experiment with the `pipeline.config` language's defaults; a converted config states the rest."""
    return cfg.ExperimentConfig(
        task=MaskRCNNTask(),
        trainer=TrainerConfig(
            optimizer_config=OptimizationConfig(
                {
                    "optimizer": {"type": "momentum", "momentum": {"momentum": 0.9, "global_clipnorm": 10.0}},
                    "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.0003}},
                }
            ),
        ),
        runtime=cfg.RuntimeConfig(distribution_strategy="one_device"),
    )


def load_experiment(path: Path) -> cfg.ExperimentConfig:
    """The experiment written in a YAML file; refuses fields that no part of it has."""
    if not path.exists():
        raise UserError(f"{path} does not exist", "write it with `maskline convert`")
    return experiment_from(read_settings(path), path)


def experiment_from(values: dict[str, Any], path: Path) -> cfg.ExperimentConfig:
    """The experiment of a nested mapping that was read from `path`; refuses fields that no part of it has."""
    experiment = exp_factory.get_exp_config(EXPERIMENT)
    try:
        experiment.override(values, is_strict=True)
        for augmentation in experiment.task.train_data.augmentations:
            augmentation.option()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}", "convert the pipeline.config again, or correct the field") from error
    return experiment
