"""Every value lands where its name says; whatever does not is told. A model of a few small layers stands for the zoo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from tasks.checkpoints.class_match import match_classes
from tasks.checkpoints.importing import Reshaped, import_checkpoint
from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tests.checkpoints.tf1_checkpoint import write_checkpoint
from tests.parity.reference import REFERENCES, Reference, zoo_model
from tests.parity.references.weights import make_weight

FIRST, SECOND, HEAD = "FirstStageFeatureExtractor/resnet_v1_50", "SecondStageFeatureExtractor/resnet_v1_50", "SecondStageBoxPredictor"


class TinyModel(tf_keras.Model):
    """Layers of one channel under the zoo's scopes, with the class-dependent ones of 2 input channels."""

    def __init__(self, classes: int, mask_depth: int = 2, first: str = FIRST, second: str = f"{SECOND}/block4") -> None:
        super().__init__()
        self.config = config.MaskRCNN(num_classes=classes, mask_head=config.MaskHead(num_conv_layers=2))
        self.parts = [
            self._conv(f"{first}/conv1", 1, bias=False),
            tf_keras.layers.BatchNormalization(name=f"{first}/conv1/BatchNorm"),
            self._conv(f"{second}/conv1", 1, bias=False),
            self._conv("Conv", 1),
            self._conv("FirstStageBoxPredictor/ClassPredictor", 1),
            tf_keras.layers.Dense(classes + 1, name=f"{HEAD}/ClassPredictor"),
            tf_keras.layers.Dense(classes * 4, name=f"{HEAD}/BoxEncodingPredictor"),
            self._conv(f"{HEAD}/Conv", mask_depth),
        ]
        for part in self.parts:
            part.build((None, 2) if isinstance(part, tf_keras.layers.Dense) else (None, 1, 1, 1))
        self.parts.append(self._conv(f"{HEAD}/Conv_1", classes))
        self.parts[-1].build((None, 1, 1, mask_depth))

    def _conv(self, scope: str, filters: int, bias: bool = True) -> tf_keras.layers.Layer:
        return tf_keras.layers.Conv2D(filters, 1, use_bias=bias, name=scope)


def values_of(model: tf_keras.Model) -> dict[str, Any]:
    return {name: variable.numpy() for name, variable in original_variables(model).items()}


def arbitrary(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: make_weight(name, shape, 1) for name, shape in shapes.items()}


def arbitrary_for(model: tf_keras.Model) -> dict[str, Any]:
    return arbitrary({name: variable.shape for name, variable in original_variables(model).items()})


def assert_landed(model: tf_keras.Model, stored: dict[str, Any], before: dict[str, Any], restored: set[str]) -> None:
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, stored[name] if name in restored else before[name], err_msg=name)


BACKBONE = {f"{FIRST}/conv1/weights", f"{SECOND}/block4/conv1/weights"} | {
    f"{FIRST}/conv1/BatchNorm/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
}


@pytest.mark.parametrize(("kind", "load_all", "heads"), [("detection", False, False), ("detection", True, True), ("full", False, True)])
def test_a_detection_checkpoint(tmp_path: Path, kind: str, load_all: bool, heads: bool) -> None:
    model = TinyModel(3)
    before, stored = values_of(model), arbitrary_for(model)
    others = arbitrary({f"{FIRST}/block4/unit_1/conv1/weights": (1, 1, 1, 1), "Conv/weights/Momentum": (1, 1, 1, 1), "Logits/biases": (2,)})
    others["global_step"] = np.int64(200_000)
    report = import_checkpoint(model, write_checkpoint(tmp_path / "model.ckpt", stored | others), kind, load_all)
    restored = set(stored) if heads else BACKBONE
    assert set(report.restored) == restored
    assert_landed(model, stored, before, restored)
    assert report.missing == ()
    assert report.ignored == {
        f"{FIRST}/block4/unit_1/conv1/weights": "first-stage block4, which nothing uses",
        "Conv/weights/Momentum": "state of the finished training",
        "global_step": "state of the finished training",
        "Logits/biases": "not part of this model",
    } | dict.fromkeys(set(stored) - restored, "a head; load_all_detection_checkpoint_vars restores it")


def test_an_imagenet_checkpoint_fills_both_halves_of_the_backbone(tmp_path: Path) -> None:
    model = TinyModel(3)
    before = values_of(model)
    slim = arbitrary({"resnet_v1_50/conv1/weights": (1, 1, 1, 1), "resnet_v1_50/block4/conv1/weights": (1, 1, 1, 1)})
    # slim's Inception v2 was trained without gamma.
    slim |= arbitrary({f"resnet_v1_50/conv1/BatchNorm/{leaf}": (1,) for leaf in ("beta", "moving_mean", "moving_variance")})
    slim |= arbitrary({"resnet_v1_50/logits/biases": (1000,)})
    report = import_checkpoint(model, write_checkpoint(tmp_path / "resnet_v1_50.ckpt", slim), "classification")
    stored = {f"{FIRST.split('/')[0]}/{name}": value for name, value in slim.items()}
    stored |= {f"{SECOND.split('/')[0]}/{name}": value for name, value in slim.items()}
    assert_landed(model, stored, before, BACKBONE - {f"{FIRST}/conv1/BatchNorm/gamma"})
    assert report.missing == (f"{FIRST}/conv1/BatchNorm/gamma",)
    assert report.ignored == {"resnet_v1_50/logits/biases": "not part of this model"}


def test_the_repeats_of_inception_resnets_second_stage_are_the_third_of_the_whole_network(tmp_path: Path) -> None:
    network = "InceptionResnetV2"
    model = TinyModel(
        1, first=f"FirstStageFeatureExtractor/{network}/Repeat/block35_1", second=f"SecondStageFeatureExtractor/{network}/Repeat/block8_1"
    )
    slim = arbitrary(
        {f"{network}/Repeat/block35_1/conv1/weights": (1, 1, 1, 1), f"{network}/Repeat_2/block8_1/conv1/weights": (1, 1, 1, 1)}
    )
    import_checkpoint(model, write_checkpoint(tmp_path / "slim.ckpt", slim), "classification")
    landed = values_of(model)
    for stage, inside in (("First", f"{network}/Repeat/block35_1"), ("Second", f"{network}/Repeat/block8_1")):
        source = inside.replace("Repeat/block8", "Repeat_2/block8")
        np.testing.assert_array_equal(landed[f"{stage}StageFeatureExtractor/{inside}/conv1/weights"], slim[f"{source}/conv1/weights"])


def test_a_checkpoint_without_a_whole_scope_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = TinyModel(3)
    before, stored = values_of(model), arbitrary_for(model)
    other = {name.replace("resnet_v1_50", "resnet_v1_101"): value for name, value in stored.items()}
    with pytest.raises(UserError, match=f"nothing for {FIRST}, {SECOND}; it holds Conv, .*resnet_v1_101"):
        import_checkpoint(model, write_checkpoint(tmp_path / "other" / "model.ckpt", other), "detection")
    headless = {name: value for name, value in stored.items() if not name.startswith(HEAD)}
    checkpoint = write_checkpoint(tmp_path / "headless" / "model.ckpt", headless)
    with pytest.raises(UserError, match=f"nothing for {HEAD}"):
        import_checkpoint(model, checkpoint, "full")
    with pytest.raises(UserError, match=f"nothing for {FIRST}"):
        import_checkpoint(model, checkpoint, "classification")
    with pytest.raises(UserError, match="fine_tune_checkpoint_type 'fine_tune'"):
        import_checkpoint(model, checkpoint, "fine_tune")
    assert_landed(model, stored, before, set())


def test_a_checkpoint_whose_data_is_cut_short_changes_nothing(tmp_path: Path) -> None:
    model = TinyModel(3)
    before, stored = values_of(model), arbitrary_for(model)
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", stored)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read"):
        import_checkpoint(model, checkpoint, "full")
    assert_landed(model, stored, before, set())


CLASS_HEADS = {f"{HEAD}/{layer}/{leaf}" for layer in ("ClassPredictor", "BoxEncodingPredictor", "Conv_1") for leaf in ("weights", "biases")}


def test_heads_of_other_classes_without_label_maps_keep_their_initial_values(tmp_path: Path) -> None:
    model = TinyModel(2)
    before, stored = values_of(model), arbitrary_for(TinyModel(3))
    report = import_checkpoint(model, write_checkpoint(tmp_path / "model.ckpt", stored), "full")
    assert_landed(model, stored, before, set(stored) - CLASS_HEADS)
    assert report.reshaped.keys() == CLASS_HEADS
    assert report.reshaped[f"{HEAD}/ClassPredictor/weights"] == Reshaped((2, 4), (2, 3), "of another shape, left at the initial value")
    assert set(report.restored) == set(stored) - CLASS_HEADS
    assert (report.ignored, report.missing) == ({}, ())


def test_heads_are_restored_for_the_classes_that_both_label_maps_name(tmp_path: Path) -> None:
    model = TinyModel(2)
    before, stored = values_of(model), arbitrary_for(TinyModel(3))
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", stored)
    classes = match_classes({1: "kiwi", 2: "cat"}, {1: "person", 2: "dog", 3: "cat"})
    report = import_checkpoint(model, checkpoint, "detection", load_all_detection_checkpoint_vars=True, classes=classes)
    assert report.reshaped.keys() == CLASS_HEADS
    assert {one.outcome for one in report.reshaped.values()} == {"restored class by class"}
    assert (report.known_classes, report.new_classes) == (("cat",), ("kiwi",))
    landed = values_of(model)
    assert_landed(model, stored | {name: landed[name] for name in CLASS_HEADS}, before, set(stored))
    for leaf in ("weights", "biases"):
        # Logits: background, kiwi, cat from background, person, dog, cat.
        name = f"{HEAD}/ClassPredictor/{leaf}"
        expected = np.stack([stored[name][..., 0], before[name][..., 1], stored[name][..., 3]], axis=-1)
        np.testing.assert_array_equal(landed[name], expected)
        # Four box numbers a class, no background: the cat's were the last four of 12 and are the last four of 8.
        name = f"{HEAD}/BoxEncodingPredictor/{leaf}"
        np.testing.assert_array_equal(landed[name], np.concatenate([before[name][..., :4], stored[name][..., 8:12]], axis=-1))
        name = f"{HEAD}/Conv_1/{leaf}"
        np.testing.assert_array_equal(landed[name], np.stack([before[name][..., 0], stored[name][..., 2]], axis=-1))


def test_classes_in_another_order_are_matched_though_all_shapes_are_equal(tmp_path: Path) -> None:
    model = TinyModel(2)
    stored = arbitrary_for(model)
    classes = match_classes({1: "cat", 2: "dog"}, {1: "dog", 2: "cat"})
    import_checkpoint(model, write_checkpoint(tmp_path / "model.ckpt", stored), "full", classes=classes)
    biases = f"{HEAD}/ClassPredictor/biases"
    np.testing.assert_array_equal(values_of(model)[biases], stored[biases][[0, 2, 1]])


def test_a_hidden_mask_convolution_is_not_taken_for_classes(tmp_path: Path) -> None:
    # Conv_1 is the model's last, but hidden in the checkpoint: 5 channels that are not its 3 classes.
    stored = arbitrary_for(TinyModel(3)) | arbitrary({f"{HEAD}/Conv_1/weights": (1, 1, 2, 5), f"{HEAD}/Conv_1/biases": (5,)})
    classes = match_classes({1: "cat"}, {3: "cat"})
    report = import_checkpoint(TinyModel(1), write_checkpoint(tmp_path / "model.ckpt", stored), "full", classes=classes)
    shapes = {name: (one.theirs, one.ours) for name, one in report.reshaped.items() if one.outcome.startswith("of another shape")}
    assert shapes == {f"{HEAD}/Conv_1/weights": ((1, 1, 2, 5), (1, 1, 2, 1)), f"{HEAD}/Conv_1/biases": ((5,), (1,))}


def test_label_maps_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    model = TinyModel(2)
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", arbitrary_for(TinyModel(3)))
    with pytest.raises(UserError, match="no name in common"):
        match_classes({1: "cat"}, {1: "dog"})
    for ours, theirs, message in (({1: "cat"}, {4: "cat"}, "the checkpoint has id 4"), ({3: "cat"}, {1: "cat"}, "the model has id 3")):
        with pytest.raises(UserError, match=message):
            import_checkpoint(model, checkpoint, "full", classes=match_classes(ours, theirs))
    with pytest.raises(UserError, match="no class predictor"):
        import_checkpoint(model, checkpoint, "detection", classes=match_classes({1: "cat"}, {1: "cat"}))


def test_the_report_as_text_counts_by_scope_and_reason(tmp_path: Path) -> None:
    stored = arbitrary_for(TinyModel(3)) | {"global_step": np.int64(1)}
    del stored[f"{FIRST}/conv1/BatchNorm/gamma"]
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", stored)
    classes = match_classes({1: "kiwi", 2: "cat"}, {1: "person", 2: "dog", 3: "cat"})
    report = import_checkpoint(TinyModel(2), checkpoint, "full", classes=classes)
    assert report.text().splitlines() == [
        f"restored 11 variables of {checkpoint}",
        f"  {FIRST}: 4",
        f"  {SECOND}: 1",
        "  Conv: 2",
        "  FirstStageBoxPredictor: 2",
        f"  {HEAD}: 2",
        "reshaped 6 variables",
        "  restored class by class: 6",
        "  known classes: cat; new ones: kiwi",
        "ignored 1 tensors",
        "  state of the finished training: 1",
        "missing 1 variables, which keep their initial values",
        f"  {FIRST}: 1",
    ]


@pytest.mark.parametrize(
    "name", ["inception_v2", "resnet50", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "inception_resnet_v2"))]
)
def test_a_zoo_models_own_checkpoint_is_restored_with_nothing_missing(name: str, tmp_path: Path) -> None:
    reference = Reference(REFERENCES / f"{name}_small.npz")
    shapes = reference.variables()
    stored = arbitrary(shapes)
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", stored)
    model = MaskRCNN(zoo_model(reference))
    report = import_checkpoint(model, checkpoint, "full")
    unused = {name for name in shapes if name.startswith("FirstStageFeatureExtractor/") and "/block4/" in name}
    assert report.missing == ()
    assert set(report.ignored) == unused
    assert report.reshaped == {}
    assert set(report.restored) == shapes.keys() - unused
    for variable_name, variable in original_variables(model).items():
        np.testing.assert_array_equal(variable, stored[variable_name])
