"""The same training on one device and on two, and on two after one: a program, since devices and determinism are for a whole process.

    python tests/training/trained_on_devices.py FOLDER

Leaves in FOLDER the converted model, for others to train, and prints the losses of each training's steps as JSON.
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

STEPS = 5
CONFIG = [
    *(f"model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.{side}=64" for side in ("height", "width")),
    # Images of many sizes.
    "train_config.data_augmentation_options=[{random_crop_image {min_object_covered: 1.0}}]",
]
# A rate at which rounding does not grow from step to step.
OVERRIDES = Overrides(image_size=64, steps=STEPS, batch_size=2, learning_rate=0.00001, proposals=32, seed=1, deterministic=True)


def prepared(root: Path) -> ModelDir:
    (root / "scenes.yaml").write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    dataset = DatasetDir(root / "scenes")
    materialize(root / "scenes.yaml", dataset.root)
    model = ModelDir(root / "mask_rcnn_inception_v2_coco")
    convert(model.name, dataset, model, assignments=CONFIG)
    return model


def experiment(model: ModelDir) -> cfg.ExperimentConfig:
    values = load_experiment(model.experiment)
    override(values, OVERRIDES)
    adapt_to_machine(values, 0)
    values.trainer.checkpoint_interval = 2
    values.trainer.max_to_keep = STEPS
    return values


def losses(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if "Loss" in name} for row in StepFile(folder / "metrics.jsonl").rows()]


def two_devices(_runtime: cfg.RuntimeConfig) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def main() -> None:
    root = Path(sys.argv[1])
    os.environ["MASKLINE_WORKSPACE"] = str(root)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    model = prepared(root)
    one, two, two_after_one = folders = [root / name for name in ("one", "two", "two_after_one")]
    one.mkdir()
    two.mkdir()
    loop.run_training(experiment(model), one, Untracked())
    shutil.copytree(one, two_after_one)
    for file in (*two_after_one.glob("ckpt-4.*"), *two_after_one.glob("ckpt-5.*")):
        file.unlink()
    loop.build_strategy = two_devices
    loop.run_training(experiment(model), two, Untracked())
    loop.run_training(experiment(model), two_after_one, Untracked())
    print(json.dumps({folder.name: losses(folder) for folder in folders}))


if __name__ == "__main__":
    main()
