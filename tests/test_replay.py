"""What a person is told of a step that was taken again; that it is the very step is held in `training/test_loop.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from tasks import replay as step
from tasks.input.placed_record import PlacedRecord
from tasks.replay import replay
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.replay import ReplayedImage, ReplayedStep
from tasks.training.task import TOTAL_LOSS

MASK_LOSS = "Loss/BoxClassifierLoss/mask_loss"


@pytest.fixture
def model(tmp_path: Path) -> ModelDir:
    """Of a training that has taken three steps."""
    model = ModelDir(tmp_path / "model")
    model.train.mkdir(parents=True)
    values = {"dataset_digest": "0", **mask_rcnn_zoo().as_dict()}
    (model.train / "experiment.yaml").write_text(yaml.safe_dump(values))
    (model.train / "metrics.jsonl").write_text("".join(json.dumps({"step": number}) + "\n" for number in (1, 2, 3)))
    return model


def test_images_losses_and_gradients_that_are_no_number_are_named(
    model: ModelDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [
        ReplayedImage(PlacedRecord(4, "data/train.record", 7, "cat.jpg"), [], {MASK_LOSS: 0.25, TOTAL_LOSS: 1.5}, 2.0),
        ReplayedImage(PlacedRecord(5, "data/train.record", 2, ""), ["boxes", "weights"], {MASK_LOSS: math.nan, TOTAL_LOSS: math.nan}, 3.0),
        # Its losses are numbers, and the way back is none.
        ReplayedImage(PlacedRecord(6, "data/train.record", 9, ""), [], {MASK_LOSS: 0.5, TOTAL_LOSS: 1.0}, math.inf),
    ]
    figures = {MASK_LOSS: math.nan, TOTAL_LOSS: math.nan, "gradient_norm": math.nan, "finite": 0.0}
    asked = []

    def found(_experiment: object, folder: Path, number: int) -> ReplayedStep:
        asked.append((folder, number))
        return ReplayedStep(folder / "ckpt-1", figures, images, ["conv/kernel:0"], 200)

    monkeypatch.setattr(step, "replay_step", found)
    result = replay(model, 3)
    assert asked == [(model.train, 3)]
    assert result.summary == {
        "step": 3,
        "from_step": 1,
        "figures": {MASK_LOSS: None, TOTAL_LOSS: None, "gradient_norm": None, "finite": 0.0},
        "bad_images": ["data/train.record: record 2", "data/train.record: record 9"],
        "bad_gradients": 1,
    }
    assert capsys.readouterr().out.splitlines() == [
        "step 3, taken again from ckpt-1",
        f"  all images: {MASK_LOSS} nan, {TOTAL_LOSS} nan, gradient norm nan",
        "  train.record record 7 (cat.jpg): alone its total loss is 1.5, its gradient norm 2",
        f"  train.record record 2: boxes, weights are no finite number; alone its total loss is nan ({MASK_LOSS} is none),"
        " its gradient norm 3",
        "  train.record record 9: alone its total loss is 1, its gradient norm inf",
        "  gradients that are no number: 1 of 200: conv/kernel:0",
    ]


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_step_that_was_not_taken_is_refused(model: ModelDir, number: int) -> None:
    with pytest.raises(UserError, match=f"has taken 3 steps, and step {number} is none of them") as error:
        replay(model, number)
    assert error.value.fix == "give one from 1 to 3"


def test_a_model_that_was_not_trained_is_refused(model: ModelDir) -> None:
    (model.train / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="has taken 0 steps") as error:
        replay(model, 1)
    assert "maskline train" in error.value.fix
    with pytest.raises(UserError, match="holds no training"):
        replay(ModelDir(model.root / "none"), 1)
