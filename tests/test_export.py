"""Exports of a small model, as a process sees them that knows TensorFlow and nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import yaml
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tasks.convert import convert
from tasks.evaluation.thresholds import OWN, Rule, Threshold, Thresholds, write_thresholds
from tasks.export import Choice, export, parse_size
from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.predict import Options, predict
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, read_json
from tasks.serving.onnx_file import save_as_onnx
from tasks.serving.predictor import find_model
from tasks.serving.signatures import INPUTS, resized_images, save_for_serving, served_outputs
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.train import train
from tasks.training.overrides import Overrides

# Two pictures of 48 x 60 pixels, which the model's resizer enlarges to 64 x 80.
IMAGES = np.random.default_rng(5).integers(0, 256, (2, 48, 60, 3), np.uint8)

# Calls each export that it is told of in both ways, and keeps what comes back.
CLIENT = """
import json, sys
import numpy as np
import tensorflow as tf
exports, images, answers = sys.argv[1], np.load(sys.argv[2]), sys.argv[3]
pngs = [tf.io.encode_png(image).numpy() for image in images]
def example(png):
    feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
batches = {
    "image_tensor": tf.constant(images),
    "encoded_image_string_tensor": tf.constant(pngs),
    "tf_example": tf.constant([example(png) for png in pngs]),
}
told = {}
for kind, batch in batches.items():
    loaded = tf.saved_model.load(f"{exports}/{kind}/saved_model")
    signature = loaded.signatures["serving_default"]
    np.savez(f"{answers}/{kind}.npz", **signature(inputs=batch))
    np.savez(f"{answers}/{kind}_called.npz", **loaded(input_tensor=batch))
    if kind == "image_tensor":
        for index in range(len(images)):
            np.savez(f"{answers}/single_{index}.npz", **signature(inputs=batch[index : index + 1]))
    spec = lambda tensor: [tensor.shape.as_list(), tensor.dtype.name]
    told[kind] = {
        "inputs": {name: spec(tensor) for name, tensor in signature.structured_input_signature[1].items()},
        "outputs": {name: spec(tensor) for name, tensor in signature.structured_outputs.items()},
    }
told["modules"] = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps(told))
"""

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(scenes: DatasetDir, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """Trained in mixed precision, and exported for every input kind."""
    folder = tmp_path_factory.mktemp("export")
    model = ModelDir(folder / "runs" / "test" / "mask_rcnn_inception_v2_coco")
    convert("mask_rcnn_inception_v2_coco", scenes, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKLINE_WORKSPACE", str(folder))
        train(model, Overrides(image_size=64, steps=2, batch_size=1, proposals=6, precision="mixed_bfloat16", seed=1))
    for input_type in INPUTS:
        assert export(model, Choice(input_type)).status == "done"
    return model


@pytest.fixture(scope="module")
def told(model: ModelDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process says of the exports; its `answers` is the folder of what they answered."""
    answers = tmp_path_factory.mktemp("answers")
    np.save(answers / "images.npy", IMAGES)
    command = [sys.executable, "-I", "-c", CLIENT, model.export, answers / "images.npy", answers]
    # TensorFlow itself imports the old Keras where it is told to use it.
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(command, cwd=answers, env=environment, capture_output=True, text=True, check=True)
    return {"answers": answers, **json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def direct(model: ModelDir) -> Arrays:
    """The network's own outputs for `IMAGES`, called without any of the exported code."""
    network = restored_model(read_trained_model(model.train))
    resizer = network.config.image_resizer
    images, shapes = zip(*(resize_image(tf.constant(image), resizer) for image in IMAGES), strict=True)
    outputs = tf.function(network.call)(tf.stack(images), tf.stack(shapes))
    return {name: value.numpy() for name, value in outputs.items()}


def answers(told: dict[str, Any], name: str) -> Arrays:
    with np.load(told["answers"] / f"{name}.npz") as stored:
        return dict(stored)


def test_the_client_needs_tensorflow_alone(told: dict[str, Any]) -> None:
    assert not {"tasks", "official", "tf_keras"} & set(told["modules"])


@pytest.mark.parametrize("input_type", INPUTS)
def test_inputs_and_outputs_are_the_originals(told: dict[str, Any], input_type: str) -> None:
    batch = [[None, None, None, 3], "uint8"] if input_type == "image_tensor" else [[None], "string"]
    assert told[input_type]["inputs"] == {"inputs": batch}
    # 6 proposals and as many detections, 4 classes, and the zoo config's masks of 15 x 15.
    shapes = {
        "num_detections": [None],
        "detection_boxes": [None, 6, 4],
        "detection_scores": [None, 6],
        "detection_classes": [None, 6],
        "detection_multiclass_scores": [None, 6, 5],
        "detection_masks": [None, 6, 15, 15],
        "raw_detection_boxes": [None, 6, 4],
        "raw_detection_scores": [None, 6, 5],
    }
    assert told[input_type]["outputs"] == {name: [shape, "float32"] for name, shape in shapes.items()}


@pytest.mark.parametrize("input_type", INPUTS)
@pytest.mark.parametrize("way", ["", "_called"])
def test_every_input_kind_gives_the_networks_own_detections(told: dict[str, Any], direct: Arrays, input_type: str, way: str) -> None:
    found = answers(told, input_type + way)
    assert found["num_detections"].min() > 0
    np.testing.assert_array_equal(found["detection_classes"], direct["detection_classes"] + 1)
    for name in ("num_detections", "detection_boxes", "detection_scores", "detection_multiclass_scores", "detection_masks"):
        np.testing.assert_allclose(found[name], direct[name], rtol=1e-5, atol=1e-6)


def test_raw_boxes_are_those_of_the_best_class(told: dict[str, Any], direct: Arrays) -> None:
    found = answers(told, "image_tensor")
    logits = direct["class_predictions_with_background"].reshape(2, 6, 5)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found["raw_detection_scores"], softmax, rtol=1e-4, atol=1e-6)
    encodings = direct["refined_box_encodings"].reshape(2, 6, 4, 4)
    for image in range(2):
        for place in range(6):
            ymin, xmin, ymax, xmax = direct["proposal_boxes"][image, place]
            best = logits[image, place, 1:].argmax()
            ty, tx, th, tw = encodings[image, place, best] / [10, 10, 5, 5]
            height, width = (ymax - ymin) * np.exp(th), (xmax - xmin) * np.exp(tw)
            y, x = ty * (ymax - ymin) + (ymin + ymax) / 2, tx * (xmax - xmin) + (xmin + xmax) / 2
            box = np.array([y - height / 2, x - width / 2, y + height / 2, x + width / 2]) / [64, 80, 64, 80]
            np.testing.assert_allclose(found["raw_detection_boxes"][image, place], np.clip(box, 0, 1), atol=1e-5)


def test_a_batch_of_two_is_two_of_one(told: dict[str, Any]) -> None:
    both = answers(told, "image_tensor")
    for index in range(2):
        for name, alone in answers(told, f"single_{index}").items():
            np.testing.assert_allclose(both[name][index : index + 1], alone, rtol=1e-4, atol=1e-5, err_msg=name)


def test_mixed_precision_is_for_training_only(model: ModelDir) -> None:
    folder = model.export / "image_tensor"
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["runtime"]["mixed_precision_dtype"] == "bfloat16"
    saved = SavedModel.FromString((folder / "saved_model" / "saved_model.pb").read_bytes())
    graph = str(saved.meta_graphs[0].graph_def)
    assert "DT_FLOAT" in graph
    assert "DT_BFLOAT16" not in graph
    assert "DT_HALF" not in graph


def test_operating_thresholds_of_the_same_checkpoint_go_along(model: ModelDir, capsys: pytest.CaptureFixture[str]) -> None:
    trained = read_trained_model(model.train)
    file = model.evaluation / "thresholds.json"
    chosen = (Threshold(1, "ball", 0.25, 20, OWN),)
    try:
        write_thresholds(file, Thresholds(Rule(), chosen, {"checkpoint_digest": "of another"}))
        export(model)
        folder = model.export / "image_tensor"
        assert not (folder / "thresholds.json").exists()
        assert "no thresholds.json goes along" in capsys.readouterr().out
        with pytest.raises(UserError, match=r"of another checkpoint than .*ckpt"):
            find_model(model.root).thresholds()
        # They are part of what is exported: the same model with others is another export.
        write_thresholds(file, Thresholds(Rule(), chosen, {"checkpoint_digest": trained.checkpoint_digest}))
        assert export(model).status == "done"
        assert (folder / "thresholds.json").read_bytes() == file.read_bytes()
        assert export(model).status == "skipped"
        for kept in (folder, folder / "saved_model", model.root):
            assert find_model(kept).thresholds().scores == {1: 0.25}
    finally:
        file.unlink()
        export(model)


def test_beside_the_saved_model_lies_what_the_original_puts_there(model: ModelDir, scenes: DatasetDir) -> None:
    folder = model.export / "tf_example"
    assert (folder / "pipeline.config").read_bytes() == model.pipeline_config.read_bytes()
    assert (folder / "label_map.pbtxt").read_bytes() == scenes.label_map.read_bytes()


# It replaces an export, after the client has seen it.
@pytest.mark.usefixtures("told")
def test_the_same_export_is_skipped_and_another_is_not(model: ModelDir) -> None:
    assert export(model).status == "skipped"
    assert export(model, checkpoint=model.train / "ckpt-2").status == "skipped"
    earlier = export(model, checkpoint=model.train / "ckpt-1")
    assert (earlier.status, earlier.summary["checkpoint"]) == ("done", str(model.train / "ckpt-1"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"choice": Choice(file_format="tflite")}, "--format tflite is not supported.*CombinedNonMaxSuppression.*Flex"),
        ({"choice": Choice(file_format="pb")}, "--format is 'pb'"),
        ({"choice": Choice("float_image_tensor")}, "--input-type is 'float_image_tensor'"),
        ({"choice": Choice("tf_example", "onnx")}, "--input-type is 'tf_example', and ONNX runtimes decode no pictures"),
        ({"choice": Choice(signature="v2")}, "--signature is 'v2'"),
        ({"choice": Choice(image_size=(48, 60))}, "--image-size fixes the input of an ONNX file"),
        ({"choice": Choice("tf_example", "mlflow")}, "--format mlflow takes image files"),
        ({"checkpoint": Path("nowhere/ckpt-7")}, "checkpoint nowhere/ckpt-7 does not exist"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(model: ModelDir, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        export(model, **options)


@pytest.mark.parametrize("text", ["640", "640x", "0x640", "480 x 640", "480x-1", "480X640"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--image-size is"):
        parse_size(text)
    assert parse_size("480x640") == (480, 640)


def test_onnx_without_its_packages_says_what_to_install(model: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime") as error:
        export(model, Choice(file_format="onnx"))
    assert "maskline[onnx]" in error.value.fix


def test_signature_of_tf2(model: ModelDir, tmp_path: Path) -> None:
    """Its input has the name by which clients of the original's TF2 exports, servers' clients among them, send it."""
    network = restored_model(read_trained_model(model.train))
    save_for_serving(network, "image_tensor", tmp_path / "tf2", "tf2")
    for folder, key in ((tmp_path / "tf2", "input_tensor"), (model.export / "tf_example" / "saved_model", "inputs")):
        signature = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].signature_def["serving_default"]
        assert list(signature.inputs) == [key]
        assert signature.method_name == "tensorflow/serving/predict"
        assert {"num_detections", "detection_boxes", "detection_masks", "raw_detection_scores"} < set(signature.outputs)
    loaded = tf.saved_model.load(str(tmp_path / "tf2"))
    found = loaded.signatures["serving_default"](input_tensor=tf.constant(IMAGES[:1]))
    np.testing.assert_array_equal(found["detection_boxes"], loaded(tf.constant(IMAGES[:1]))["detection_boxes"])


@pytest.fixture(scope="module")
def onnx_export(model: ModelDir) -> StepResult:
    return export(model, Choice(file_format="onnx"))


def test_onnx_is_checked_on_the_validation_records(model: ModelDir, onnx_export: StepResult, direct: Arrays) -> None:
    folder = model.export / "onnx"
    assert onnx_export.outputs["onnx"] == str(folder / "model.onnx")
    told = json.loads((folder / "export.json").read_text())
    check = told["check"]
    assert check["images"] == 2  # all that the records hold
    assert check["agreeing"] + check["decided_by_rounding"] == check["detections"] > 0
    assert check["score_difference"] < 1e-4
    assert told["image_size"] is None
    assert (folder / "pipeline.config").read_bytes() == model.pipeline_config.read_bytes()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"inputs": IMAGES}), strict=True))
    np.testing.assert_allclose(found["detection_scores"][:, 0], direct["detection_scores"][:, 0], atol=1e-2)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == {
        str(number): name for number, name in read_label_map(folder / "label_map.pbtxt").names.items()
    }


def test_onnx_of_one_size_has_a_folder_of_its_own(model: ModelDir, onnx_export: StepResult) -> None:
    choice = Choice(file_format="onnx", signature="tf2", image_size=(48, 60))
    assert export(model, choice).status == "done"
    (given,) = onnxruntime.InferenceSession(model.export / "onnx_48x60" / "model.onnx").get_inputs()
    assert (given.name, given.shape) == ("input_tensor", [1, 48, 60, 3])
    assert export(model, choice).status == "skipped"
    assert export(model, Choice(file_format="onnx")).status == "skipped"


def test_predictions_are_the_same_from_checkpoint_saved_models_and_onnx(
    model: ModelDir, onnx_export: StepResult, scenes: DatasetDir, tmp_path: Path
) -> None:
    # Another test has replaced one by that of another checkpoint.
    export(model)
    for index, image in enumerate(IMAGES):
        (tmp_path / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    kept = [model.root, *(model.export / kind for kind in INPUTS), model.export / "onnx" / "model.onnx"]
    for number, path in enumerate(kept):
        predict(path, [str(tmp_path / "*.png")], tmp_path / str(number), Options(min_score=0, pictures=False))
    names = read_json(tmp_path / "0" / "images.json")["categories"]
    assert [category["name"] for category in names] == list(read_label_map(scenes.label_map).names.values())
    first, *others = (read_json(tmp_path / str(number) / "detections_boxes.json") for number in range(len(kept)))
    assert {entry["image_id"] for entry in first} == {1, 2}
    # A few steps teach nothing: scores are nearly equal, and some may change places.
    boxes = np.sort([entry["bbox"] for entry in first], axis=0)
    for number, other in enumerate(others, 1):
        np.testing.assert_allclose([entry["score"] for entry in other], [entry["score"] for entry in first], atol=1e-3)
        np.testing.assert_allclose(np.sort([entry["bbox"] for entry in other], axis=0), boxes, atol=0.05)
        assert read_json(tmp_path / str(number) / "images.json")["categories"] == names
    with pytest.raises(UserError, match="chooses among a trained model's"):
        predict(kept[1], [str(tmp_path / "*.png")], tmp_path / "out", checkpoint="last")


def test_mlflows_model_is_an_export_too(model: ModelDir) -> None:
    result = export(model, Choice(file_format="mlflow"))
    folder = model.export / "mlflow"
    assert result.outputs["mlflow"] == str(folder / "model")
    assert (folder / "model" / "MLmodel").is_file()
    assert (folder / "model" / "artifacts" / "saved_model" / "saved_model.pb").is_file()
    assert (folder / "pipeline.config").is_file()
    assert export(model, Choice(file_format="mlflow")).status == "skipped"


def test_an_onnx_file_that_differs_from_the_checkpoint_is_not_left(model: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(network: MaskRCNN, *rest: Any) -> Any:
        file = save_as_onnx(network, *rest)
        for variable in network.box_head.variables:
            variable.assign_add(tf.random.stateless_normal(variable.shape, [1, 2]))
        return file

    monkeypatch.setattr("tasks.serving.onnx_file.save_as_onnx", spoiled)
    with pytest.raises(UserError, match="does not do what the checkpoint does: the second stage"):
        export(model, Choice(file_format="onnx", image_size=(30, 40)))
    assert not (model.export / "onnx_30x40").exists()


def test_another_models_checkpoint_is_refused(model: ModelDir, tmp_path: Path) -> None:
    other = tf.train.Checkpoint(model=tf.train.Checkpoint(weight=tf.Variable(1.0))).write(str(tmp_path / "ckpt-9"))
    with pytest.raises(UserError, match="ckpt-9 is not one of this model"):
        export(model, checkpoint=Path(other))


def test_exporting_before_training_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint") as error:
        export(ModelDir(tmp_path))
    assert "maskline train" in error.value.fix


@pytest.mark.parametrize(
    ("stages", "further"),
    [(1, set()), (2, {"detection_multiclass_scores", "raw_detection_boxes", "raw_detection_scores"})],
)
def test_fewer_stages_have_fewer_outputs(stages: int, further: set[str]) -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_v2")
    first_stage = config.FirstStage(max_proposals=3)
    network = MaskRCNN(config.MaskRCNN(num_classes=2, number_of_stages=stages, feature_extractor=extractor, first_stage=first_stage))
    images, true_shapes = tf.constant(IMAGES[:1], tf.float32), tf.constant([[48, 60]])
    served = served_outputs(network, images, true_shapes)
    assert served.keys() == {"num_detections", "detection_boxes", "detection_scores", "detection_classes"} | further
    if stages == 1:
        proposals = network.propose(images, true_shapes)["proposal_boxes"].numpy()
        np.testing.assert_allclose(served["detection_boxes"], proposals / [48, 60, 48, 60], atol=1e-6)
        assert served["detection_classes"].numpy().tolist() == [[1.0, 1.0, 1.0]]


def test_images_of_several_sizes_make_a_batch_where_the_resizer_gives_them_one() -> None:
    pictures = [np.full((height, width, 3), 9, np.uint8) for height, width in ((10, 20), (20, 10))]
    encoded = tf.constant([tf.io.encode_png(picture).numpy() for picture in pictures])

    def batch(**resizer: Any) -> list[np.ndarray]:
        resized = tf.function(lambda: resized_images(encoded, "encoded_image_string_tensor", config.ImageResizer(**resizer)))
        return [value.numpy() for value in resized()]

    images, true_shapes = batch(min_dimension=5, max_dimension=12, pad_to_max_dimension=True)
    assert images.shape == (2, 12, 12, 3)
    assert true_shapes.tolist() == [[5, 10], [10, 5]]
    # Zeros below and to the right of the picture.
    assert images[..., 0].sum(axis=(1, 2)).tolist() == [9 * 50, 9 * 50]
    assert batch(kind="fixed_shape", height=6, width=7)[0].shape == (2, 6, 7, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Incompatible shapes .*\[5,10,3\] vs. \[10,5,3\]"):
        batch(min_dimension=5, max_dimension=12)
