"""The training that drills disturb: a small one, its commands, and an undisturbed one to hold it against."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.checkpoints.own_checkpoint import step_of, written_checkpoints
from tasks.records.example_pb2 import Example
from tasks.records.tfrecord import ShardWriter, read_shard
from tasks.running.workspace import DatasetDir, ModelDir
from tests.drills.drill import Bench
from tests.drills.left import Left, left_by, rows_of
from tests.drills.processes import Ended, Process, ended, maskline, running

CONFIG = "mask_rcnn_inception_v2_coco"
IMAGES, BATCH = 24, 2
STEPS, EVALUATE_EVERY = 40, 10
STEPS_PER_EPOCH = IMAGES // BATCH
OPTIONS = ("--steps", f"{STEPS}", "--evaluate-every", f"{EVALUATE_EVERY}", "--learning-rate", "0.001")
_ALWAYS = ("--image-size", "64", "--batch-size", f"{BATCH}", "--proposals", "8", "--seed", "3", "--deterministic")
# An anchor as large as the image, instead of one of 256 pixels.
_SETTINGS = [f"model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.{side}=64" for side in ("height", "width")]

FAILED = 2
"""The code of a command that ends with a message for a person"""
TERMINATED = (143, -15)
"""The codes of a process that SIGTERM ended, which an orchestrator sees as one"""


class Training:
    """One training in a workspace, with records and an MLflow of its own."""

    def __init__(self, folder: Path, options: Sequence[str] = OPTIONS, settings: Sequence[str] = ()) -> None:
        """`options` are those of `maskline train`, `settings` are for `convert --set`."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.environment = {"MASKLINE_WORKSPACE": str(folder)}
        self.database = folder / "mlflow.db"
        self.dataset = DatasetDir(folder / "datasets" / "scenes")
        self.model = ModelDir(folder / "runs" / "drill" / CONFIG)
        self._options = options
        self._commands = 0
        scenes = folder / "scenes.yaml"
        scenes.write_text(f"name: scenes\nshapes: {{train: {IMAGES}, val: 4, height: 64, width: 80, seed: 5}}\n")
        self._prepare("materialize", str(scenes), "--output", str(self.dataset.root))
        assignments = [part for setting in (*_SETTINGS, *settings) for part in ("--set", setting)]
        self._prepare("convert", CONFIG, "--dataset", str(self.dataset.root), "--output", str(self.model.root), *assignments)

    def _prepare(self, *arguments: str) -> None:
        done = ended(maskline(*arguments), self.environment, self.log())
        if done.code:
            raise RuntimeError(f"{arguments[0]}: {done.output[-500:]}")

    def log(self) -> Path:
        """A file for the output of the next command."""
        self._commands += 1
        return self.folder / f"command-{self._commands}.log"

    @contextmanager
    def running(self, *options: str) -> Iterator[Process]:
        """`maskline train`, which does not outlive the block; `options` are added to, and stand above, the training's own."""
        with running(self.command(*options), self.environment, self.log()) as process:
            yield process

    def command(self, *options: str) -> list[str]:
        return maskline("train", str(self.model.root), *_ALWAYS, *self._options, *options)

    def run(self, *options: str) -> Ended:
        """`maskline train` to its end."""
        with self.running(*options) as process:
            return process.end()

    def lines(self) -> int:
        """How many lines the file of steps has, those of steps that were taken again among them."""
        return sum(1 for _ in rows_of(self.model))

    def step(self) -> int:
        """The last one whose figures are written."""
        return max((row["step"] for row in list(rows_of(self.model))[-1:]), default=0)

    def checkpoints(self) -> list[int]:
        """The steps of those that are there."""
        return [step_of(prefix) for prefix in written_checkpoints(self.model.train)]

    def evaluated(self) -> list[int]:
        """The steps of the evaluations that are done."""
        file = self.model.train / "evaluations.json"
        return [row["step"] for row in json.loads(file.read_text())["evaluations"]] if file.exists() else []

    def result(self) -> dict[str, Any] | None:
        """What the training says at its end; None before."""
        file = self.model.train / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    def left(self, database: Path | None = None) -> Left:
        return left_by(self.model, database or self.database)

    def shard(self) -> Path:
        """The file of all training records."""
        (shard,) = self.dataset.root.glob("train.record-*")
        return shard

    def change_record(self, number: int, change: Callable[[Example], None]) -> None:
        """Writes the training records again, with one of them changed."""
        records = list(read_shard(self.shard()))
        example = Example.FromString(records[number])
        change(example)
        records[number] = example.SerializeToString()
        with ShardWriter(self.shard()) as writer:
            for record in records:
                writer.write(record)

    def damage_records(self, *numbers: int) -> None:
        """Overwrites 16 bytes in the middle of training records."""
        content = bytearray(self.shard().read_bytes())
        records = list(read_shard(self.shard()))
        for number in numbers:
            place = content.index(records[number]) + len(records[number]) // 2
            content[place : place + 16] = bytes(byte ^ 0xFF for byte in content[place : place + 16])
        self.shard().write_bytes(content)


@dataclass(frozen=True)
class Undisturbed:
    """A training that ran through, on one device."""

    left: Left
    seconds_to_first_step: float
    seconds_of_evaluation: float
    seconds_after_last_evaluation: float
    checkpoint_bytes: int


def undisturbed(bench: Bench) -> Undisturbed:
    """One that all drills share; run where none has run it. RuntimeError where it fails, and so no drill can be judged."""
    folder = bench.shared / "undisturbed"
    times = folder / "times.json"
    if not times.exists():
        shutil.rmtree(folder, ignore_errors=True)
        bench.say(f"an undisturbed training first, in {folder}")
        training = Training(folder)
        with training.running() as process:
            process.until(lambda: training.step() > 0)
            first = time.time()
            process.until(lambda: STEPS in training.checkpoints())
            checkpoint = time.time()
            process.until(lambda: STEPS in training.evaluated())
            last = time.time()
            done = process.end()
            end = time.time()
        if done.code:
            raise RuntimeError(f"the undisturbed training failed: {done.output[-500:]}")
        data, *_ = training.model.train.glob(f"ckpt-{training.checkpoints()[-1]}.data-*")
        found = Undisturbed(training.left(), first - process.begun, last - checkpoint, end - last, data.stat().st_size)
        kept = {name: value for name, value in vars(found).items() if name != "left"}
        times.write_text(json.dumps(kept))
    return Undisturbed(left_in(folder), **json.loads(times.read_text()))


def left_in(folder: Path) -> Left:
    """What the training in a workspace has left."""
    return left_by(ModelDir(folder / "runs" / "drill" / CONFIG), folder / "mlflow.db")
