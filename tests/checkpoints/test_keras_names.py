"""TensorFlow 2's keys under TF1's names: against the tables of the original's own checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.checkpoints.class_match import match_classes
from tasks.checkpoints.files import find_checkpoint
from tasks.checkpoints.importing import import_checkpoint
from tasks.checkpoints.keras_names import VALUE, names_of_keys
from tasks.checkpoints.original_names import classification_name, original_variables
from tasks.mask_rcnn.backbones import FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tests.checkpoints.exported_model import write_saved_model_of_objects
from tests.checkpoints.keras_checkpoint import key_table, write_keras_checkpoint
from tests.parity.reference import REFERENCES, Reference
from tests.parity.references.weights import make_weight

SLOW = pytest.mark.slow
COUNTERS = {f"{name}{VALUE}" for name in ("optimizer/decay", "optimizer/iter", "optimizer/momentum", "save_counter")}


@pytest.mark.parametrize(
    ("table", "network"),
    [
        ("resnet50_mask_training", "faster_rcnn_resnet50"),
        ("resnet50_box_exported", "faster_rcnn_resnet50"),
        ("resnet101_mask_exported", "faster_rcnn_resnet101"),
        pytest.param("inception_resnet_v2_mask_training", "faster_rcnn_inception_resnet_v2", marks=SLOW),
    ],
)
def test_every_key_of_a_detector_has_its_name(table: str, network: str) -> None:
    keys = key_table(table)
    expected = {name: key for key, name in keys.items() if key not in COUNTERS}
    expected = {"global_step" if key == f"step{VALUE}" else name: key for name, key in expected.items()}
    expected |= {key: key for key in COUNTERS & keys.keys()}
    assert names_of_keys(keys, network) == expected


@pytest.mark.parametrize(
    ("table", "network"),
    [
        ("resnet50_mask_classification", "faster_rcnn_resnet50"),
        pytest.param("inception_resnet_v2_mask_classification", "faster_rcnn_inception_resnet_v2", marks=SLOW),
    ],
)
def test_a_whole_backbone_has_slim_s_names(table: str, network: str) -> None:
    keys = key_table(table)
    names = names_of_keys([*keys, f"feature_extractor/layer_with_weights-999/kernel{VALUE}"], network)
    expected = {classification_name(name): key for key, name in keys.items() if name.startswith((FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE))}
    assert {name: key for name, key in names.items() if name != key} == expected


def test_dropout_shifts_the_box_head_s_layers_and_averages_have_a_name() -> None:
    head, slot = "model/_mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/2", ".OPTIMIZER_SLOT/optimizer"
    names = names_of_keys(
        [f"{head}/kernel{VALUE}", f"{head}/kernel/{slot}/average{VALUE}", f"{head}/bias/{slot}/base_optimizer/m{VALUE}"], ""
    )
    scope = "SecondStageBoxPredictor/BoxEncodingPredictor"
    assert list(names) == [f"{scope}/weights", f"{scope}/weights/ExponentialMovingAverage", f"{scope}/biases/Adam"]


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return MaskRCNN(Reference(REFERENCES / "tf2" / "resnet50_mask_small.npz").model())


def stored(model: MaskRCNN, table: str, **others: np.ndarray) -> dict[str, np.ndarray]:
    """Values for the keys of a checkpoint of this model: those of the parity references, which depend on TF1's name alone."""
    shapes = {name: tuple(variable.shape) for name, variable in original_variables(model).items()}
    values = {}
    for key, name in key_table(table).items():
        weight = name.removesuffix("/Momentum")
        if weight in shapes:
            values[key] = make_weight(weight, shapes[weight], 0) if weight == name else np.full(shapes[weight], 0.5, np.float32)
        else:
            values[key] = np.int64(7)
    return values | others


def test_a_detector_s_checkpoint_is_restored_with_nothing_missing(model: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("detector")
    checkpoint = write_keras_checkpoint(folder / "ckpt-1", stored(model, "resnet50_mask_training"))
    report = import_checkpoint(model, checkpoint, "full")
    variables = original_variables(model)
    assert (set(report.restored), report.missing, report.reshaped) == (variables.keys(), (), {})
    assert set(report.ignored.values()) == {"state of the finished training"}
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable, make_weight(name, variable.shape, 0), err_msg=name)


def test_the_saved_model_of_a_detector_is_restored_too(model: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> None:
    values = stored(model, "resnet50_mask_exported")
    folder = write_saved_model_of_objects(tmp_path_factory.mktemp("exported") / "saved_model", values)
    variables = original_variables(model)
    for variable in variables.values():
        variable.assign(np.zeros(variable.shape))
    report = import_checkpoint(model, find_checkpoint(folder.parent, "any"), "full")
    assert (set(report.restored), report.missing, report.reshaped) == (variables.keys(), (), {})
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable, make_weight(name, variable.shape, 0), err_msg=name)


def test_what_a_detector_and_a_whole_backbone_restore(model: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    backbones = {name for name in original_variables(model) if name.startswith((FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE))}
    detector = write_keras_checkpoint(folder / "detector" / "ckpt-0", stored(model, "resnet50_mask_exported"))
    whole = write_keras_checkpoint(folder / "whole" / "ckpt-1", stored(model, "resnet50_mask_classification"))
    assert set(import_checkpoint(model, detector, "detection").restored) == backbones
    variables = original_variables(model)
    for name in backbones:
        variables[name].assign(np.zeros(variables[name].shape))
    assert set(import_checkpoint(model, whole, "classification").restored) == backbones
    for name in backbones:
        np.testing.assert_array_equal(variables[name], make_weight(name, variables[name].shape, 0), err_msg=name)
    # Heads by class name: two classes have changed places since.
    report = import_checkpoint(model, detector, "full", classes=match_classes({1: "cat", 2: "dog"}, {1: "dog", 2: "cat"}))
    name = "SecondStageBoxPredictor/ClassPredictor/weights"
    theirs = make_weight(name, variables[name].shape, 0)
    np.testing.assert_array_equal(variables[name].numpy()[:, :3], theirs[:, [0, 2, 1]])
    assert (report.known_classes, report.missing) == (("cat", "dog"), ())
    with pytest.raises(UserError, match=r"nothing for FirstStageFeatureExtractor/resnet_v1_50, .*; it holds resnet_v1_50"):
        import_checkpoint(model, whole, "detection")
    with pytest.raises(UserError, match=r"nothing for FirstStage.*; it holds Conv, FirstStageBoxPredictor, "):
        import_checkpoint(model, detector, "classification")
