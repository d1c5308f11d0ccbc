"""From a checkpoint as the original's Saver wrote it to the first step of a training, by way of convert and train."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorflow.core.protobuf import saver_pb2

from tasks.checkpoints.original_names import original_variables
from tasks.convert import convert
from tasks.lint import lint_config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.materialize import materialize
from tasks.pipeline_config.edits import MaskBranch
from tasks.pipeline_config.fine_tuning import StartingPoint
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.train import train
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides
from tests.checkpoints.tf1_checkpoint import write_checkpoint
from tests.parity.reference import REFERENCES, Reference
from tests.parity.references.weights import make_weight

NAME = "mask_rcnn_inception_v2_coco"
FIRST, SECOND, HEAD = "FirstStageFeatureExtractor/", "SecondStageFeatureExtractor/", "SecondStageBoxPredictor/"
# With its norm clipped at 10, the gradient of one step moves no weight by more than 1e-7.
ONE_STEP = Overrides(image_size=64, steps=1, batch_size=1, learning_rate=1e-8, proposals=4, seed=1)
STILL = 1e-6


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelDir:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    return ModelDir(tmp_path / "runs" / "test" / NAME)


@pytest.fixture(scope="module")
def original() -> dict[str, Any]:
    """A value for every variable of the original's graph, of 90 classes."""
    shapes = Reference(REFERENCES / "inception_v2_small.npz").variables()
    return {name: make_weight(name, shape, 1) for name, shape in shapes.items()}


def trained(model: ModelDir) -> dict[str, Any]:
    """The model's variables after its only step."""
    network = restored_model(read_trained_model(model.train))
    return {name: variable.numpy() for name, variable in original_variables(network).items()}


def assert_landed(found: dict[str, Any], stored: dict[str, Any]) -> None:
    for name, value in stored.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=STILL, err_msg=name)


def test_the_zoos_tarball_starts_a_model_of_other_classes(
    scenes: DatasetDir, model: ModelDir, original: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpacked = tmp_path / "unpacked"
    write_checkpoint(unpacked / "model.ckpt", original | {"global_step": np.int64(200_000)})
    with tarfile.open(tmp_path / f"{NAME}_2018_01_28.tar.gz", "w:gz") as archive:
        archive.add(unpacked, f"{NAME}_2018_01_28")
    label_map = tmp_path / "theirs.pbtxt"
    label_map.write_text('item { id: 17 name: "star" } item { id: 90 name: "ball" }')
    convert(NAME, scenes, model, start=StartingPoint(tmp_path, label_map=str(label_map)))
    assert train(model, ONE_STEP).status == "done"

    report = read_json(model.checkpoint_import)
    layers = ("ClassPredictor", "BoxEncodingPredictor", "Conv_1")
    class_heads = {f"{HEAD}{layer}/{leaf}" for layer in layers for leaf in ("weights", "biases")}
    assert report["missing"] == []
    assert report["ignored"] == {"global_step": "state of the finished training"}
    assert report["reshaped"].keys() == class_heads
    assert set(report["restored"]) == original.keys() - class_heads
    printed = capsys.readouterr().out
    assert f"restored {len(original) - 6} variables of {tmp_path}" in printed
    assert "take their statistics from" not in printed
    (artifact,) = (tmp_path / "mlartifacts").rglob("checkpoint_import.json")
    assert json.loads(artifact.read_text()) == report

    found = trained(model)
    assert_landed(found, {name: value for name, value in original.items() if name not in class_heads})
    # Column 0 is the background's, column n the class with id n.
    ids = {name: identity for identity, name in read_label_map(scenes.label_map).names.items()}
    for leaf in ("weights", "biases"):
        ours, theirs = found[f"{HEAD}ClassPredictor/{leaf}"], original[f"{HEAD}ClassPredictor/{leaf}"]
        assert ours.shape[-1] == 5
        np.testing.assert_allclose(ours[..., [0, ids["star"], ids["ball"]]], theirs[..., [0, 17, 90]], rtol=0, atol=STILL)


def test_an_imagenet_checkpoint_fills_both_halves_of_the_backbone(
    scenes: DatasetDir, model: ModelDir, original: dict[str, Any], tmp_path: Path
) -> None:
    backbone = {name: value for name, value in original.items() if name.startswith((FIRST, SECOND))}
    slim = {name.removeprefix(FIRST).removeprefix(SECOND): value for name, value in backbone.items()}
    assert len(slim) == len(backbone)
    checkpoint = write_checkpoint(tmp_path / "inception_v2.ckpt", slim, saver_pb2.SaverDef.V1)
    convert(NAME, scenes, model, start=StartingPoint(checkpoint, "classification"))
    train(model, ONE_STEP)
    report = read_json(model.checkpoint_import)
    assert set(report["restored"]) == backbone.keys()
    assert [report[name] for name in ("reshaped", "ignored", "missing")] == [{}, {}, []]
    assert_landed(trained(model), backbone)


def test_a_training_of_the_original_goes_on_with_its_step_and_momentum(
    scenes: DatasetDir, model: ModelDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(NAME, scenes, model)
    shapes = {name: tuple(one.shape) for name, one in original_variables(MaskRCNN(load_experiment(model.experiment).task.model)).items()}
    stored = {name: make_weight(name, shape, 1) for name, shape in shapes.items()}
    momentum = {f"{name}/Momentum": np.full(shape, 1e4, np.float32) for name, shape in shapes.items()}
    checkpoint = write_checkpoint(tmp_path / "model.ckpt-41", stored | momentum | {"global_step": np.int64(41)})
    shutil.rmtree(model.root)
    convert(NAME, scenes, model, start=StartingPoint(checkpoint, "full"))
    summary = train(model, dataclasses.replace(ONE_STEP, steps=42)).summary
    assert summary["steps"] == 42
    assert "goes on from step 41 with the optimizer's state of 222 variables" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (model.train / "metrics.jsonl").read_text().splitlines()] == [42]
    found = trained(model)
    # One step of 0.9 * 10,000 at a rate of 1e-8.
    for name in (f"{HEAD}ClassPredictor/weights", f"{FIRST}InceptionV2/Conv2d_2c_3x3/weights"):
        np.testing.assert_allclose(found[name] - stored[name], -9e-5, rtol=0, atol=STILL, err_msg=name)


def test_a_checkpoint_of_another_network_is_refused_and_another_try_begins_anew(
    scenes: DatasetDir, model: ModelDir, original: dict[str, Any], tmp_path: Path
) -> None:
    other = {name.replace("InceptionV2", "resnet_v1_50"): value for name, value in original.items()}
    checkpoint = write_checkpoint(tmp_path / "other" / "model.ckpt", other)
    convert(NAME, scenes, model, start=StartingPoint(checkpoint))
    with pytest.raises(UserError, match=r"nothing for FirstStageFeatureExtractor/InceptionV2.*it holds .*resnet_v1_50"):
        train(model, ONE_STEP)
    assert not model.checkpoint_import.exists()

    checkpoint = write_checkpoint(tmp_path / "own" / "model.ckpt", original)
    convert(NAME, scenes, model, start=StartingPoint(checkpoint))
    assert train(model, ONE_STEP).status == "done"
    report = read_json(model.checkpoint_import)
    assert set(report["restored"]) == {name for name in original if name.startswith((FIRST, SECOND))}
    assert set(report["ignored"].values()) == {"a head; load_all_detection_checkpoint_vars restores it"}


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelDir, dict[str, Any], DatasetDir]:
    """A model that was trained on four classes, its variables, and its dataset, which has other classes since: a new one, one gone."""
    root = tmp_path_factory.mktemp("rewritten")
    source, dataset = root / "scenes.yaml", DatasetDir(root / "datasets" / "scenes")
    source.write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKLINE_WORKSPACE", str(root))
        materialize(source, dataset.root)
        first = ModelDir(root / "runs" / "first" / NAME)
        convert(NAME, dataset, first)
        train(first, ONE_STEP)
    materialize(source, dataset.root, {"remap_categories": {"ball": "apple", "star": None}})
    return first, trained(first), dataset


def test_a_model_of_ours_starts_the_next_one_whose_classes_are_found_by_name(
    rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir
) -> None:
    first, before, dataset = rewritten
    ids = {name: identity for identity, name in read_label_map(first.trained_label_map).names.items()}
    now = {name: identity for identity, name in read_label_map(dataset.label_map).names.items()}
    assert (sorted(ids), sorted(now)) == (["ball", "block", "ring", "star"], ["apple", "block", "ring"])
    # The folder of the run holds a model for each config.
    convert(NAME, dataset, model, start=StartingPoint(first.root.parent))
    train(model, ONE_STEP)

    report = read_json(model.checkpoint_import)
    assert report["checkpoint"] == str(first.train / "ckpt-1")
    assert (report["missing"], report["ignored"]) == ([], {})
    assert (report["known_classes"], report["new_classes"]) == (["block", "ring"], ["apple"])
    class_heads = {
        f"{HEAD}{layer}/{leaf}" for layer in ("ClassPredictor", "BoxEncodingPredictor", "Conv_1") for leaf in ("weights", "biases")
    }
    assert report["reshaped"].keys() == class_heads
    found = trained(model)
    assert_landed(found, {name: value for name, value in before.items() if name not in class_heads})
    for leaf in ("weights", "biases"):
        ours, theirs = found[f"{HEAD}ClassPredictor/{leaf}"], before[f"{HEAD}ClassPredictor/{leaf}"]
        assert ours.shape[-1] == 4
        columns = [0, now["block"], now["ring"]], [0, ids["block"], ids["ring"]]
        np.testing.assert_allclose(ours[..., columns[0]], theirs[..., columns[1]], rtol=0, atol=STILL)


def test_lint_looks_into_a_model_of_ours(rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir) -> None:
    first, _, dataset = rewritten
    convert(NAME, dataset, model, start=StartingPoint(first.root))
    found = lint_config(str(model.pipeline_config), dataset).summary
    # Heads of four classes, where the dataset has three: told, and no error.
    assert (found["errors"], "ML018" in found["warnings"]) == ([], True)


def test_a_model_of_ours_with_another_backbone_is_refused_by_convert(
    rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir
) -> None:
    first, _, dataset = rewritten
    with pytest.raises(UserError, match="is of a model with faster_rcnn_inception_v2, the config has faster_rcnn_resnet50"):
        convert("mask_rcnn_resnet50_atrous_coco", dataset, model, start=StartingPoint(first.root))


def test_a_model_of_ours_that_is_built_differently_is_refused_before_the_first_step(
    rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir
) -> None:
    first, _, dataset = rewritten
    convert(NAME, dataset, model, start=StartingPoint(first.train / "ckpt-1"), branch=MaskBranch(conv_layers=3))
    with pytest.raises(UserError, match=r"built differently: \d+ variables cannot be taken over") as caught:
        train(model, ONE_STEP)
    assert "--checkpoint-type detection" in caught.value.fix
    assert not model.checkpoint_import.exists()


def test_the_backbone_alone_of_a_model_of_ours_needs_no_classes(
    rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir
) -> None:
    first, _, dataset = rewritten
    convert(NAME, dataset, model, start=StartingPoint(first.root, "detection"))
    assert "checkpoint_label_map_path" not in yaml.safe_load(model.experiment.read_text())["task"]


def test_a_training_that_kept_no_classes_asks_for_them(
    rewritten: tuple[ModelDir, dict[str, Any], DatasetDir], model: ModelDir, tmp_path: Path
) -> None:
    first, _, dataset = rewritten
    older = tmp_path / "older"
    shutil.copytree(first.root, older)
    (older / "train" / "label_map.pbtxt").unlink()
    with pytest.raises(UserError, match=r"holds no label_map.pbtxt") as caught:
        convert(NAME, dataset, model, start=StartingPoint(older))
    assert "--checkpoint-label-map" in caught.value.fix
