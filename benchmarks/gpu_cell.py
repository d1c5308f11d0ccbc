"""One cell of `benchmarks.gpu`, in a process of its own which `gpu_schedule.Processes` starts with the cell and `Settings` as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu_schedule import COUNT, DONE, OUT_OF_MEMORY, PARITY, READY, Cell

# 640 x 384 pixels become 1333 x 800.
HEIGHT = 384
_IMAGES = 64
_WARM_UP, _LEAST_STEPS, _MOST_STEPS = 2, 3, 50


@dataclass(frozen=True)
class Settings:
    folder: str
    """Where records and converted configs lie, and are made by the first who needs them"""
    seconds: float = 2.0
    """For which steps are timed, but for at least three of them"""
    image_size: int | None = None
    """The short side; by default the config's"""
    proposals: int | None = None


def measured(cell: Cell, settings: Settings, wait_for_device: Callable[[], None]) -> dict[str, Any]:
    """What a cell of its kind is: see `count_of`, `parity_of` and `step_of`."""
    if cell.kind == COUNT:
        return count_of(cell, settings)
    return parity_of(cell, wait_for_device) if cell.kind == PARITY else step_of(cell, settings, wait_for_device)


def prepared_experiment(cell: Cell, settings: Settings) -> Any:
    """The experiment of a cell's config on generated photographs with 7 objects each, which are written once."""
    from benchmarks.photographs import write_photographs
    from tasks.convert import convert
    from tasks.materialize import materialize
    from tasks.running.workspace import DatasetDir, ModelDir
    from tasks.training.experiment import load_experiment
    from tasks.training.overrides import Overrides, override

    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    dataset, model = DatasetDir(folder / "records"), ModelDir(folder / "configs" / cell.config)
    # Other cells want the same.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not dataset.manifest.exists():
            splits = {}
            for split, images, grain in (("train", _IMAGES, 24.0), ("val", 1, 20.0)):
                photographs = folder / f"photographs-{split}"
                if not (photographs / "instances.json").exists():
                    write_photographs(photographs, images, grain, HEIGHT)
                splits[split] = {"images": str(photographs), "annotations": str(photographs / "instances.json")}
            (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "photographs", "splits": splits}))
            materialize(folder / "dataset.yaml", dataset.root)
        if not model.experiment.exists():
            convert(cell.config, dataset, model)
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides(image_size=settings.image_size, proposals=settings.proposals, batch_size=cell.images or 1, seed=0))
    return experiment


def count_of(cell: Cell, settings: Settings) -> dict[str, Any]:
    """`multiply_adds` of a step on one image with as many positive proposals as may be sampled, `height`, `width` and `parameters`."""
    from tasks.planning.batch_shapes import batch_shapes
    from tasks.planning.step_count import count_step

    experiment = prepared_experiment(cell, settings)
    shape = batch_shapes(experiment.task.train_data, experiment.task.model.image_resizer, 1).usual
    (count,) = count_step(experiment, shape)
    return {
        "multiply_adds": count.operations.multiply_adds,
        "height": shape.height,
        "width": shape.width,
        "parameters": count.parameters,
    }


def parity_of(cell: Cell, wait_for_device: Callable[[], None]) -> dict[str, Any]:
    """How far the model is from the original's tensors in float32 on the device: `rows`, how many `hold`, and the `worst` of each kind."""
    from tasks.training.precision import computing_in
    from tests.parity.reference import REFERENCES, SCOPES, zoo_name
    from tests.parity.report import KINDS, compared

    wait_for_device()
    (network,) = (network for network in SCOPES if zoo_name(network) == cell.config)
    with computing_in("float32"):
        rows = compared(REFERENCES / f"{network}_small.npz").rows
    worst = {kind: max(float(row.deviation) for row in rows if row.kind == kind) for kind in KINDS}
    beyond = [f"{row.tensor} {row.deviation:.1e} of {row.tolerance:.0e}" for row in rows if not row.holds]
    return {"rows": len(rows), "hold": len(rows) - len(beyond), "worst": worst, "beyond": beyond[:5]}


def step_of(cell: Cell, settings: Settings, wait_for_device: Callable[[], None]) -> dict[str, Any]:
    """A training step as `train` takes it, on records, in one graph of many steps.

    `seconds_per_step`, `input_wait` (the share of it for which the loop waited for its batch), `peak_bytes` (of the device's tensors while
    it trained, on a CPU of the process), `first_step_seconds` (with the compilation and the choice of kernels), `steps`, `finite`
    (those in which all was a number). The network samples as many positives as it may, so that its operations are those counted.
    """
    import tensorflow as tf

    from tasks.planning.measured_step import most_resident_bytes
    from tasks.planning.step_count import FullSample, TrainingStep
    from tasks.training.calibration import silence_residual_branches
    from tasks.training.devices import build_strategy
    from tasks.training.loop import compile_networks_only
    from tasks.training.overrides import adapt_to_machine
    from tasks.training.precision import computing_in, gpus_here, precision_of, settle_precision
    from tasks.training.step_log import INPUT_WAIT, StepLog
    from tasks.training.task import FINITE

    experiment = prepared_experiment(cell, settings)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    adapt_to_machine(experiment, int(on_gpu))
    settle_precision(experiment, gpus_here(), cell.precision, "on" if cell.xla else "off")
    compile_networks_only(experiment)
    strategy = build_strategy(experiment.runtime)
    with computing_in(precision_of(experiment)):
        log = StepLog(strategy, _MOST_STEPS)
        with strategy.scope():
            training = TrainingStep(experiment, FullSample, log)
            # Else what comes out of a hundred random layers is no number.
            silence_residual_branches(training.model)
        batches = iter(strategy.experimental_distribute_dataset(training.dataset))

        @tf.function
        def take(batches: Any, number: tf.Tensor) -> None:
            for _ in tf.range(number):
                batch = log.timed(lambda: next(batches))
                strategy.run(training.step, args=batch)

        take.get_concrete_function(batches, tf.TensorSpec([], tf.int32))
        wait_for_device()

        def seconds(number: int) -> float:
            start = time.monotonic()
            take(batches, tf.constant(number))
            # The device may still be at it.
            training.optimizer.iterations.numpy()
            return time.monotonic() - start

        first = seconds(1)
        if on_gpu:
            # What was tried while kernels were chosen is not needed again.
            tf.config.experimental.reset_memory_stats("GPU:0")
        warm = seconds(_WARM_UP) / _WARM_UP
        number = min(_MOST_STEPS, max(_LEAST_STEPS, round(settings.seconds / warm)))
        taken = seconds(number)
        figures = log.read(number, time.time())
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else most_resident_bytes()
    return {
        "seconds_per_step": taken / number,
        "input_wait": sum(figure[INPUT_WAIT] for figure in figures) / taken,
        "peak_bytes": int(peak),
        "first_step_seconds": first,
        "steps": number,
        "finite": sum(figure[FINITE] for figure in figures),
    }


def _use_one_gpu(is_count: bool) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    # What is counted runs nowhere.
    tf.config.set_visible_devices([] if is_count else gpus[:1], "GPU")
    for gpu in gpus:
        # Others wait with their weights on the same device.
        tf.config.experimental.set_memory_growth(gpu, True)


def main() -> None:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cell, settings = Cell(**json.loads(sys.argv[1])), Settings(**json.loads(sys.argv[2]))
    # Steps print for people: their lines go to the log, where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def wait_for_device() -> None:
        tell({READY: True})
        if not sys.stdin.readline():
            sys.exit("nobody waits for this cell any more")

    os.environ["MASKLINE_WORKSPACE"] = settings.folder
    import tensorflow as tf

    _use_one_gpu(cell.kind == COUNT)
    try:
        tell({"status": DONE, "values": measured(cell, settings, wait_for_device)})
    except tf.errors.OpError as error:
        if not isinstance(error, tf.errors.ResourceExhaustedError) and "RESOURCE_EXHAUSTED" not in error.message:
            raise
        tell({"status": OUT_OF_MEMORY, "values": {}, "why": error.message.splitlines()[0][:200]})


if __name__ == "__main__":
    main()
