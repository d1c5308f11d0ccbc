"""A training on one device, and the same that goes on with two: a program, since devices and determinism are for a whole process.

    python tests/training/trained_on_devices.py FOLDER

Leaves in FOLDER the converted model, for others to train, and prints the losses and norms of each training's steps as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf
from official.core import config_definitions as cfg

from tasks.convert import convert
from tasks.materialize import materialize
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.training import loop
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, adapt_to_machine, override
from tasks.training.progress import Untracked
from tasks.training.step_file import StepFile
from tasks.training.task import GRADIENT_NORM

CONFIG_NAME = "mask_rcnn_inception_v2_coco"
STEPS = 4
CONFIG = [
    *(f"model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.{side}=64" for side in ("height", "width")),
    # Images of many sizes.
    "train_config.data_augmentation_options=[{random_crop_image {min_object_covered: 1.0}}]",
]
# A rate at which rounding does not grow from step to step.
OVERRIDES = Overrides(image_size=64, steps=STEPS, batch_size=2, learning_rate=0.00001, proposals=32, seed=1, deterministic=True)
OPTIONS = [
    *("--image-size", "64", "--steps", str(STEPS), "--batch-size", "2", "--learning-rate", "0.00001", "--proposals", "32"),
    *("--seed", "1", "--deterministic"),
]
"""The same as words of a command"""


def prepared(root: Path) -> ModelDir:
    (root / "scenes.yaml").write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    dataset = DatasetDir(root / "scenes")
    materialize(root / "scenes.yaml", dataset.root)
    model = ModelDir(root / CONFIG_NAME)
    convert(model.name, dataset, model, assignments=CONFIG)
    return model


def experiment(model: ModelDir) -> cfg.ExperimentConfig:
    values = load_experiment(model.experiment)
    override(values, OVERRIDES)
    adapt_to_machine(values, 0)
    values.trainer.checkpoint_interval = 1
    values.trainer.max_to_keep = STEPS
    return values


def losses(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if "Loss" in name} for row in StepFile(folder / "metrics.jsonl").rows()]


def norms(folder: Path) -> list[float]:
    """By which the gradients of all replicas are clipped."""
    return [row[GRADIENT_NORM] for row in StepFile(folder / "metrics.jsonl").rows()]


def two_devices(_runtime: cfg.RuntimeConfig) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def main() -> None:
    root = Path(sys.argv[1])
    os.environ["MASKLINE_WORKSPACE"] = str(root)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    model = prepared(root)
    one, two_after_one = folders = [root / name for name in ("one", "two_after_one")]
    one.mkdir()
    loop.run_training(experiment(model), one, Untracked())
    shutil.copytree(one, two_after_one)
    for step in range(2, STEPS + 1):
        for file in two_after_one.glob(f"ckpt-{step}.*"):
            file.unlink()
    loop.build_strategy = two_devices
    loop.run_training(experiment(model), two_after_one, Untracked())
    found = {folder.name: losses(folder) for folder in folders}
    print(json.dumps({**found, "norms": {folder.name: norms(folder) for folder in folders}}))


if __name__ == "__main__":
    main()
