"""The plan of a training on four small scenes: counted, run, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import cli
from tasks.convert import convert
from tasks.plan import plan
from tasks.planning.batch_shapes import BatchShape
from tasks.planning.devices import GIBI, Device, Machine
from tasks.planning.graph_operations import OperationCount
from tasks.planning.measured_step import Limits, measure_step
from tasks.planning.step_count import StepCount
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, write_text
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, override

SMALL = Overrides(image_size=64, steps=4000, batch_size=2, proposals=4, seed=1)


@pytest.fixture(scope="module")
def model(scenes: DatasetDir, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    model = ModelDir(tmp_path_factory.mktemp("runs") / "mask_rcnn_inception_v2_coco")
    convert(model.name, scenes, model)
    return model


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


def told(model: ModelDir) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(model.plan.read_text())
    return values


def test_counted_plan_for_another_machine_goes_on_from_the_last_checkpoint(model: ModelDir, capsys: pytest.CaptureFixture[str]) -> None:
    model.train.mkdir()
    (model.train / "ckpt-400.index").touch()
    write_text(model.train / "experiment.yaml", yaml.safe_dump({"runtime": {"mixed_precision_dtype": "tf32"}}))
    result = plan(model, SMALL, Machine(device="a100", count=2), price_per_hour=2.0)
    shutil.rmtree(model.train)
    found = told(model)
    assert (result.status, result.outputs["plan"]) == ("done", str(model.plan))
    assert found["batch"]["usual"] == {"images": 1, "height": 64, "width": 80, "objects": found["batch"]["largest"]["objects"]}
    assert (found["steps_left"], found["batch_size"], found["devices"]["count"]) == (3600, 2, 2)
    # As many steps as an hour has seconds.
    assert found["hours"]["likely"] == found["seconds_per_step"]["likely"]
    assert found["cost"]["likely"] == pytest.approx(2 * found["hours"]["likely"], rel=0.01)
    assert found["measured"] is None
    # As the training began, whose checkpoint there is.
    assert found["precision"] == "tf32"
    assert found["devices"]["peak_tflops"] == 156
    assert result.summary == found["summary"]
    assert result.summary["how"] == "estimated"
    # 13 million weights and their momenta.
    assert 0.05 < found["checkpoint_gb"] < 0.2
    printed = capsys.readouterr().out
    assert "on 2 x A100 SXM 80 GB" in printed
    assert "not measured: --count-only" in printed
    assert "datasheet" in printed


def test_config_is_planned_without_being_converted(
    model: ModelDir, scenes: DatasetDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = ModelDir(tmp_path / "model-seed7")
    words = [model.name, "--dataset", str(scenes.root), "--output", str(planned.root), "--set", "train_config.num_steps=50"]
    sized = ["--image-size", "64", "--proposals", "4", "--device", "h100", "--count-only"]
    monkeypatch.setattr(sys, "argv", ["maskline", "plan", *words, *sized])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found = told(planned)
    assert (found["config"], found["steps_left"], found["devices"]["name"]) == ("model-seed7", 50, "H100 SXM")
    # Of the dataset's scenes.
    assert (found["batch"]["usual"]["height"], found["batch"]["usual"]["width"]) == (64, 80)
    assert {file.name for file in planned.root.iterdir()} - {"tensorflow.log"} == {"plan.json"}


def test_what_describes_a_config_is_refused_of_a_model(
    model: ModelDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["maskline", "plan", str(model.root), "--set", "train_config.batch_size=2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--set is for a config, and without --output" in capsys.readouterr().err


def test_steps_are_run_on_the_records(model: ModelDir, capsys: pytest.CaptureFixture[str]) -> None:
    plan(model, SMALL, limits=Limits(seconds=300))
    found = told(model)
    steps = found["measured"]["step_seconds"]
    assert len(steps) == 3
    assert found["measured"]["shapes"] == [[64, 80]] * 3
    assert found["measured"]["input_images_per_second"] > 0
    assert (found["measured"]["ended"], found["not_measured"]) == ("", "")
    assert (found["hours"]["how"], found["memory_gb"]["how"]) == ("measured", "measured")
    assert found["seconds_per_step"]["high"] >= max(steps) * 0.99
    # A process with TensorFlow and the model is neither smaller nor larger than that.
    assert 0.3 < found["memory_gb"]["low"] < 8
    assert "measured, on" in capsys.readouterr().out


def test_process_is_ended_at_its_limits(model: ModelDir) -> None:
    experiment = load_experiment(model.experiment)
    override(experiment, SMALL)
    late = measure_step(experiment, Limits(seconds=0.5))
    assert (late.step_seconds, late.ended) == ((), "--time-limit, 0.5 s, was over")
    large = measure_step(experiment, Limits(gigabytes=0.05))
    assert (large.step_seconds, large.ended) == ((), "--memory-limit, 0.05 GB, was passed")


def test_what_is_seen_beforehand_not_to_fit_is_not_tried(model: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Device("slow", 100 * GIBI, 1e6, {"float32": 1e6}, "nobody", is_cpu=True)
    monkeypatch.setattr("tasks.planning.devices.this_cpu", lambda _precision: slow)
    operations = OperationCount(10**9, Counter({"Conv2D": 10**9}), ((10**9, 10**6),), GIBI)
    count = StepCount(BatchShape(2, 64, 80, 3), operations, 10**6, 10**6, 10**6)
    monkeypatch.setattr("tasks.plan.count_step", lambda *_: [count, count])
    monkeypatch.setattr("tasks.plan.measure_step", lambda *_: pytest.fail("it was tried"))
    plan(model, SMALL, limits=Limits(seconds=10))
    assert "--time-limit allows 10 s" in told(model)["not_measured"]
    plan(model, SMALL, limits=Limits(seconds=1e9, gigabytes=0.1))
    assert "--memory-limit allows 0.1 GB" in told(model)["not_measured"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: plan(model, price_per_hour=0), "--price-per-hour is 0"),
        (lambda model: plan(model, SMALL, Machine(device="a100", count=3)), "--batch-size 2 cannot be split over 3"),
        (lambda _model: Limits(seconds=0), "--time-limit is 0"),
        (lambda _model: Limits(gigabytes=-1), "--memory-limit is -1"),
        (lambda model: plan(ModelDir(model.root / "nowhere")), "experiment.yaml does not exist"),
    ],
)
def test_plan_that_cannot_be_is_refused(model: ModelDir, call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(model)
    assert isinstance(model.root, Path)
