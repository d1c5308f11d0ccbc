"""A config as the original's TensorFlow 2 has them, made of the zoo's: the settings in which its 640 x 640 ResNets differ."""

from __future__ import annotations

from tasks.pipeline_config.zoo import zoo_configs

_CHANGES = {
    'type: "faster_rcnn_resnet50" first_stage_features_stride: 8': 'type: "faster_rcnn_resnet50_keras" batch_norm_trainable: true',
    "height_stride: 8": "height_stride: 16",
    "width_stride: 8": "width_stride: 16",
    "first_stage_atrous_rate: 2": "",
    "number_of_stages: 3": "number_of_stages: 3 use_static_shapes: true use_static_balanced_label_sampler: true "
    "clip_anchors_to_image: true use_matmul_crop_and_resize: true use_matmul_gather_in_matcher: true resize_masks: false",
    "mask_rcnn_box_predictor {": "mask_rcnn_box_predictor { share_box_across_classes: true",
    "keep_aspect_ratio_resizer { min_dimension: 800 max_dimension: 1365 }": "keep_aspect_ratio_resizer "
    "{ min_dimension: 640 max_dimension: 640 pad_to_max_dimension: true }",
    "from_detection_checkpoint: true": 'fine_tune_checkpoint_version: V2 fine_tune_checkpoint_type: "detection" use_bfloat16: true',
}


def keras_config() -> str:
    """The text of a Mask R-CNN over `faster_rcnn_resnet50_keras`."""
    text = zoo_configs()["mask_rcnn_resnet50_atrous_coco"].read_text()
    for before, after in _CHANGES.items():
        assert before in text
        text = text.replace(before, after)
    return text
