"""A file of the original's tensors, and the model that it was made with.

The tensors come from the original's TF1 graph under weights that depend on nothing but the variable's name (`references/weights.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.zoo import zoo_configs
from tasks.training.experiment import experiment_from
from tests.parity.deviation import Deviation, in_spreads
from tests.parity.references.weights import make_weight

REFERENCES = Path(__file__).parent / "references"
SCOPES = ("resnet50", "resnet101", "inception_v2", "inception_resnet_v2")


class Reference:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        self._unread = set(self._arrays.files)
        self.meta: dict[str, Any] = json.loads(str(self["meta"]))
        self.name: str = self.meta["config"]
        self.seed: int = self.meta["seed"]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> Any:
        self._unread.discard(key)
        return self._arrays[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The array, or `default` where the file does not hold it."""
        return self[key] if key in self._arrays else default

    def variables(self, graph: str = "infer") -> dict[str, tuple[int, ...]]:
        """Shapes of the original's variables by name."""
        return {entry["name"]: tuple(entry["shape"]) for entry in json.loads(str(self[f"{graph}_variables"]))}

    def trained(self, graph: str = "infer") -> set[str]:
        """Names of the variables that the original trains."""
        return {entry["name"] for entry in json.loads(str(self[f"{graph}_variables"])) if entry["trainable"]}

    def uncompared(self) -> set[str]:
        """The arrays that nobody has asked for, but for those of unused layers."""
        layers = enumerate(str(name) for name in self["infer/endpoint_names"])
        unused = tuple(f"infer/endpoint_sample/{index:03d}" for index, name in layers if is_unused(name))
        return {key for key in self._unread if not key.startswith(unused)}

    def deviation(self, key: str, full: Any, kind: str) -> Deviation:
        """The larger deviation of the stored values and of the whole tensor's statistics; `full` is our tensor, of the stored shape."""
        full = np.asarray(full)
        if full.shape != tuple(self[f"{key}__shape"]):
            return Deviation(key, np.inf, kind, f"its shape is {full.shape}")
        stored, statistics = self.get(key), self.get(f"{key}__stats")
        deviations = [] if statistics is None else [_of_statistics(full, statistics)]
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


def zoo_model_of(network: str) -> config.MaskRCNN:
    """The model of the zoo's pipeline.config for a network of `SCOPES`."""
    name = f"mask_rcnn_{network}{'' if network == 'inception_v2' else '_atrous'}_coco"
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
