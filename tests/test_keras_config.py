"""A TensorFlow 2 config through all steps: what training does with it, and what its export says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tasks.checkpoints.original_names import original_variables
from tasks.convert import convert
from tasks.evaluate import evaluate
from tasks.export import Choice, export
from tasks.lint import lint_config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.workspace import DatasetDir, ModelDir, read_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.train import train
from tasks.training.overrides import Overrides
from tests.pipeline_config.keras_config import keras_config

MEAN = "SecondStageFeatureExtractor/resnet_v1_50/block4/unit_1/bottleneck_v1/conv1/BatchNorm/moving_mean"


@pytest.fixture(scope="module")
def model(scenes: DatasetDir, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """Converted, and trained for two steps."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "mine.config").write_text(keras_config())
    model = ModelDir(folder / "runs" / "test" / "mine")
    convert(str(folder / "mine.config"), scenes, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKLINE_WORKSPACE", str(folder))
        train(model, Overrides(image_size=64, steps=2, batch_size=2, proposals=6, learning_rate=0.001, seed=1))
    return model


@pytest.fixture(scope="module")
def network(model: ModelDir) -> MaskRCNN:
    """The trained network."""
    return restored_model(read_trained_model(model.train))


def test_lint_has_no_error(model: ModelDir) -> None:
    assert lint_config(str(model.pipeline_config)).summary["errors"] == []


def test_convert_tells_what_tensorflow_2_does_not_read(model: ModelDir) -> None:
    ignored = {entry["path"]: entry["reason"] for entry in read_json(model.conversion_report)["fields"]["ignored"]}
    predictor = "model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor"
    assert "Keras's defaults" in ignored[f"{predictor}.fc_hyperparams"]
    assert "TPUs only" in ignored["train_config.use_bfloat16"]
    assert "masks are resized once" in ignored["model.faster_rcnn.resize_masks"]


def test_the_settings_are_the_config_s(model: ModelDir) -> None:
    experiment = yaml.safe_load((model.train / "experiment.yaml").read_text())
    settings = experiment["task"]["model"]
    assert settings["feature_extractor"] == {
        "type": "faster_rcnn_resnet50_keras",
        "first_stage_features_stride": 16,
        "batch_norm_trainable": True,
    }
    assert (settings["first_stage"]["clip_anchors_to_image"], settings["first_stage"]["partitioned_nms"]) == (True, True)
    assert (settings["static_sampler"], settings["second_stage"]["share_box_across_classes"]) == (True, True)
    assert experiment["trainer"]["optimizer_config"]["optimizer"]["type"] == "sgd"


def test_batch_norm_of_both_stages_followed_the_data(network: MaskRCNN) -> None:
    variables = original_variables(network)
    for name in (MEAN, MEAN.replace("Second", "First").replace("block4", "block1")):
        assert np.abs(variables[name]).max() > 0, name


def test_it_is_measured_and_exported_as_it_was_trained(
    model: ModelDir, network: MaskRCNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    assert evaluate(model).summary["images"] == 2
    export(model, Choice("image_tensor"))
    images = np.random.default_rng(5).integers(0, 256, (1, 48, 64, 3), np.uint8)
    served = tf.saved_model.load(str(model.export / "image_tensor" / "saved_model"))(tf.constant(images))
    # 48 x 64 pixels keep their size, and are padded to a square.
    direct = network(tf.pad(tf.cast(images, tf.float32), [[0, 0], [0, 16], [0, 0], [0, 0]]), tf.constant([[48, 64]]))
    for name in ("detection_boxes", "detection_scores", "detection_masks", "num_detections"):
        np.testing.assert_allclose(served[name], direct[name], atol=1e-5, err_msg=name)
    assert served["raw_detection_boxes"].shape == (1, 6, 4)
