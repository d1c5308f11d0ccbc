"""A network as MLflow keeps models: a folder that `mlflow models serve` and `mlflow.pyfunc.load_model` take."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from PIL import Image

from tasks.coco import paste
from tasks.mask_rcnn.model import MaskRCNN
from tasks.serving.signatures import save_for_serving

# Not imported: the file registers itself with MLflow where it is loaded.
_DETECTOR = Path(__file__).with_name("mlflow_detector.py")
SAVED_MODEL = "saved_model"
"""The folder's name below `artifacts/` in MLflow's model."""
_EXAMPLE_SIDE = 320  # pixels of the example's longer side: it is sent with requests

_DETECTION = Object(
    [
        Property("category_id", DataType.long),
        Property("name", DataType.string),
        Property("score", DataType.double),
        Property("bbox", Array(DataType.double)),
        Property("segmentation", Object([Property("size", Array(DataType.long)), Property("counts", DataType.string)]), required=False),
    ]
)
SIGNATURE = ModelSignature(
    Schema([ColSpec(DataType.binary, "image")]),
    Schema([ColSpec(Array(_DETECTION), "detections")]),
    ParamSchema([ParamSpec("min_score", DataType.double, paste.DEFAULT_SCORE), ParamSpec("operating_thresholds", DataType.boolean, False)]),
)
"""A column of image files' bytes, base64 in JSON, and for each the detections of `mlflow_detector.Detector`."""


def save_for_mlflow(
    network: MaskRCNN, folder: Path, class_names: Mapping[int, str], example: npt.NDArray[np.uint8], thresholds: Path | None = None
) -> None:
    """Writes the model, whose code is a file of its own and whose weights are a SavedModel; `example` is an image uint8 [H, W, 3].

    `thresholds` is the file of its operating thresholds, if there is one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        artifacts = {SAVED_MODEL: Path(temporary) / SAVED_MODEL, "class_names": Path(temporary) / "class_names.json"}
        save_for_serving(network, "image_tensor", artifacts[SAVED_MODEL])
        artifacts["class_names"].write_text(json.dumps(dict(class_names)))
        if thresholds is not None:
            # MLflow keeps the path that it got a file from: none of this machine's.
            artifacts["thresholds"] = Path(shutil.copy(thresholds, temporary))
        # Else it would put the uv.lock of the current folder, whatever project that is of, before the requirements.
        os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(_DETECTOR),
            artifacts={name: str(path) for name, path in artifacts.items()},
            code_paths=[paste.__file__],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"image": [_small_jpeg(example)]}),
            pip_requirements=[f"{name}=={_version(name)}" for name in ("mlflow", "numpy", "pillow", "pycocotools")]
            + [f"tensorflow=={tf.__version__}"],
        )


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _small_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((_EXAMPLE_SIDE, _EXAMPLE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()
