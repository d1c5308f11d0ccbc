"""The zoo's models as ONNX files: equal to the network, and run where there is no TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.serving.agreement import matched
from tasks.serving.onnx_check import _expect, check_onnx
from tasks.serving.onnx_conversion.model import ConvertedFunction
from tasks.serving.onnx_file import OnnxFile, save_as_onnx
from tasks.serving.signatures import resized_images, served_outputs

RNG = np.random.default_rng(3)
SQUARE, WIDE = (RNG.integers(0, 256, size, np.uint8) for size in ((60, 60, 3), (50, 70, 3)))

ZOO = {
    "inception_v2": {"type": "faster_rcnn_inception_v2", "first_stage_features_stride": 16},
    "resnet50": {"type": "faster_rcnn_resnet50", "first_stage_features_stride": 8},
    "resnet101": {"type": "faster_rcnn_resnet101", "first_stage_features_stride": 8},
    "inception_resnet_v2": {"type": "faster_rcnn_inception_resnet_v2", "first_stage_features_stride": 8},
}

# Reads a file as somebody does who has onnxruntime, NumPy, pycocotools and the file `paste.py`, and nothing of this project.
CLIENT = """
import json, sys
sys.modules["tensorflow"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np, onnxruntime
from paste import image_detections
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
image = np.load(sys.argv[3])
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: image[None]})))
found = image_detections({name: value[0] for name, value in outputs.items()}, *image.shape[:2], min_score=float(sys.argv[4]))
modules = [name for name, module in sys.modules.items() if module is not None]
print(json.dumps({"found": found, "modules": sorted({name.split(".")[0] for name in modules})}))
"""


def small_network(zoo: str, stages: int = 3, **fields: Any) -> MaskRCNN:
    """With 12 proposals, for images of up to 100 pixels."""
    stride = int(ZOO[zoo]["first_stage_features_stride"])
    crops = {"initial_crop_size": 17, "maxpool_kernel_size": 1, "maxpool_stride": 1} if zoo == "inception_resnet_v2" else {}
    second_stage = config.SecondStage(**({"max_total_detections": 8} | crops | fields.pop("second_stage", {})))
    model = {
        "num_classes": 4,
        "number_of_stages": stages,
        "image_resizer": config.ImageResizer(min_dimension=64, max_dimension=100, pad_to_max_dimension=True),
        "feature_extractor": config.FeatureExtractor(**ZOO[zoo]),
        "anchors": config.GridAnchorGenerator(height_stride=stride, width_stride=stride, height=64, width=64),
        "first_stage": config.FirstStage(max_proposals=12, atrous_rate=2 if stride == 8 else 1),
        "second_stage": second_stage,
        "mask_head": config.MaskHead(height=9, width=9, conv_depth=16),
    }
    tf_keras.utils.set_random_seed(0)
    network = MaskRCNN(config.MaskRCNN(**(model | fields)))
    _give_weights(network)
    return network


def _give_weights(network: MaskRCNN) -> None:
    """Batch norm that does something, and heads whose answers are neither all alike nor beyond all bounds."""
    rng = np.random.default_rng(7)
    for variable in network.variables:
        shape, name = variable.shape, variable.name
        if "moving_variance" in name:
            variable.assign(rng.uniform(0.7, 1.5, shape))
        elif "moving_mean" in name or "beta" in name:
            variable.assign(rng.normal(0, 0.1, shape))
        elif "conv3/BatchNorm/gamma" in name:
            variable.assign(rng.uniform(0.1, 0.2, shape))

    def give(layer: Any, given: tf.Tensor, spread: float) -> None:
        inputs = np.prod(layer.kernel.shape[:-1])
        layer.kernel.assign(rng.normal(0, spread / float(tf.math.reduce_std(given)) / np.sqrt(inputs), layer.kernel.shape))

    features = network.first_stage(network._preprocess(tf.constant(SQUARE[np.newaxis], tf.float32)))
    give(network.rpn.conv, features, 2.0)
    shared = network.rpn(features)["rpn_box_predictor_features"]
    give(network.rpn.box_encodings, shared, 1.0)
    give(network.rpn.objectness, shared, 2.0)
    if network.config.number_of_stages == 1:
        return
    whole = tf.constant([[[0.0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.2, 0.9, 1]]])
    crops = network.refine(features, whole)["box_classifier_features"]
    pooled = tf.reduce_mean(crops, axis=[1, 2])
    give(network.box_head.box_encodings, pooled, 1.0)
    give(network.box_head.classes, pooled, 2.0)
    if network.config.number_of_stages == 3:
        give(network.mask_head.convs[0], crops, 1.0)
        for layer in network.mask_head.convs[1:]:
            give(layer, tf.constant([-1.0, 1.0]), 1.5)


def own_answer(network: MaskRCNN, images: np.ndarray) -> dict[str, np.ndarray]:
    served = served_outputs(network, *resized_images(tf.constant(images), "image_tensor", network.config.image_resizer))
    return {name: value.numpy() for name, value in served.items()}


def files_answer(path: Path, images: np.ndarray, key: str = "inputs") -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {key: images}), strict=True))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("zoo", ZOO)
def test_a_file_is_its_network_at_any_size_and_at_one(zoo: str, tmp_path: Path) -> None:
    """On images that are padded on both sides: no box ends at the border of the features, where rounding would decide."""
    network = small_network(zoo)
    save_as_onnx(network, tmp_path / "free.onnx", "tf1", None, {})
    for images in (SQUARE[np.newaxis], np.stack([WIDE, WIDE[::-1]])):
        expected = own_answer(network, images)
        assert expected["num_detections"].min() >= 3
        assert expected["detection_masks"].std() > 0.03
        assert_same(files_answer(tmp_path / "free.onnx", images), expected)
    save_as_onnx(network, tmp_path / "fixed.onnx", "tf2", (60, 60), {})
    # The loop over images is gone.
    assert "Loop" not in {node.op_type for node in onnx.load(tmp_path / "fixed.onnx").graph.node}
    assert_same(files_answer(tmp_path / "fixed.onnx", SQUARE[np.newaxis], "input_tensor"), own_answer(network, SQUARE[np.newaxis]))
    # Each weight once, though the second stage runs twice, and batch norm gone into the convolutions.
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in network.variables)
    assert (tmp_path / "free.onnx").stat().st_size < 1.01 * weights + 300_000


# Each of these settings leaves its mark on the graph; a network takes long to build, so that several go together.
SETTINGS: dict[str, dict[str, Any]] = {
    "proposals alone, of a fixed shape": {
        "stages": 1,
        "image_resizer": config.ImageResizer(kind="fixed_shape", height=64, width=80, resize_method="BICUBIC"),
    },
    "one box for all classes, whose scores need not add up to one": {
        "stages": 2,
        "second_stage": {"share_box_across_classes": True, "score_converter": "SIGMOID", "use_matmul_crop_and_resize": True},
        "jit_compile": True,
    },
    "more places than detections, a grey border, masks of one convolution": {
        "second_stage": {"max_total_detections": 60, "max_detections_per_class": 2, "use_matmul_crop_and_resize": True},
        "original_padded_masks": True,
        "mask_head": config.MaskHead(height=5, width=7, conv_depth=8, num_conv_layers=1),
        "image_resizer": config.ImageResizer(
            min_dimension=64, max_dimension=90, pad_to_max_dimension=True, per_channel_pad_value=(9.0, 8.0, 7.0), resize_method="AREA"
        ),
    },
    "TensorFlow 2's form of a network, one mask for all classes, scaled logits": {
        "feature_extractor": config.FeatureExtractor(type="faster_rcnn_resnet50_keras", first_stage_features_stride=16),
        "second_stage": {"score_logit_scale": 1.5},
        "first_stage": config.FirstStage(max_proposals=12, partitioned_nms=True),
        "mask_head": config.MaskHead(height=9, width=9, conv_depth=16, class_agnostic=True),
    },
}


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_settings(fields: dict[str, Any], tmp_path: Path) -> None:
    network = small_network("inception_v2", **fields)
    save_as_onnx(network, tmp_path / "model.onnx", "tf1", None, {})
    assert_same(files_answer(tmp_path / "model.onnx", SQUARE[np.newaxis]), own_answer(network, SQUARE[np.newaxis]))


@pytest.fixture(scope="module")
def unpadded() -> MaskRCNN:
    return small_network("inception_v2", image_resizer=config.ImageResizer(min_dimension=64, max_dimension=100))


@pytest.fixture(scope="module")
def file(unpadded: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    return save_as_onnx(unpadded, tmp_path_factory.mktemp("onnx") / "model.onnx", "tf1", None, {"class_names": '{"1": "square"}'})


def test_the_check_counts_what_agrees(unpadded: MaskRCNN, file: OnnxFile) -> None:
    found = check_onnx(unpadded, file, [SQUARE, WIDE], 2)
    assert found["images"] == 2
    assert found["detections"] == sum(int(own_answer(unpadded, image[np.newaxis])["num_detections"][0]) for image in (SQUARE, WIDE))
    assert found["agreeing"] + found["decided_by_rounding"] == found["detections"]
    assert found["score_difference"] < 1e-4
    assert found["least_mask_iou"] > 0.999


PARTS: dict[str, Callable[[MaskRCNN], tf.Variable]] = {
    "the first stage": lambda network: network.rpn.box_encodings.bias,
    "the second stage": lambda network: network.box_head.classes.bias,
    "the masks": lambda network: network.mask_head.convs[-1].bias,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_other_weights_is_refused_by_the_part_that_differs(unpadded: MaskRCNN, file: OnnxFile, part: str) -> None:
    changed = PARTS[part](unpadded)
    before = changed.numpy()
    try:
        changed.assign_add(np.where(np.arange(before.size) % 2, 0, 1.5))
        with pytest.raises(UserError, match=f"does not do what the checkpoint does: {part} of the file gives"):
            check_onnx(unpadded, file, [SQUARE, WIDE], 2)
    finally:
        changed.assign(before)


def test_a_file_that_chooses_other_detections_is_refused(unpadded: MaskRCNN, file: OnnxFile) -> None:
    limits = unpadded.config.second_stage
    before = limits.nms_iou_threshold
    try:
        limits.nms_iou_threshold = 0.01
        with pytest.raises(UserError, match="the choice of detections of the file gives another choice"):
            check_onnx(unpadded, file, [SQUARE, WIDE], 2)
    finally:
        limits.nms_iou_threshold = before


def test_a_restless_part_may_differ_by_what_a_millionth_of_its_input_moves_it() -> None:
    outputs, disturbed = {"features": tf.constant([2.0, -4.0])}, {"features": tf.constant([2.0, -4.002])}

    def compare(moved: float, **more: Any) -> None:
        _expect("the first stage", outputs, {"features": tf.constant([2.0 + moved, -4.0])}, "features", **more)

    compare(0.0003)
    with pytest.raises(UserError, match=r"the first stage of the file gives features that differs by 0\.00047 of its largest value"):
        compare(0.0019)
    compare(0.0019, disturbed=lambda: disturbed)
    with pytest.raises(UserError, match=r"differs by 0\.00052 of its largest value"):
        compare(0.0021, disturbed=lambda: disturbed)


def test_detections_are_matched_by_class_score_and_box() -> None:
    box = [0.1, 0.1, 0.5, 0.5]

    def detections(*rows: tuple[int, float, float]) -> dict[str, Any]:
        return {
            "num_detections": len(rows),
            "detection_classes": np.array([row[0] for row in rows]),
            "detection_scores": np.array([row[1] for row in rows]),
            "detection_boxes": np.array([np.array(box) + row[2] for row in rows]).reshape(-1, 4),
        }

    ours = detections((1, 0.9, 0), (2, 0.5, 0), (3, 0.4, 0), (1, 0.3, 0))
    # The first two have changed places; then another class, a box beside it, and one score too many.
    theirs = detections((2, 0.50005, 0), (1, 0.9, 0.00005), (4, 0.4, 0), (1, 0.3, 0.001), (1, 0.1, 0))
    assert matched(ours, theirs) == [(0, 1), (1, 0)]


def test_a_client_needs_no_tensorflow(unpadded: MaskRCNN, file: OnnxFile, tmp_path: Path) -> None:
    expected = {name: value[0] for name, value in own_answer(unpadded, SQUARE[np.newaxis]).items()}
    min_score = float(expected["detection_scores"][2]) - 1e-3
    source = Path(__file__).resolve().parents[2] / "tasks" / "coco" / "paste.py"
    (tmp_path / "paste.py").write_bytes(source.read_bytes())
    np.save(tmp_path / "image.npy", SQUARE)
    words = [tmp_path, file.path, tmp_path / "image.npy", min_score]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *map(str, words)], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120
    )
    told = json.loads(done.stdout)
    assert not {"tensorflow", "tasks", "tf_keras"} & set(told["modules"])
    assert "onnxruntime" in told["modules"]
    kept = int((expected["detection_scores"] >= min_score).sum())
    assert [one["category_id"] for one in told["found"]] == expected["detection_classes"][:kept].astype(int).tolist()
    ymin, xmin, ymax, xmax = expected["detection_boxes"][0] * 60
    np.testing.assert_allclose(told["found"][0]["bbox"], [xmin, ymin, xmax - xmin, ymax - ymin], atol=0.01)
    assert all(one["segmentation"]["size"] == [60, 60] for one in told["found"])


def test_inputs_outputs_and_properties_are_named(unpadded: MaskRCNN, file: OnnxFile) -> None:
    model = onnx.load(file.path)
    assert [
        (given.name, [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim]) for given in model.graph.input
    ] == [("inputs", ["batch", "height", "width", 3])]
    shapes = {each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim] for each in model.graph.output}
    assert shapes["detection_masks"] == ["batch", 8, 9, 9]
    assert shapes["num_detections"] == ["batch"]
    assert {each.key: each.value for each in model.metadata_props} == {"class_names": '{"1": "square"}'}
    names = {each.name for each in model.graph.initializer}
    assert "FirstStageFeatureExtractor/InceptionV2/Mixed_3b/Branch_1/Conv2d_0a_1x1/kernel/normalized" in names
    assert {each.domain for each in model.opset_import} == {""}  # ONNX's own operations alone


def test_weights_of_the_file_are_those_at_the_time_of_writing(unpadded: MaskRCNN) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "images")])
    def bias(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"out": unpadded.box_head.classes.bias + tf.reduce_sum(images) * 0}

    unpadded.box_head.classes.bias.assign_add(np.arange(5, dtype=np.float32))
    model = ConvertedFunction(bias.get_concrete_function()).model(["out"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"images": np.ones((1, 2, 2, 3), np.float32)})
    np.testing.assert_array_equal(found, unpadded.box_head.classes.bias.numpy())
