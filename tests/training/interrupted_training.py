"""A training that runs through, and the same one that is evaluated on its way and killed again and again.

    python tests/training/interrupted_training.py FOLDER

A program, since determinism is for a whole process. Prints, as JSON, what both have left. Killing is an exception that no part of the loop
expects, raised where a kill would be felt: in an evaluation, and between the data and the index of a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.convert import convert
from tasks.materialize import materialize
from tasks.records.example_pb2 import Example
from tasks.records.tfrecord import ShardWriter, read_shard
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.training import validation
from tasks.training.experiment import load_experiment
from tasks.training.loop import run_training
from tasks.training.overrides import Overrides, adapt_to_machine, override
from tasks.training.progress import Progress
from tasks.training.replay import replay_step
from tasks.training.step_file import StepFile
from tests.training.trackers import Told

STEPS = 6
ANCHORS = [f"model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.{side}=64" for side in ("height", "width")]
OVERRIDES = Overrides(image_size=64, steps=STEPS, batch_size=1, learning_rate=0.003, proposals=8, seed=1, deterministic=True)


CLOCK = ("time", "compiled", "step/seconds", "step/images_per_second", "step/input_wait_share")


class Killed(BaseException):
    """A kill."""


def prepared(root: Path) -> ModelDir:
    """A converted model on four scenes, of which one has an object whose weight is no number."""
    (root / "scenes.yaml").write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    dataset = DatasetDir(root / "scenes")
    materialize(root / "scenes.yaml", dataset.root)
    (shard,) = dataset.root.glob("train.record-*")
    records = list(read_shard(shard))
    with ShardWriter(shard) as writer:
        for number, record in enumerate(records):
            example = Example.FromString(record)
            if number == 2:
                example.features.feature["image/object/weight"].float_list.value[0] = float("nan")
            writer.write(example.SerializeToString())
    model = ModelDir(root / "mask_rcnn_inception_v2_coco")
    convert(model.name, dataset, model, assignments=ANCHORS)
    return model


def experiment(model: ModelDir, evaluate_every: int, keep: int = 2) -> cfg.ExperimentConfig:
    values = load_experiment(model.experiment)
    override(values, OVERRIDES)
    adapt_to_machine(values, 0)
    values.trainer.override({"checkpoint_interval": 2, "evaluate_every": evaluate_every, "max_to_keep": keep})
    values.trainer.override({"optimizer_config": {"moving_average_decay": 0.9}})
    return values


def kill() -> None:
    raise Killed


@contextlib.contextmanager
def killed_while_writing(step: int) -> Iterator[None]:
    """Within the block, the checkpoint of a step is written without its index."""
    write = tf.train.Checkpoint.write

    def half(checkpoint: tf.train.Checkpoint, prefix: str) -> str:
        path: str = write(checkpoint, prefix)
        if prefix.endswith(f"-{step}"):
            Path(f"{path}.index").unlink()
            raise Killed
        return path

    tf.train.Checkpoint.write = half
    try:
        yield
    finally:
        tf.train.Checkpoint.write = write


@contextlib.contextmanager
def killed_while_measuring() -> Iterator[None]:
    """Within the block, an evaluation ends in its middle."""
    measure = validation.measure
    validation.measure = lambda *_, **__: kill()  # type: ignore[assignment]
    try:
        yield
    finally:
        validation.measure = measure


def left(folder: Path) -> dict[str, Any]:
    """What a training has left: its rows but for their times, its last weights by name, and the steps that it skipped."""
    reader = tf.train.load_checkpoint(str(written_checkpoints(folder)[-1]))
    evaluations = folder / "evaluations.json"
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {
        "rows": [
            # As text, since what is no number is not equal to itself.
            {name: str(value) for name, value in row.items() if name not in CLOCK and not name.startswith("system/")}
            for row in StepFile(folder / "metrics.jsonl").rows()
        ],
        "weights": {name: zlib.crc32(reader.get_tensor(name).tobytes()) for name in names},
        "skipped": {file.name: json.loads(file.read_text()) for file in (folder / "skipped_steps").glob("*")},
        "evaluations": json.loads(evaluations.read_text())["evaluations"] if evaluations.exists() else [],
        "checkpoints": [prefix.name for prefix in written_checkpoints(folder)],
    }


def main() -> None:
    root = Path(sys.argv[1])
    os.environ["MASKLINE_WORKSPACE"] = str(root)
    model = prepared(root)
    # Loops of one step each, whatever the machine's speed.
    Progress.most_steps = lambda *_: 1  # type: ignore[method-assign]
    evaluated: list[int] = []

    through, interrupted = (root / name for name in ("through", "interrupted"))
    for folder in (through, interrupted):
        folder.mkdir()

    run_training(experiment(model, evaluate_every=0, keep=3), through, Told())

    def train(folder: Path, tracker: Told | None = None) -> None:
        tracker = tracker or Told()
        try:
            run_training(experiment(model, evaluate_every=3), folder, tracker)
        finally:
            evaluated.extend(step for metrics, step in tracker.metrics if any(name.startswith("val/") for name in metrics))

    # Evaluated at 3, and killed at 5, which takes step 4 with it too.
    with contextlib.suppress(Killed), killed_while_writing(5):
        train(interrupted)
    code = None
    try:
        train(interrupted, Told(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    except SystemExit as ended:
        code = ended.code
    with contextlib.suppress(Killed), killed_while_measuring():
        train(interrupted)
    train(interrupted)
    again = dataclasses.asdict(replay_step(experiment(model, evaluate_every=0), through, 4))
    answer = {"replayed": again, "through": left(through), "interrupted": left(interrupted), "code": code, "evaluated": evaluated}
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main()
