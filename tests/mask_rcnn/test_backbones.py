"""Each backbone's layers against the original's endpoints, which name the first layer that is wrong, and what its config can say.

The networks' ends, features and second stage, are compared with the rest of the model in `tests/parity`.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tasks.errors import UserError
from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import Backbone, build_backbone
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.original_names import original_variables
from tests.parity.comparison import LATER, REFERENCES, STAGE_1, Reference, zoo_model
from tests.parity.references.weights import make_weight

CHEAP = ["resnet50", "inception_v2"]
NETWORKS = [*CHEAP, *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "inception_resnet_v2"))]


def reference(name: str) -> Reference:
    return Reference(REFERENCES / f"{name}_small.npz")


@functools.cache
def weighted_backbone(name: str) -> Backbone:
    """The zoo's backbone with the reference's weights."""
    backbone = build_backbone(zoo_model(reference(name)).feature_extractor)
    for variable_name, variable in variables(backbone).items():
        variable.assign(make_weight(variable_name, variable.shape, 0))
    return backbone


def variables(backbone: Backbone) -> dict[str, tf.Variable]:
    return original_variables(backbone.first_stage) | original_variables(backbone.second_stage)


def endpoint_layer(backbone: Backbone, endpoint: str) -> tf_keras.layers.Layer | None:
    """The layer whose output slim calls `endpoint`: after batch norm, and after the ReLU where there is one."""
    layers = {layer.name: layer for layer in backbone.first_stage.layers}
    scope = endpoint if "/" in endpoint else f"FirstStageFeatureExtractor/{backbone.name}/{endpoint}"
    if scope.endswith("/PreAuxLogits"):
        scope = scope.replace("PreAuxLogits", "Repeat_1/block17_20")
    units = [name for name in layers if name.startswith(f"{scope}/unit_") and name.endswith("bottleneck_v1/Relu")]
    candidates = [units[-1]] if units else [f"{scope}/Relu", f"{scope}/BatchNorm", scope]
    return next((layers[name] for name in candidates if name in layers), None)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_endpoint_of_the_first_stage(name: str) -> None:
    stored, backbone = reference(name), weighted_backbone(name)
    names = [str(endpoint) for endpoint in stored["infer/endpoint_names"]]
    layers = {endpoint: endpoint_layer(backbone, endpoint) for endpoint in names}
    assert [endpoint for endpoint, layer in layers.items() if layer is None and "/block4" not in endpoint] == []
    built = {endpoint: layer.output for endpoint, layer in layers.items() if layer is not None}
    probe = tf.function(tf_keras.Model(backbone.first_stage.input, built))
    outputs = probe(backbone.preprocess(tf.constant(stored["image"][np.newaxis], tf.float32)))
    deviations = {}
    for index, endpoint in enumerate(names):
        if endpoint in outputs:
            full = outputs[endpoint].numpy()
            assert full.shape == tuple(stored["infer/endpoint_shapes"][index]), endpoint
            expected = stored[f"infer/endpoint_sample/{index:03d}"]
            sample = full.ravel()[:: int(stored[f"infer/endpoint_sample/{index:03d}__flat_stride"])][: len(expected)]
            deviations[endpoint] = np.abs(sample - expected).max() / stored["infer/endpoint_stats"][index, 1]
    assert {endpoint: value for endpoint, value in deviations.items() if not value <= STAGE_1} == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_variables_are_the_originals_but_for_the_unused_block4(name: str) -> None:
    ours = {key: tuple(value.shape) for key, value in variables(weighted_backbone(name)).items()}
    original = {
        key: shape
        for key, shape in reference(name).variables().items()
        if "FeatureExtractor/" in key and not (key.startswith("FirstStage") and "/block4/" in key)
    }
    assert ours == original


def test_second_stage_of_the_stored_features() -> None:
    # Of the four references only this one stores its features whole.
    stored = reference("inception_v2")
    crops = crop_and_pool(
        tf.constant(stored["infer/rpn_features_to_crop"]),
        tf.constant(stored["infer/proposal_boxes_normalized"]),
        zoo_model(stored).second_stage,
    )
    features = weighted_backbone("inception_v2").second_stage(crops)
    assert stored.deviation("infer/box_classifier_features", features, LATER).holds


@pytest.mark.slow
def test_inception_resnet_at_stride_16_halves_once_more_and_dilates_nothing() -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_resnet_v2", first_stage_features_stride=16)
    first_stage = build_backbone(extractor).first_stage
    # 65 and 33 pixels, halved four times and rounded up: 33, 17, 9, 5 and 17, 9, 5, 3.
    assert first_stage.compute_output_shape((1, 65, 33, 3)) == (1, 5, 3, 1088)
    convolutions = [layer for layer in first_stage.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    assert {layer.dilation_rate for layer in convolutions} == {(1, 1)}


@pytest.mark.parametrize(
    ("kind", "stride"),
    [("faster_rcnn_inception_v2", 8), ("faster_rcnn_inception_resnet_v2", 32), ("faster_rcnn_resnet50", 4), ("faster_rcnn_vgg", 16)],
)
def test_what_cannot_be_built_is_refused(kind: str, stride: int) -> None:
    with pytest.raises(UserError, match=r"first_stage_features_stride|feature_extractor\.type"):
        build_backbone(config.FeatureExtractor(type=kind, first_stage_features_stride=stride))


@pytest.mark.parametrize("trainable", [False, True])
def test_batch_norm_statistics_move_only_where_the_config_says_so(trainable: bool) -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=16, batch_norm_trainable=trainable)
    second_stage = build_backbone(extractor).second_stage
    names = original_variables(second_stage)
    scope = "SecondStageFeatureExtractor/InceptionV2/Mixed_5a/Branch_0/Conv2d_0a_1x1"
    mean = names[f"{scope}/BatchNorm/moving_mean"]
    crops = tf.random.stateless_normal([2, 3, 3, 576], [0, 1])
    training = second_stage(crops, training=True)
    inner = tf.tensordot(crops, names[f"{scope}/weights"][0, 0], 1)
    # The exponential average starts at zero: one update leaves 1 - decay of the batch's mean.
    expected = 0.0003 * tf.reduce_mean(inner, [0, 1, 2]) if trainable else tf.zeros_like(mean)
    np.testing.assert_allclose(mean, expected, atol=1e-7)
    if not trainable:
        np.testing.assert_array_equal(training, second_stage(crops, training=False))
    trained = {variable.ref() for variable in second_stage.trainable_variables}
    assert {name.rsplit("/", 1)[-1] for name, variable in names.items() if variable.ref() in trained} == {"weights", "gamma", "beta"}


@functools.cache
def fresh_inception() -> Backbone:
    return build_backbone(config.FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=16))


@pytest.mark.parametrize(
    ("scope", "deviation"),
    [
        # A normal distribution of deviation 1 cut at 2 has deviation 0.8796.
        ("Mixed_5a/Branch_0/Conv2d_0a_1x1", 0.09 * 0.8796),
        ("Mixed_5b/Branch_3/Conv2d_0b_1x1", 0.1 * 0.8796),
        # Glorot uniform: sqrt(2 / (fan in + fan out)), fans over 3 x 3.
        ("Mixed_5a/Branch_0/Conv2d_1a_3x3", np.sqrt(2 / (9 * 128 + 9 * 192))),
    ],
)
def test_initial_kernels_are_spread_as_slims(scope: str, deviation: float) -> None:
    kernel = variables(fresh_inception())[f"SecondStageFeatureExtractor/InceptionV2/{scope}/weights"]
    assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
