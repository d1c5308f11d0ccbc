"""Folders as people have them become runs, and nothing in them is touched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tasks.adopt import adopt
from tasks.checkpoints.original_names import original_variables
from tasks.evaluate import Effort, evaluate_predictor
from tasks.mask_rcnn.model import MaskRCNN
from tasks.pipeline_config.zoo import zoo_configs
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tests.checkpoints.exported_model import write_frozen_graph, write_saved_model
from tests.checkpoints.tf1_checkpoint import write_checkpoint
from tests.parity.reference import zoo_model_of
from tests.parity.references.weights import make_weight

CLASSES = 4
_SMALL = {
    "num_classes: 90": f"num_classes: {CLASSES}",
    "min_dimension: 800 max_dimension: 1365": "min_dimension: 64 max_dimension: 80",
    "first_stage_max_proposals: 300": "first_stage_max_proposals: 6",
    "max_detections_per_class: 100": "max_detections_per_class: 6",
    "max_total_detections: 300": "max_total_detections: 6",
    "num_steps: 200000": "num_steps: 50",
}


def config_text(**paths: str) -> str:
    """The zoo's smallest config on other paths, of a network that is quick."""
    text = " ".join(re.sub("#.*", "", zoo_configs()["mask_rcnn_inception_v2_coco"].read_text()).split())
    for before, after in _SMALL.items():
        assert before in text
        text = text.replace(before, after)
    start, train, val, label_map = (paths[name] for name in ("start", "train", "val", "label_map"))
    text = re.sub(r'fine_tune_checkpoint: "[^"]*"', f'fine_tune_checkpoint: "{start}"', text)
    text = re.sub(r'label_map_path: "[^"]*"', f'label_map_path: "{label_map}"', text)
    for path in (train, val):
        text = re.sub(r'input_path: "PATH[^"]*"', f'input_path: "{path}"', text, count=1)
    return text


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """A value for each of the network's variables, by the original's names."""
    settings = zoo_model_of("inception_v2")
    settings.num_classes = CLASSES
    shapes = {name: tuple(variable.shape) for name, variable in original_variables(MaskRCNN(settings)).items()}
    return {name: make_weight(name, shape, 1) for name, shape in shapes.items()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, from which nobody works; the workspace is elsewhere."""
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path / "workspace"))
    folder = tmp_path / "old project"
    folder.mkdir()
    return folder


def put_records(scenes: DatasetDir, folder: Path, train: str, val: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", train), ("val", val)):
        (shard,) = scenes.root.glob(f"{split}.record-*")
        shutil.copyfile(shard, folder / name)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything in a folder."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_course_s_folder_goes_on_where_it_was_left(
    project: Path, stored: dict[str, Any], scenes: DatasetDir, capsys: pytest.CaptureFixture[str]
) -> None:
    put_records(scenes, project / "annotations", "train.record", "test.record")
    shutil.copyfile(scenes.label_map, project / "annotations" / "label_map.pbtxt")
    text = config_text(
        start="C:/Users/me/training_demo/pre-trained-models/mask_rcnn_inception_v2_coco_2018_01_28/model.ckpt",
        train="C:/Users/me/training_demo/annotations/train.record",
        val="C:/Users/me/training_demo/annotations/test.record",
        label_map="C:/Users/me/training_demo/annotations/label_map.pbtxt",
    )
    pretrained = project / "pre-trained-models" / "mask_rcnn_inception_v2_coco_2018_01_28"
    write_checkpoint(pretrained / "model.ckpt", {"Conv/weights": np.zeros(1, np.float32)})
    (pretrained / "pipeline.config").write_text(zoo_configs()["mask_rcnn_inception_v2_coco"].read_text())
    home = project / "models" / "my_model"
    momentum = {f"{name}/Momentum": np.ones_like(value) for name, value in stored.items()}
    for step in (20, 41):
        write_checkpoint(home / f"model.ckpt-{step}", stored | momentum | {"global_step": np.int64(step)})
    (home / "pipeline.config").write_text(text)
    (home / "events.out.tfevents.1600000000.host").write_bytes(b"")
    (project / "images" / "train").mkdir(parents=True)
    (project / "images" / "train" / "1.jpg").touch()
    before = state(project)

    run = project.parent / "run"
    found = adopt(project, run, evaluate=True)
    assert state(project) == before
    model = ModelDir(run / "my_model")
    printed = capsys.readouterr().out
    assert "weights   models/my_model/model.ckpt-41: step 41, with its optimizer's state (model.ckpt-20 beside it)" in printed
    assert "records   annotations/train.record: 4 images" in printed
    assert "C:/Users/me/training_demo/annotations/test.record -> annotations/test.record" in printed
    assert found.summary["missing"] == []
    assert found.summary["commands"] == [f"maskline {step} {model.root}" for step in ("evaluate", "train", "export")]
    task = yaml.safe_load(model.experiment.read_text())["task"]
    assert (task["init_checkpoint"], task["fine_tune_checkpoint_type"]) == (str(home / "model.ckpt-41"), "full")
    assert task["validation_data"]["input_path"] == str(project / "annotations" / "test.record")
    metrics = read_json(model.evaluation / "metrics.json")
    assert (metrics["images"], metrics["checkpoint"]) == (2, str(home / "model.ckpt-41"))
    assert found.summary["mask_ap"] == metrics["metrics"]["DetectionMasks_Precision/mAP"]

    # The same without a run: the checkpoint and the config beside it, on the materialized records.
    direct, latest = ModelDir(project.parent / "direct"), str(home / "model.ckpt-41")
    with pytest.raises(UserError, match=r"model.ckpt-9 does not exist"):
        evaluate_predictor(direct, home / "model.ckpt-9", scenes)
    evaluate_predictor(direct, Path(latest), scenes, effort=Effort(workers=1), label_map=str(scenes.label_map))
    by_itself = read_json(direct.evaluation / "metrics.json")
    assert (by_itself["kind"], by_itself["predictor"]) == ("original_checkpoint", latest)
    by_adoption, here = (read_json(one.evaluation / "detections_boxes.json") for one in (model, direct))
    assert len(here) > 5
    assert [one["category_id"] for one in here] == [one["category_id"] for one in by_adoption]
    for name in ("score", "bbox"):
        np.testing.assert_allclose([one[name] for one in here], [one[name] for one in by_adoption], rtol=1e-4)
    assert list(by_itself["latency"]["seconds_per_image"]) == ["1"]
    assert state(project) == before


def test_what_was_exported_alone_is_a_model_again(project: Path, stored: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    graph = write_frozen_graph(project / "inference_graph", stored)
    write_saved_model(graph.parent / "saved_model", stored)
    lost = {name: f"/home/other/{name}" for name in ("start", "train", "val", "label_map")}
    (graph.parent / "pipeline.config").write_text(config_text(**lost))
    items = [f'item {{ id: {number + 1} name: "{name}" }}' for number, name in enumerate("abcd")]
    (project / "labelmap.pbtxt").write_text("\n".join(items))

    found = adopt(project)
    model = ModelDir(project.parent / "workspace" / "runs" / "old_project" / "inference_graph")
    assert found.outputs["model"] == str(model.root)
    assert found.summary["missing"] == ["no records to train on: neither training nor evaluation can run before there are some"]
    assert [command.split()[1] for command in found.summary["commands"]] == ["export", "materialize", "convert"]
    printed = capsys.readouterr().out
    assert "weights   inference_graph/frozen_inference_graph.pb: an export, which has no step (saved_model.pb beside it)" in printed
    assert "classes   labelmap.pbtxt: 1 a, 2 b, 3 c, 4 d" in printed
    trained = read_trained_model(model.train)
    assert (trained.step, trained.checkpoint) == (0, str(graph))
    for name, variable in original_variables(restored_model(trained)).items():
        np.testing.assert_array_equal(variable, stored[name], err_msg=name)
    with pytest.raises(UserError, match="cannot be evaluated: it holds no records with a label map"):
        adopt(project, project.parent / "again", evaluate=True)


def test_a_graph_alone_gets_the_zoo_s_config_of_its_network(project: Path, stored: dict[str, Any]) -> None:
    graph = write_frozen_graph(project, stored)
    found = adopt(project)
    name = "mask_rcnn_inception_v2_coco"
    task = yaml.safe_load((project.parent / "workspace" / "runs" / "old_project" / name / "experiment.yaml").read_text())["task"]
    assert (found.summary["config"], task["init_checkpoint"], task["model"]["num_classes"]) == (name, str(graph), CLASSES)
    assert [line.partition(":")[0] for line in found.summary["missing"]] == ["no pipeline.config", "no label map", "no records to train on"]


def test_records_without_a_config_get_the_zoo_s(project: Path, scenes: DatasetDir, capsys: pytest.CaptureFixture[str]) -> None:
    put_records(scenes, project / "tfrecords", "my_train.tfrecord", "my_val.tfrecord")
    shutil.copyfile(scenes.label_map, project / "tfrecords" / "object-detection.pbtxt")
    before = state(project)
    found = adopt(project)
    assert state(project) == before
    name = "mask_rcnn_resnet50_atrous_coco"
    model = ModelDir(project.parent / "workspace" / "runs" / "old_project" / name)
    no_config, no_weights = found.summary["missing"]
    assert no_config.startswith(f"no pipeline.config: the zoo's {name} stands for it")
    assert no_weights.endswith("training starts from scratch")
    assert [command.split()[1] for command in found.summary["commands"]] == ["lint", "train", "evaluate"]
    experiment = yaml.safe_load(model.experiment.read_text())
    assert experiment["task"]["model"]["num_classes"] == CLASSES
    assert experiment["task"]["train_data"]["input_path"] == str(project / "tfrecords" / "my_train.tfrecord")
    assert "tfrecords/my_val.tfrecord: 2 images" in capsys.readouterr().out
