"""A training that is run again: agrees, does not, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import reproduce as step
from tasks.convert import convert
from tasks.reproduce import Tolerance, reproduce
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json, write_json
from tasks.train import train
from tasks.training.overrides import Overrides
from tasks.training.provenance import PROVENANCE

NAME = "mask_rcnn_inception_v2_coco"


@pytest.fixture(scope="module")
def model(scenes: DatasetDir, workspace: Path) -> ModelDir:
    """Trained for two steps."""
    model = ModelDir(workspace / "runs" / "first" / NAME)
    convert(NAME, scenes, model)
    train(model, Overrides(image_size=64, steps=2, batch_size=1, learning_rate=0.003, proposals=4, seed=1, deterministic=True))
    return model


def test_training_is_run_again_to_the_bit(model: ModelDir, capfd: pytest.CaptureFixture[str]) -> None:
    result = reproduce(model.root, steps=2)
    assert result.summary == {"agrees": True, "models": {NAME: True}}
    run = model.root.parent.with_name("first-reproduced")
    found = read_json(run / "reproduction.json")[NAME]
    assert found["losses"] == {
        "steps": 2,
        "largest": 0,
        "at_step": None,
        "agrees_until": dict.fromkeys(("0", "1e-07", "1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"), 2),
    }
    told = capfd.readouterr().out
    assert f"{NAME}: nothing that is known of differs now from then" in told
    assert "losses of 2 steps: equal to the bit" in told
    # It was trained, and by the same settings.
    assert (run / NAME / "train" / "result.json").exists()
    then, now = (yaml.safe_load((one / "train" / "experiment.yaml").read_text()) for one in (model.root, run / NAME))
    # What follows from the device by itself was written down by its name.
    assert (then["runtime"].pop("mixed_precision_dtype"), now["runtime"].pop("mixed_precision_dtype")) == (None, "float32")
    assert then == now


@pytest.fixture
def faked(model: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What training again will find: `losses` of each step, `metrics`; and `calls` of steps with their options."""
    again: dict[str, Any] = {"losses": [], "metrics": {}, "calls": []}

    def run(name: str, copy: ModelDir, options: list[str], _then: object) -> None:
        again["calls"].append((name, options))
        if name == "train":
            copy.train.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in again["losses"])
            (copy.train / "metrics.jsonl").write_text(text)
        else:
            write_json(copy.evaluation / "metrics.json", {"metrics": again["metrics"]})

    monkeypatch.setattr(step, "_maskline", run)
    rows = [json.loads(line) for line in (model.train / "metrics.jsonl").read_text().splitlines()]
    again["losses"] = rows
    return again


def test_losses_that_part_are_told_with_the_step(
    model: ModelDir, faked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faked["losses"][1]["Loss/total_loss"] *= 1 + 1e-5
    assert reproduce(model.root.parent, tmp_path / "again").summary["agrees"]
    assert faked["calls"] == [("train", ["--precision", "float32", "--xla", "off", "--deterministic"])]
    told = capsys.readouterr().out
    assert "equal to the bit up to step 1" in told
    assert "1.0e-05 of the total loss, at step 2: within 0.0001" in told
    assert not reproduce(model.root, tmp_path / "again", tolerance=Tolerance(losses=1e-6)).summary["agrees"]
    assert "does not agree with what it was" in capsys.readouterr().out
    faked["losses"] = []
    assert not reproduce(model.root, tmp_path / "again").summary["agrees"]
    assert "there is no step that both trainings have" in capsys.readouterr().out


def test_final_metrics_are_compared_where_it_was_evaluated(
    model: ModelDir, faked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(model.evaluation / "metrics.json", {"metrics": {"mask ap": 0.5, "box ap": 0.25}})
    try:
        faked["metrics"] = {"mask ap": 0.501, "box ap": 0.25}
        assert reproduce(model.root, tmp_path / "again").summary["agrees"]
        assert [name for name, _ in faked["calls"]] == ["train", "evaluate"]
        faked["metrics"] = {"mask ap": 0.503}
        assert not reproduce(model.root, tmp_path / "again").summary["agrees"]
        told = capsys.readouterr().out
        assert "mask ap: 0.5000 then, 0.5030 now" in told
        assert "box ap: only one has it" in told
        assert read_json(tmp_path / "again" / "reproduction.json")[NAME]["metrics"]["box ap"] is None
        # Of a part of the steps there is no final metric.
        faked["calls"].clear()
        reproduce(model.root, tmp_path / "part", steps=1)
        assert [name for name, _ in faked["calls"]] == ["train"]
    finally:
        (model.evaluation / "metrics.json").unlink()


def change(model: ModelDir, group: str, name: str, value: str) -> str:
    """Changes what is kept of a condition; what was kept before comes back."""
    file = model.train / PROVENANCE
    before = file.read_text()
    content = json.loads(before)
    content["sessions"][0]["conditions"][group][name] = value
    file.write_text(json.dumps(content))
    return before


def test_dry_run_tells_what_differs_and_trains_nothing(
    model: ModelDir, faked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(model.root, tmp_path / "again", dry_run=True).summary["agrees"]
    before = change(model, "packages", "numpy", "0.1")
    try:
        assert not reproduce(model.root, tmp_path / "again", dry_run=True).summary["agrees"]
        assert "packages: numpy: 0.1 then, " in capsys.readouterr().out
    finally:
        (model.train / PROVENANCE).write_text(before)
    assert faked["calls"] == []
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("group", "name", "fix"), [("data", "digest", "bring the records back"), ("start", "checkpoint", "bring the checkpoint")]
)
def test_another_training_is_not_run(model: ModelDir, faked: dict[str, Any], tmp_path: Path, group: str, name: str, fix: str) -> None:
    before = change(model, group, name, "something else")
    try:
        with pytest.raises(UserError, match=f"cannot be trained again: {group}: {name}: something else then") as error:
            reproduce(model.root, tmp_path / "again")
        assert fix in error.value.fix
    finally:
        (model.train / PROVENANCE).write_text(before)
    assert faked["calls"] == []


def test_what_cannot_be_reproduced_is_refused(model: ModelDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained model"):
        reproduce(tmp_path)
    with pytest.raises(UserError, match="where the training lies"):
        reproduce(model.root, model.root.parent)
    with pytest.raises(UserError, match="--steps is 0"):
        reproduce(model.root, steps=0)
    with pytest.raises(UserError, match="--metric-tolerance is -1"):
        Tolerance(metrics=-1)
    with pytest.raises(UserError, match="--tolerance is nan"):
        Tolerance(losses=math.nan)


def test_another_models_folder_is_not_written_over(model: ModelDir, faked: dict[str, Any], tmp_path: Path) -> None:
    other = ModelDir(tmp_path / "again" / model.name)
    other.root.mkdir(parents=True)
    other.experiment.write_text("trainer: {train_steps: 1}\n")
    with pytest.raises(UserError, match="is no reproduction of"):
        reproduce(model.root, tmp_path / "again")
    assert other.experiment.read_text() == "trainer: {train_steps: 1}\n"
    assert faked["calls"] == []
