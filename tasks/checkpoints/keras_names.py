"""Names of TF1 for the tensors of the original's TensorFlow 2 checkpoints, which are called by their place among Keras's objects.

A backbone's layers are numbered (`layer_with_weights-7`) in Keras's order of its graph, by depth; ours has the same graph, built by the
same Keras, and so the same order. Training writes `model/...`, two halves of a backbone, heads and the optimizer's slots beside each
weight; a classification checkpoint has `feature_extractor/...`, the whole backbone counted through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from tasks.checkpoints.original_names import LEAVES, classification_name
from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import build_backbone
from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, KERAS

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The tensor that tells a checkpoint of objects from one of names"""

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""How every key ends"""
_STEP = f"step{VALUE}"
_KEY = re.compile(
    r"(?P<object>(?:(?!/\.).)+)/(?P<leaf>\w+)(?:/\.OPTIMIZER_SLOT/optimizer(?:/base_optimizer)?/(?P<slot>\w+))?" + re.escape(VALUE)
)
_NUMBERED = re.compile(r"(?P<part>.+)/layer_with_weights-(?P<number>\d+)")
_HALVES = {"model/_feature_extractor_for_proposal_features": 0, "model/_feature_extractor_for_box_classifier_features": 1}
_WHOLE = "feature_extractor"
_SECOND_STAGE_HEAD = "model/_mask_rcnn_box_predictor"
_HEADS = {
    r"model/_first_stage_box_predictor_first_conv/.+": "Conv",
    r"model/_first_stage_box_predictor/.+/_box_encoder_layers/\d+": "FirstStageBoxPredictor/BoxEncodingPredictor",
    r"model/_first_stage_box_predictor/.+/_class_predictor_layers/\d+": "FirstStageBoxPredictor/ClassPredictor",
    rf"{_SECOND_STAGE_HEAD}/.+/_box_encoder_layers/\d+": "SecondStageBoxPredictor/BoxEncodingPredictor",
    rf"{_SECOND_STAGE_HEAD}/.+/_class_predictor_layers/\d+": "SecondStageBoxPredictor/ClassPredictor",
}
_MASK_LAYER = re.compile(rf"{_SECOND_STAGE_HEAD}/.+/_mask_predictor_layers/(\d+)")
_SLOTS = {"momentum": "Momentum", "rms": "RMSProp", "m": "Adam", "v": "Adam_1", "average": "ExponentialMovingAverage"}
"""What TF1 called the state that an optimizer keeps of each variable"""


def names_of_keys(keys: Iterable[str], network: str) -> dict[str, str]:
    """The key of every tensor by its TF1 name: variables, their slots, `global_step`; of those without one, by the key itself.

    `network` is a feature extractor's type in either form. Of one that is unknown, the backbone keeps its keys.
    """
    layers = backbone_layers(network) if f"{network}{KERAS}" in FEATURE_CHANNELS else ((), ())
    matches = {key: match for key in keys if (match := _KEY.fullmatch(key))}
    objects = _objects({match["object"] for match in matches.values()}, layers)
    names = {}
    for key in keys:
        match = matches.get(key)
        scope = objects.get(match["object"]) if match else None
        if key == _STEP:
            names["global_step"] = key
        elif match is None or scope is None or match["leaf"] not in LEAVES:
            names[key] = key
        else:
            slot = f"/{_SLOTS.get(match['slot'], match['slot'])}" if match["slot"] else ""
            names[f"{scope}/{LEAVES[match['leaf']]}{slot}"] = key
    return names


@lru_cache
def backbone_layers(network: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """TF1 scopes of a network's layers that own variables, of both halves, in the order in which TensorFlow 2's checkpoints count them."""
    backbone = build_backbone(config.FeatureExtractor(type=f"{network}{KERAS}"))
    first, second = (
        tuple(layer.name for layer in stage.layers if layer.weights) for stage in (backbone.first_stage, backbone.second_stage)
    )
    return first, second


def _objects(objects: Iterable[str], layers: tuple[tuple[str, ...], tuple[str, ...]]) -> Mapping[str, str]:
    """The TF1 scopes of the objects that have one."""
    found = dict(_backbone_objects(objects, layers))
    for path in objects:
        for pattern, scope in _HEADS.items():
            if re.fullmatch(pattern, path):
                found[path] = scope
    # Between the mask head's convolutions lie layers without variables; TF1 counted the convolutions alone.
    masks = {int(match[1]): path for path in objects if (match := _MASK_LAYER.fullmatch(path))}
    for index, number in enumerate(sorted(masks)):
        found[masks[number]] = "SecondStageBoxPredictor/Conv" + (f"_{index}" if index else "")
    return found


def _backbone_objects(objects: Iterable[str], layers: tuple[tuple[str, ...], tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    whole = tuple(classification_name(name) for half in layers for name in half)
    for path in objects:
        match = _NUMBERED.fullmatch(path)
        if match is None:
            continue
        scopes = whole if match["part"] == _WHOLE else layers[_HALVES[match["part"]]] if match["part"] in _HALVES else ()
        if int(match["number"]) < len(scopes):
            yield path, scopes[int(match["number"])]
