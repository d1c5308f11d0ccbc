"""A model in an ONNX file that finds the same on every image, evaluated as its detections in a file are."""

from __future__ import annotations

import json
import platform

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from tasks.evaluate import Effort, evaluate_predictor, evaluate_results
from tasks.evaluation.predicted import Predictions
from tasks.materialize import materialize
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json

BOXES = np.array([[[0.25, 0.125, 0.75, 0.5], [0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 1.0]]], np.float32)
SCORES, CLASSES = np.array([[0.875, 0.5, 0.25]], np.float32), np.array([[1, 2, 99]], np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, workspace):
    folder = tmp_path_factory.mktemp("dataset")
    source = folder / "scenes.yaml"
    source.write_text("name: scenes\nshapes: {train: 1, val: 5, height: 64, width: 80, seed: 3}\n")
    materialize(source, folder / "scenes")
    return DatasetDir(folder / "scenes")


def write_model(file, names=None, batch=1):
    """Three detections, of which the third is of no class of the dataset."""
    held = {"num_detections": np.array([3], np.float32), "detection_boxes": BOXES, "detection_scores": SCORES, "detection_classes": CLASSES}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"kept_{name}"], [name]) for name in held],
        "constant",
        [helper.make_tensor_value_info("input_tensor", TensorProto.UINT8, [batch, None, None, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in held.items()],
        [numpy_helper.from_array(value, f"kept_{name}") for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names:
        helper.set_model_props(model, {"class_names": json.dumps(names)})
    onnx.save(model, str(file))
    return file


def test_a_model_has_the_figures_of_its_detections(dataset, tmp_path):
    kept = write_model(tmp_path / "model.onnx")
    by_model = ModelDir(tmp_path / "by_model")
    assert evaluate_predictor(by_model, kept, dataset, effort=Effort(workers=1)).status == "done"
    found = json.loads((by_model.evaluation / "metrics.json").read_text())
    images = json.loads((by_model.evaluation / "groundtruth.json").read_text())["images"]
    boxes = [(10.0, 16.0, 30.0, 32.0), (0.0, 0.0, 20.0, 32.0)]  # x, y, width, height in 64 x 80
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps(
            [
                {"image_id": image["id"], "category_id": number, "score": score, "bbox": box}
                for image in images
                for number, score, box in zip((1, 2), (0.875, 0.5), boxes, strict=True)
            ]
        )
    )
    by_file = ModelDir(tmp_path / "by_file")
    evaluate_results(by_file, results, dataset, effort=Effort(workers=1))
    assert found["detections"] == 10
    assert found["metrics"] == json.loads((by_file.evaluation / "metrics.json").read_text())["metrics"]
    timed = found["latency"]["seconds_per_image"]["1"]
    assert timed["runs"] == 50
    assert 0 < timed["p50"] <= timed["p95"]
    assert found["latency"]["image_size"] == [64, 80]
    assert evaluate_predictor(by_model, kept, dataset).status == "skipped"


def test_a_model_that_takes_batches_is_timed_at_one_too(dataset, workspace, tmp_path, capsys):
    """Whether it does is told by the shape of its input."""
    one, many = (write_model(tmp_path / f"{name}.onnx", batch=batch) for name, batch in (("one", 1), ("many", "batch")))
    effort = Effort(workers=1, batch_size=2)
    evaluate_predictor(ModelDir(tmp_path / "many"), many, dataset, effort=effort)
    latency = json.loads((tmp_path / "many" / "evaluation" / "metrics.json").read_text())["latency"]
    assert list(latency["seconds_per_image"]) == ["1", "2"]
    assert latency["machine"] == platform.node()
    assert "not timed" not in capsys.readouterr().out
    # MLflow has them beside the figures, in the data set's experiment.
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    run = client.get_run(read_json(tmp_path / "many" / "tracking.json")["run_id"])
    assert (run.info.status, run.data.tags["dataset.name"], run.data.tags["latency.machine"]) == ("FINISHED", "scenes", platform.node())
    timed = latency["seconds_per_image"]
    for name, value in (("", timed["1"]["p50"]), ("_p95", timed["1"]["p95"]), ("_batched_p95", timed["2"]["p95"])):
        assert run.data.metrics[f"seconds_per_image{name}"] == pytest.approx(value, abs=1e-4)
    assert (run.data.metrics["batch_size"], "box_ap" in run.data.metrics) == (2, True)
    evaluate_predictor(ModelDir(tmp_path / "one"), one, dataset, effort=effort)
    assert "the model takes one image at a time: it is not timed at batch 2" in capsys.readouterr().out
    latency = json.loads((tmp_path / "one" / "evaluation" / "metrics.json").read_text())["latency"]
    assert list(latency["seconds_per_image"]) == ["1"]


def test_classes_are_the_same_where_their_names_are(dataset, tmp_path, capsys):
    labels = read_label_map(dataset.label_map)
    first, second, *others = (category.name for category in labels.categories)
    kept = write_model(tmp_path / "model.onnx", {"1": second, "2": "something else", "99": first})
    evaluate_predictor(ModelDir(tmp_path / "out"), kept, dataset, effort=Effort(workers=1))
    assert f"the model does not know {', '.join(sorted(others))}" in capsys.readouterr().out
    detections = json.loads((tmp_path / "out" / "evaluation" / "detections.json").read_text())
    by_name = {name: number for number, name in labels.names.items()}
    assert [(one["category_id"], one["score"]) for one in detections[:2]] == [(by_name[second], 0.875), (by_name[first], 0.25)]


def test_a_model_of_other_classes_is_refused(dataset):
    with pytest.raises(UserError, match="the model has none of the dataset's classes: cat"):
        Predictions(lambda pixels: {}, {1: "cat"}, read_label_map(dataset.label_map))
