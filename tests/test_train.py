"""Train and evaluate on four small scenes: overrides, resumption, skipping, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.checkpoints.files import find_checkpoint
from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.coco.matches import read_matches
from tasks.convert import convert
from tasks.evaluate import BOX_AP, MASK_AP, evaluate
from tasks.materialize import materialize
from tasks.promote import promote
from tasks.promotion.champion import champion_on, measured_champion
from tasks.promotion.policy import read_policy, shipped_policy
from tasks.records.label_map import LabelMap
from tasks.records.record_set import RecordSet
from tasks.running import lease
from tasks.running.errors import UserError
from tasks.running.lease import leased
from tasks.running.workspace import DatasetDir, ModelDir, promotion_dir, write_json
from tasks.serving.trained_model import read_trained_model
from tasks.tracking import tracking_uri
from tasks.tracking.registry import Registry
from tasks.train import confirm_measurable, train
from tasks.training import validation
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, adapt_to_machine, override, steps_between
from tasks.training.step_file import StepFile

SMALL = Overrides(image_size=64, steps=2, batch_size=1, learning_rate=0.003, proposals=4, seed=1)


@pytest.fixture
def model(scenes: DatasetDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelDir:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    model = ModelDir(tmp_path / "runs" / "test" / "mask_rcnn_inception_v2_coco")
    convert("mask_rcnn_inception_v2_coco", scenes, model)
    return model


def test_overrides_keep_the_configs_proportions(model: ModelDir) -> None:
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides(image_size=128, steps=50, learning_rate=0.003, proposals=48))
    adapt_to_machine(experiment, num_gpus=0)
    resizer, second_stage = experiment.task.model.image_resizer, experiment.task.model.second_stage
    assert (resizer.min_dimension, resizer.max_dimension) == (128, 218)  # 128 * 1365 / 800 = 218.4
    # 0.0003, 0.00003, 0.000003 in the zoo.
    assert experiment.trainer.optimizer_config.learning_rate.stepwise.values == pytest.approx([0.003, 0.0003, 0.00003])
    # 300 proposals, 64 of them sampled, and 300 detections of at most 100 a class in the zoo.
    assert experiment.task.model.first_stage.max_proposals == 48
    assert second_stage.batch_size == 48
    assert (second_stage.max_total_detections, second_stage.max_detections_per_class) == (48, 48)
    assert (experiment.trainer.train_steps, experiment.trainer.checkpoint_interval) == (50, 10)
    assert experiment.task.train_data.seed == 0


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (
            "cosine_decay_learning_rate={learning_rate_base: 0.002 total_steps: 90 warmup_learning_rate: 0.0005 warmup_steps: 10}",
            {"initial_learning_rate": 0.004, "warmup_learning_rate": 0.001},
        ),
        (
            "exponential_decay_learning_rate={initial_learning_rate: 0.002 burnin_learning_rate: 0.001 min_learning_rate: 1e-5}",
            {"initial_learning_rate": 0.004, "burnin_learning_rate": 0.002, "min_learning_rate": 2e-5},
        ),
    ],
)
def test_a_learning_rate_moves_the_whole_schedule(scenes: DatasetDir, tmp_path: Path, schedule: str, rates: dict[str, float]) -> None:
    model = ModelDir(tmp_path / "mask_rcnn_resnet50_atrous_coco")
    path = "train_config.optimizer.momentum_optimizer.learning_rate"
    convert("mask_rcnn_resnet50_atrous_coco", scenes, model, assignments=[f"{path}.{schedule}"])
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides(learning_rate=0.004))
    optimization = experiment.trainer.optimizer_config
    found = optimization.learning_rate.get().as_dict() | (optimization.warmup.get().as_dict() if optimization.warmup.type else {})
    assert {name: found[name] for name in rates} == pytest.approx(rates)


def test_gpus_are_mirrored(model: ModelDir) -> None:
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides(batch_size=4))
    adapt_to_machine(experiment, num_gpus=2)
    assert experiment.runtime.distribution_strategy == "mirrored"
    with pytest.raises(UserError, match="--batch-size 4 cannot be split over 3 GPUs"):
        adapt_to_machine(experiment, num_gpus=3)


@pytest.mark.parametrize(
    ("text", "every"), [("500", 500), ("1", 1), ("0.1", 30), ("10%", 30), ("12.5%", 38), ("1.0", 300), ("100%", 300), ("0.0001", 1)]
)
def test_evaluations_are_apart_by_steps_or_by_a_share(text: str, every: int) -> None:
    # 300 steps; half a step is rounded to the even one.
    assert steps_between(text, 300) == every


@pytest.mark.parametrize("text", ["0", "-5", "0.0", "1.5", "0%", "101%", "nan%", "often", "", "1e3"])
def test_no_other_distance_between_evaluations_is_taken(text: str) -> None:
    with pytest.raises(UserError, match="--evaluate-every is"):
        steps_between(text, 300)


def test_evaluations_need_something_to_measure() -> None:
    records = RecordSet("empty", "0", Path("empty"), {}, LabelMap({1: "cat"}), Path("empty"), {"train": {2: 3}, "val": {0: 5}})
    with pytest.raises(UserError, match="the validation records hold no object"):
        confirm_measurable(3, records)
    with pytest.raises(UserError, match="proposals have none"):
        confirm_measurable(1, records)
    confirm_measurable(2, dataclasses.replace(records, objects_per_image={"val": {0: 5, 1: 1}}))


def test_what_follows_from_evaluations_needs_some(model: ModelDir) -> None:
    with pytest.raises(UserError, match="give --evaluate-every too"):
        override(load_experiment(model.experiment), Overrides(steps=10, patience=3))


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("learning_rate", -1.0), ("precision", "float8"), ("xla", "yes")])
def test_an_impossible_override_is_refused_by_its_option(name: str, value: object) -> None:
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        Overrides(**{name: value})  # type: ignore[arg-type]


@pytest.fixture
def scenes_with_test(tmp_path: Path) -> DatasetDir:
    """The scenes of `scenes`, and one more that is kept from training."""
    (tmp_path / "kept.yaml").write_text("name: kept\nshapes: {train: 4, val: 2, test: 1, height: 64, width: 80, seed: 3}\n")
    materialize(tmp_path / "kept.yaml", tmp_path / "kept")
    return DatasetDir(tmp_path / "kept")


def test_train_and_evaluate_leave_what_the_next_steps_read_and_skip_when_done(
    model: ModelDir, scenes_with_test: DatasetDir, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = scenes_with_test
    convert("mask_rcnn_inception_v2_coco", scenes, model)
    write_json(model.plan, {"summary": {"hours": 1.5, "memory_gb": 2.25, "cost": None, "limit": "input"}})
    assert train(model, SMALL).status == "done"
    result = json.loads((model.train / "result.json").read_text())
    assert result["steps"] == 2
    assert result["dataset_digest"] == json.loads(scenes.manifest.read_text())["digest"]
    total = result["losses"].pop("Loss/total_loss")
    assert len(result["losses"]) == 5
    assert total == pytest.approx(sum(result["losses"].values()), rel=1e-5)
    logged = lines(model)
    assert [row["step"] for row in logged] == [1, 2]
    assert logged[0]["learning_rate"] == pytest.approx(0.003)
    # Of two steps the first compiles and the last is the last tenth.
    assert result["images_per_second"] == pytest.approx(1 / logged[1]["step/seconds"])
    assert result["seconds"] == pytest.approx(logged[0]["step/seconds"] + logged[1]["step/seconds"])
    assert total == pytest.approx(logged[1]["Loss/total_loss"])
    (artifact,) = (model.root.parents[2] / "mlartifacts").rglob("zoo_difference.txt")
    assert "model.faster_rcnn.num_classes: 90 -> 4\n" in artifact.read_text()

    assert_test_is_measured_apart(model, scenes)
    assert not model.evaluation.exists()
    assert evaluate(model).status == "done"
    measured = json.loads((model.evaluation / "metrics.json").read_text())
    assert measured["images"] == 2
    truth = json.loads((model.evaluation / "groundtruth.json").read_text())
    objects = json.loads(scenes.manifest.read_text())["splits"]["val"]["objects"]
    assert len(truth["annotations"]) == objects
    source = json.loads((scenes.source / "val.json").read_text())
    assert {image["id"]: image["file_name"] for image in truth["images"]} == {image["id"]: image["file_name"] for image in source["images"]}
    detections = json.loads((model.evaluation / "detections.json").read_text())
    assert {row["category_id"] for row in detections} <= {category["id"] for category in source["categories"]}
    assert len(list((model.evaluation / "pictures").iterdir())) == 2
    assert measured["objects"] == objects
    assert f"2 images with {objects} objects" in capsys.readouterr().out

    client = MlflowClient(tracking_uri=f"sqlite:///{model.root.parents[2] / 'mlflow.db'}")
    run = client.get_run(json.loads(model.tracking.read_text())["run_id"])
    params, metrics = run.data.params, run.data.metrics
    assert len(params) <= 35
    assert {name: params[name] for name in ("dataset", "batch_size", "seed", "checkpoint", "proposals", "train_images")} == {
        "dataset": "kept",
        "batch_size": "1",
        "seed": "1",
        "checkpoint": "from scratch",
        "proposals": "4",
        "train_images": "4",
    }
    assert (metrics["steps"], metrics["val_objects"]) == (2, objects)
    assert metrics["images_per_second"] == pytest.approx(result["images_per_second"])
    assert_every_step_is_told(model, logged, client)
    assert (metrics["planned_hours"], metrics["planned_memory_gb"]) == (1.5, 2.25)
    assert "planned_cost" not in metrics
    assert "plan.json" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert metrics["box_ap"] == round(measured["metrics"]["DetectionBoxes_Precision/mAP"], 4)
    assert len([file for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]) == 2

    assert (train(model, SMALL).status, evaluate(model).status) == ("skipped", "skipped")
    with pytest.raises(UserError, match=r"other settings.*learning_rate.*\[0\.003.*\[0\.001"):
        train(model, dataclasses.replace(SMALL, learning_rate=0.001))
    with pytest.raises(UserError, match="2 steps, more than the 1"):
        train(model, dataclasses.replace(SMALL, steps=1))

    # More steps of the same training go on from its end; an earlier version's experiment lacks the fields that came later.
    trained = model.train / "experiment.yaml"
    values = yaml.safe_load(trained.read_text())
    for name in ("evaluate_every", "on_nan", "grace_seconds"):
        del values["trainer"][name]
    del values["trainer"]["optimizer_config"]["moving_average_decay"]
    trained.write_text(yaml.safe_dump(values))
    # As if it had been evaluated on the way, and had ended early: with more patience it goes on, and without evaluations the last counts.
    write_json(model.train / "result.json", result | {"ended_early": True})
    rows = [{"step": 2, "metrics": {MASK_AP: 0.5}}]
    write_json(model.train / "evaluations.json", {"metric": MASK_AP, "best": {"checkpoint": "ckpt-2", "step": 2}, "evaluations": rows})
    assert read_trained_model(model.train).checkpoint == str(model.train / "ckpt-2")
    capsys.readouterr()
    going_on = train(model, dataclasses.replace(SMALL, steps=3))
    assert (going_on.summary["steps"], going_on.outputs["checkpoint"]) == (3, str(model.train / "ckpt-3"))
    assert "the last checkpoint is what is used from here on" in capsys.readouterr().out
    assert read_trained_model(model.train).checkpoint == str(model.train / "ckpt-3")
    with pytest.raises(UserError, match="has no best checkpoint"):
        read_trained_model(model.train, "best")
    assert [row["step"] for row in lines(model)] == [1, 2, 3]
    # A checkpoint of the same name, of another training, is not taken for this one.
    write_json(model.evaluation / "metrics.json", measured | {"checkpoint": str(model.train / "ckpt-3")})
    assert evaluate(model).status == "done"


def assert_every_step_is_told(model: ModelDir, logged: list[dict[str, Any]], client: MlflowClient) -> None:
    """The same numbers of each step in the file, in MLflow and in TensorBoard."""
    beside = ("step/seconds", "step/images_per_second", "step/input_wait_share", "gradient_norm", "learning_rate", "applied")
    sampled = ("sampled/anchors", "sampled/positive_anchors", "sampled/proposals", "sampled/positive_proposals")
    machine = ("system/cpu_utilization_percentage", "system/process_memory_usage_megabytes")
    for row in logged:
        losses = [name for name in row if name.startswith("Loss/")]
        assert len(losses) == 6
        assert row.keys() >= {"time", "compiled", *beside, *sampled, *machine}
        assert row["step/images_per_second"] == pytest.approx(1 / row["step/seconds"], rel=1e-3)
        assert 0 <= row["step/input_wait_share"] <= 1
        # Of 4 proposals a quarter may be positive.
        assert row["sampled/proposals"] <= 4
        assert row["sampled/positive_proposals"] <= 1
    events = EventAccumulator(str(model.train / "tensorboard")).Reload()
    run_id = json.loads(model.tracking.read_text())["run_id"]
    for name in (*losses, *beside, *sampled, *machine):
        told = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in logged]
        assert [(point.step, point.value) for point in client.get_metric_history(run_id, name)] == told, name
        assert [(event.step, event.value) for event in events.Scalars(name)] == told, name


def lines(model: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model.train / "metrics.jsonl").read_text().splitlines()]


def assert_test_is_measured_apart(model: ModelDir, scenes: DatasetDir) -> None:
    """On its own images, into a folder and under metric names of its own; refused where these images may have been trained on."""
    assert evaluate(model, "testing").status == "done"
    assert evaluate(model, "test").status == "skipped"
    assert_registered_model_is_the_checkpoint(model, scenes)
    measured = json.loads((model.test_evaluation / "metrics.json").read_text())
    assert (measured["split"], measured["images"]) == ("test", 1)
    truth = json.loads((model.test_evaluation / "groundtruth.json").read_text())
    source = json.loads((scenes.source / "test.json").read_text())
    assert [image["file_name"] for image in truth["images"]] == [image["file_name"] for image in source["images"]]
    run_id = json.loads(model.tracking.read_text())["run_id"]
    metrics = mlflow.tracking.MlflowClient(tracking_uri()).get_run(run_id).data.metrics
    assert metrics["test/DetectionBoxes_Precision/mAP"] == measured["metrics"]["DetectionBoxes_Precision/mAP"]
    assert "DetectionBoxes_Precision/mAP" not in metrics
    with pytest.raises(UserError, match="--split is 'train'"):
        evaluate(model, "train")
    manifest = scenes.manifest.read_text()
    scenes.manifest.write_text(json.dumps(json.loads(manifest) | {"digest": "0" * 64}))
    with pytest.raises(UserError, match="the dataset is not the one that the model was trained on"):
        evaluate(model, "test")
    content = json.loads(manifest)
    del content["splits"]["test"]
    scenes.manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"have no split `test`\n.*test: 0.1"):
        evaluate(model, "test")
    scenes.manifest.write_text(manifest)


def assert_registered_model_is_the_checkpoint(model: ModelDir, scenes: DatasetDir) -> None:
    """What the registry hands out is held against the checkpoint, and finds the same where a promotion measures it on other data."""
    registered = evaluate(model, "test", register=True)
    assert registered.status == "skipped"
    own = read_matches(model.test_evaluation / "matches.npz")
    dataset = json.loads((model.test_evaluation / "metrics.json").read_text())["dataset"]
    registry = Registry(dataset)
    version = registry.with_checkpoint(own.about["checkpoint_digest"])
    assert version is not None
    assert registered.summary["registered"] == f"models:/{dataset}/{version.number}"
    moved = dataclasses.replace(version, tags={**version.tags, "model_dir": "gone"})
    anew = measured_champion(registry, moved, model, own, "test").matches
    assert len(anew.detections) == len(own.detections) > 0
    np.testing.assert_allclose(np.sort(anew.detections.score), np.sort(own.detections.score), atol=1e-4)
    (kept,) = promotion_dir(dataset).glob(f"version-{version.number}-test-*")
    shutil.rmtree(kept)
    newest = champion_on(registry, moved, scenes, "test")
    np.testing.assert_array_equal(newest.detections.score, anew.detections.score)
    assert newest.about["dataset_digest"] == own.about["dataset_digest"]
    rules = promote(model.root, read_policy(shipped_policy()), None).summary["rules"]
    assert [rules[rule]["passed"] for rule in ("split_chose_nothing", "data_known", "export_agrees", "most_memory_gb")] == [True] * 4


SMALL_ANCHORS = tuple(f"model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.{side}=64" for side in ("height", "width"))


def test_the_best_checkpoint_is_kept_and_used_and_patience_ends_a_training(
    scenes: DatasetDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    model = ModelDir(tmp_path / "runs" / "test" / "mask_rcnn_inception_v2_coco")
    convert(model.name, scenes, model, assignments=SMALL_ANCHORS)
    values = iter([0.3, 0.5, 0.4, 0.2])
    monkeypatch.setattr(validation, "measure", lambda *_, **__: {"images": 2, "metrics": {MASK_AP: next(values), BOX_AP: 0.1}})
    asked = dataclasses.replace(SMALL, steps=10, evaluate_every="2", patience=2, keep=1)
    trained = train(model, asked)
    # Of the steps 2, 4, 6 and 8 the second was the best, and two were not better.
    assert (trained.summary["steps"], trained.outputs["checkpoint"]) == (8, str(model.train / "ckpt-4"))
    said = capsys.readouterr().out
    assert "evaluated step 6: mask AP 0.4000, box AP 0.1000 on 2 images in " in said
    assert "; the best is ckpt-4 with 0.5000, the last 2 are not better" in said
    assert "training ends at step 8: 2 evaluations in a row were not better" in said
    assert f"the best of 4 evaluations is ckpt-4, {MASK_AP} 0.5000" in said
    assert [prefix.name for prefix in written_checkpoints(model.train)] == ["ckpt-4", "ckpt-8"]
    assert read_trained_model(model.train).checkpoint == str(model.train / "ckpt-4")
    assert read_trained_model(model.train, "last").checkpoint == str(model.train / "ckpt-8")
    assert find_checkpoint(model.root, model.name) == model.train / "ckpt-4"
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    curve = client.get_metric_history(json.loads(model.tracking.read_text())["run_id"], f"val/{MASK_AP}")
    assert [(point.step, point.value) for point in curve] == [(2, 0.3), (4, 0.5), (6, 0.4), (8, 0.2)]

    assert train(model, asked).status == "skipped"


def test_two_trainings_never_write_to_one_folder(model: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_SECONDS_TO_WAIT", 0.0)
    with (
        leased(model.training_lock, "is trained"),
        pytest.raises(UserError, match=rf"{model.name} is trained by process {os.getpid()} on .*\n  fix: wait until that has ended"),
    ):
        train(model)


def test_evaluating_before_training_says_what_to_run(model: ModelDir) -> None:
    with pytest.raises(UserError, match="holds no checkpoint") as error:
        evaluate(model)
    assert "maskline train" in error.value.fix


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(model: ModelDir) -> None:
    command = [sys.executable, "-m", "tasks", "train", str(model.root), "--image-size", "64", "--steps", "120", "--batch-size", "1",
               "--learning-rate", "0.003", "--proposals", "4", "--seed", "1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=os.environ.copy())
    while not list(model.train.glob("ckpt-*.index")):
        assert process.poll() is None, "training ended before its first checkpoint"
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    gone_on = re.search(r"training from step (\d+) ", done.stdout)
    assert gone_on is not None
    assert int(gone_on[1]) > 0
    assert json.loads((model.train / "result.json").read_text())["steps"] == 120
    counting = list(StepFile(model.train / "metrics.jsonl").rows())
    assert [row["step"] for row in counting] == list(range(1, 121))
    # MLflow has the first time of those that were taken twice, and the file both.
    first = {row["step"]: row["Loss/total_loss"] for row in reversed(lines(model))}
    assert len(first) <= len(lines(model))
    client = MlflowClient(tracking_uri=tracking_uri())
    points = client.get_metric_history(json.loads(model.tracking.read_text())["run_id"], "Loss/total_loss")
    assert [(point.step, point.value) for point in points] == sorted(first.items())

    # Nothing was asked to be deterministic: threads may add in another order.
    undisturbed = ModelDir(model.root.parent / "undisturbed" / model.name)
    shutil.copytree(model.root, undisturbed.root, ignore=shutil.ignore_patterns("train", "tracking.json"))
    subprocess.run([*command[:4], str(undisturbed.root), *command[5:]], cwd=Path(__file__).parents[1], capture_output=True, check=True)
    expected = [row["Loss/total_loss"] for row in StepFile(undisturbed.train / "metrics.jsonl").rows()]
    looked_at = int(gone_on[1]) + 20
    assert [row["Loss/total_loss"] for row in counting[:looked_at]] == pytest.approx(expected[:looked_at], rel=1e-3)


# What the original's sample for AVA has beside the one for COCO: an object can be of several classes.
SEVERAL_CLASSES = (
    "model.faster_rcnn.second_stage_classification_loss={weighted_sigmoid {anchorwise_output: true}}",
    "model.faster_rcnn.second_stage_post_processing.score_converter=SIGMOID",
    "train_config.merge_multiple_label_boxes=true",
)


@pytest.mark.slow
@pytest.mark.parametrize("assignments", [(), SEVERAL_CLASSES])
def test_a_faster_rcnn_sample_is_trained_with_masks(
    scenes: DatasetDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assignments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    config = Path(__file__).parents[1] / "configs" / "faster_rcnn" / "faster_rcnn_resnet101_coco.config"
    model = ModelDir(tmp_path / "runs" / "test" / config.stem)
    convert(str(config), scenes, model, assignments=(*assignments, *SMALL_ANCHORS))
    train(model, dataclasses.replace(SMALL, proposals=32))
    # Proposals lie on objects, so that all five losses have something to say.
    losses = json.loads((model.train / "result.json").read_text())["losses"]
    assert len(losses) == 6
    assert all(0 < loss < 1000 for loss in losses.values())
    assert evaluate(model).summary["box_ap"] is not None
    assert len(list((model.evaluation / "pictures").iterdir())) == 2


# What lets a network learn four small scenes by heart, from nothing, in minutes: Adam, anchors of 16 to 128 pixels, no mirrored scenes.
BY_HEART = (
    "train_config.optimizer.adam_optimizer={learning_rate {manual_step_learning_rate {"
    "initial_learning_rate: 0.0003 schedule {step: 600 learning_rate: 0.00003}}}}",
    "train_config.data_augmentation_options=[]",
    *SMALL_ANCHORS,
)


@pytest.mark.slow
def test_four_scenes_are_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three stages learn: on its own training images the model reaches a mask AP above 0.8."""
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    source = tmp_path / "scenes.yaml"
    source.write_text("name: scenes\nshapes: {train: 4, val: 1, height: 128, width: 160, seed: 0}\n")
    materialize(source, tmp_path / "scenes")
    model = ModelDir(tmp_path / "runs" / "test" / "mask_rcnn_resnet50_atrous_coco")
    convert("mask_rcnn_resnet50_atrous_coco", DatasetDir(tmp_path / "scenes"), model, assignments=BY_HEART)
    train(model, Overrides(image_size=128, steps=800, proposals=32, seed=1))
    # Evaluate on what was trained on.
    trained = model.train / "experiment.yaml"
    values = yaml.safe_load(trained.read_text())
    values["task"]["validation_data"]["input_path"] = values["task"]["train_data"]["input_path"]
    trained.write_text(yaml.safe_dump(values))
    evaluate(model)
    metrics = json.loads((model.evaluation / "metrics.json").read_text())["metrics"]
    assert metrics["DetectionMasks_Precision/mAP"] > 0.8
