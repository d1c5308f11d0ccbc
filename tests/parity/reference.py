"""A file of the original's tensors, and the model that it was made with.

The tensors come from the original's TF1 graph under weights that depend on nothing but the variable's name (`references/weights.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format

from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import zoo_configs
from tasks.training.experiment import experiment_from
from tests.parity.deviation import Deviation, in_spreads
from tests.parity.references.weights import make_image, make_weight

REFERENCES = Path(__file__).parent / "references"
SCOPES = ("resnet50", "resnet101", "inception_v2", "inception_resnet_v2")
KERAS = (
    "resnet50_box",
    "resnet50_mask",
    "resnet50_mask_padded",
    "resnet101_box",
    "resnet101_mask",
    "inception_resnet_v2_mask",
    *(f"resnet{depth}_{kind}_dynamic" for depth in (50, 101) for kind in ("box", "mask")),
)
"""Files of `references/tf2`; those called dynamic are of training alone, with `use_static_shapes: false`.

Of the largest tensors of stage 1 they hold every so many values, and statistics of all.
"""


class Reference:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        self._unread = set(self._arrays.files)
        self.meta: dict[str, Any] = json.loads(str(self["meta"]))
        self.is_keras = "model" in self.meta
        self.name: str = _keras_name(self.meta) if self.is_keras else self.meta["config"]
        self.seed: int = self.meta["seed"]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> Any:
        self._unread.discard(key)
        return self._arrays[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The array, or `default` where the file does not hold it."""
        return self[key] if key in self._arrays else default

    def model(self, graph: str = "infer") -> config.MaskRCNN:
        """The model that was made for a graph: of TensorFlow 2's form from the file's own text, otherwise from the zoo's config."""
        if self.is_keras:
            return _model_of(str(self[f"{graph}/config_text"]), self.name)
        model = zoo_model(self)
        if graph == "train":
            settings = json.loads(str(self["train/config"]))
            model.first_stage.minibatch_size = settings["first_stage_minibatch_size"]
            model.first_stage.max_proposals = settings["first_stage_max_proposals"]
            model.second_stage.batch_size = settings["second_stage_batch_size"]
            model.second_stage.balance_fraction = settings["second_stage_balance_fraction"]
        return model

    def image(self) -> Any:
        """uint8 [H, W, 3]; files of training alone do not hold it."""
        made = make_image(self.meta["height"], self.meta["width"], self.seed)
        return self.get("image", made)

    def sensitivity(self, key: str) -> Any:
        """How far each value under `key` moves when every weight is disturbed by a millionth, from this file or its model's; else None."""
        told = self.get(f"{key}_sensitivity")
        if told is None and self.is_keras and self.name != _keras_name(self.meta | _PLAIN):
            told = Reference(REFERENCES / "tf2" / f"{self.meta['model']}_small.npz").sensitivity(key)
        return told

    def matmul_crops(self) -> bool:
        """Whether crops were made by `use_matmul_crop_and_resize`, whose gradient loses nothing on several threads."""
        return "use_matmul_crop_and_resize: true" in str(self["train/config_text"])

    def leave_out(self, key: str) -> None:
        """Says that an array is not to be compared."""
        self._unread.discard(key)

    def weight(self, name: str, shape: Any) -> Any:
        """The value that the variable began with."""
        return make_weight(name, shape, self.seed)

    def variables(self, graph: str = "infer") -> dict[str, tuple[int, ...]]:
        """Shapes of the original's variables by name."""
        return {entry["name"]: tuple(entry["shape"]) for entry in json.loads(str(self[f"{graph}_variables"]))}

    def trained(self, graph: str = "infer") -> set[str]:
        """Names of the variables that the original trains."""
        return {entry["name"] for entry in json.loads(str(self[f"{graph}_variables"])) if entry["trainable"]}

    def uncompared(self) -> set[str]:
        """The arrays that nobody has asked for, but for those of unused layers."""
        layers = enumerate(str(name) for name in self.get("infer/endpoint_names", ()))
        unused = tuple(f"infer/endpoint_sample/{index:03d}" for index, name in layers if is_unused(name))
        # Scales of tolerances are no values.
        return {key for key in self._unread if not key.startswith(unused) and not key.endswith("sensitivity")}

    def deviation(self, key: str, full: Any, kind: str) -> Deviation:
        """The larger deviation of the stored values and of the whole tensor's statistics; `full` is our tensor, of the stored shape."""
        full = np.asarray(full)
        if full.shape != tuple(self[f"{key}__shape"]):
            return Deviation(key, np.inf, kind, f"its shape is {full.shape}")
        stored, statistics = self.get(key), self.get(f"{key}__stats")
        deviations = [] if statistics is None else [_of_statistics(full, statistics)]
        if (flat := self.get(f"{key}_sample")) is not None:
            sample = full.ravel()[:: int(self[f"{key}_sample__flat_stride"])][: len(flat)]
            deviations.append(in_spreads(sample, flat, statistics[1]))
        if stored is not None:
            sample = full[tuple(slice(None, None, int(stride)) for stride in self.get(f"{key}__stride", [1] * full.ndim))]
            deviations.append(in_spreads(sample, stored, 1.0 if statistics is None else statistics[1]))
        return Deviation(key, max(deviations), kind)

    def layer_deviation(self, index: int, full: Any, kind: str) -> Deviation:
        """The same for the first stage's layer at `index` of `infer/endpoint_names`."""
        full = np.asarray(full)
        key, statistics = f"infer/endpoint_sample/{index:03d}", self["infer/endpoint_stats"][index]
        tensor = f"infer/endpoint/{self['infer/endpoint_names'][index]}"
        if full.shape != tuple(self["infer/endpoint_shapes"][index]):
            return Deviation(tensor, np.inf, kind, f"its shape is {full.shape}")
        sample = full.ravel()[:: int(self[f"{key}__flat_stride"])][: len(self[key])]
        return Deviation(tensor, max(in_spreads(sample, self[key], statistics[1]), _of_statistics(full, statistics)), kind)


def _of_statistics(full: np.ndarray, statistics: np.ndarray) -> float:
    """Largest difference of mean, standard deviation, minimum, maximum and mean absolute value, in standard deviations.

    `statistics` holds the original's, the last one as a sum.
    """
    full = full.astype(np.float64)
    ours = [full.mean(), full.std(), full.min(), full.max(), np.abs(full).mean()]
    return in_spreads(ours, [*statistics[:4], statistics[4] / full.size], statistics[1])


def is_unused(name: str) -> bool:
    """Whether a layer or variable belongs to the first stage's block4, which the original builds and never uses."""
    return name.startswith("FirstStageFeatureExtractor/") and "/block4" in name


_PLAIN = {"static": None, "resizer": "fixed"}


def _keras_name(meta: dict[str, Any]) -> str:
    """As the file is called: `static` false is of no effect but on how things are computed, which is what such a file is there to show."""
    variant = {"false": "_dynamic"}.get(meta["static"], "") + ("_padded" if meta["resizer"] == "padded" else "")
    return f"{meta['model']}{variant}, TF2"


def _model_of(text: str, name: str) -> config.MaskRCNN:
    """The model that a `model` message in text format describes."""
    pipeline = text_format.Parse(_TRAINING, TrainEvalPipelineConfig())
    text_format.Parse(text, pipeline.model)
    values = translate(pipeline, name=name, original_padded_masks=True).values
    model: config.MaskRCNN = experiment_from(values, Path(name)).task.model
    return model


_READER = "tf_record_input_reader { input_path: 'x' } label_map_path: 'x'"
_TRAINING = f"""
train_config {{
  num_steps: 1
  optimizer {{ use_moving_average: false momentum_optimizer {{ learning_rate {{ constant_learning_rate {{}} }} }} }}
}}
train_input_reader {{ {_READER} }}
eval_input_reader {{ {_READER} }}
"""
"""What a whole config says beside its model"""


def zoo_name(network: str) -> str:
    """The zoo's config of a network of `SCOPES`."""
    return f"mask_rcnn_{network}{'' if network == 'inception_v2' else '_atrous'}_coco"


def zoo_model_of(network: str) -> config.MaskRCNN:
    """The model of the zoo's pipeline.config for a network of `SCOPES`."""
    name = zoo_name(network)
    path = zoo_configs()[name]
    model: config.MaskRCNN = experiment_from(translate(read_pipeline_config(path), name=name).values, path).task.model
    return model


def zoo_model(reference: Reference) -> config.MaskRCNN:
    """The model that a reference was made with: the zoo's, with the reference's own numbers of boxes where it had any."""
    model = zoo_model_of(reference.name)
    model.first_stage.max_proposals = reference.meta.get("proposals") or model.first_stage.max_proposals
    model.second_stage.max_total_detections = reference.meta.get("detections") or model.second_stage.max_total_detections
    return model


def weighted(model: config.MaskRCNN, seed: int) -> MaskRCNN:
    """The model with the deterministic weights."""
    network = MaskRCNN(model)
    for name, variable in original_variables(network).items():
        variable.assign(make_weight(name, variable.shape, seed))
    return network
