"""The step that takes one step of a training again and looks into it: which image, which loss and which gradient is no number.

    maskline replay MODEL_DIR STEP

For a step that training skipped (`train/skipped_steps/step-STEP.json`), and for any other. Goes from the newest whole checkpoint before it,
or from the training's beginning, over the steps between: with `--deterministic` training that is the very step, to the bit. Writes nothing.
Usual runtime: that of the steps since the checkpoint, and of building the model.
"""

from __future__ import annotations

import math
from pathlib import Path

from tasks.checkpoints.own_checkpoint import step_of
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_settings
from tasks.training.experiment import experiment_from
from tasks.training.replay import ReplayedImage, ReplayedStep, replay_step
from tasks.training.step_file import STEP, StepFile
from tasks.training.task import GRADIENT_NORM, TOTAL_LOSS


def replay(model: ModelDir, step: int) -> StepResult:
    """The summary tells of the step's figures, and how many of its images and gradients are no number."""
    trained = model.train / "experiment.yaml"
    if not trained.is_file():
        raise UserError(f"{model.train} holds no training", "run `maskline train` on this folder first")
    values = read_settings(trained)
    values.pop("dataset_digest", None)
    experiment = experiment_from(values, trained)
    reached = max((row[STEP] for row in StepFile(model.train / "metrics.jsonl").rows()), default=0)
    if not 0 < step <= reached:
        fix = f"give one from 1 to {reached}" if reached else "run `maskline train` on this folder first"
        raise UserError(f"{model.train}: the training has taken {reached} steps, and step {step} is none of them", fix)
    found = replay_step(experiment, model.train, step)
    _tell(step, found)
    images = [image for image in found.images if image.broken or not math.isfinite(image.losses[TOTAL_LOSS] + image.gradient_norm)]
    return StepResult(
        "replay",
        "done",
        {"model": str(model.root)},
        {
            "step": step,
            "from_step": step_of(found.start) if found.start else 0,
            # JSON has no other numbers.
            "figures": {name: value if math.isfinite(value) else None for name, value in found.figures.items()},
            "bad_images": [f"{image.record.file}: record {image.record.record}" for image in images],
            "bad_gradients": len(found.broken_gradients),
        },
    )


def _tell(step: int, found: ReplayedStep) -> None:
    print(f"step {step}, taken again from {found.start.name if found.start else 'the beginning of the training'}")
    losses = ", ".join(f"{name} {value:.6g}" for name, value in found.figures.items() if name.startswith("Loss/"))
    print(f"  all images: {losses}, gradient norm {found.figures[GRADIENT_NORM]:.6g}")
    for image in found.images:
        print(f"  {_told(image)}")
    broken = found.broken_gradients
    print(f"  gradients that are no number: {len(broken)} of {found.variables}{': ' if broken else ''}{', '.join(broken[:8])}", flush=True)


def _told(image: ReplayedImage) -> str:
    record = image.record
    name = f"{Path(record.file).name} record {record.record}" + (f" ({record.source_id})" if record.source_id else "")
    broken = f"{', '.join(image.broken)} {'are' if len(image.broken) > 1 else 'is'} no finite number; " if image.broken else ""
    bad_losses = [loss for loss, value in image.losses.items() if loss != TOTAL_LOSS and not math.isfinite(value)]
    losses = f" ({', '.join(bad_losses)} {'are' if len(bad_losses) > 1 else 'is'} none)" if bad_losses else ""
    return f"{name}: {broken}alone its total loss is {image.losses[TOTAL_LOSS]:.6g}{losses}, its gradient norm {image.gradient_norm:.6g}"
