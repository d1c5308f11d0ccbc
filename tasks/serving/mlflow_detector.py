"""What `mlflow models serve` runs: pictures in, detections out.

MLflow copies this file into the model and runs it there. It needs mlflow, TensorFlow, NumPy, Pillow and pycocotools, and nothing of this
project but `paste.py`, which MLflow puts beside it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageOps

MIN_SCORE = 0.5


class Detector(mlflow.pyfunc.PythonModel):
    """Of a table with a column `image`, files' bytes, a row `detections` each, surest first.

    A detection has `category_id`, `name`, `score`, `bbox` [x, y, width, height] in pixels of the upright picture, and where the model has
    masks `segmentation`, a COCO run-length code. `params` may hold `min_score`, and `operating_thresholds`: true leaves out what scores
    less than its category's threshold instead.
    """

    def load_context(self, context: Any) -> None:
        # Here, and not at the top: saving the model loads this file too. `paste` is MLflow's own copy.
        import tensorflow as tf
        from paste import class_thresholds  # type: ignore[import-not-found]

        self._loaded = tf.saved_model.load(context.artifacts["saved_model"])
        self._names = {int(number): name for number, name in json.loads(Path(context.artifacts["class_names"]).read_text()).items()}
        file = context.artifacts.get("thresholds")
        self._thresholds: dict[int, float] | None = class_thresholds(file) if file else None

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        params = params or {}
        min_score: float | dict[int, float] = float(params.get("min_score", MIN_SCORE))
        if params.get("operating_thresholds", False):
            if self._thresholds is None:
                raise mlflow.MlflowException.invalid_parameter_value(
                    "`operating_thresholds`: this model has none: it was exported before an evaluation chose them"
                )
            min_score = self._thresholds
        return [{"detections": self._detections(_pixels(row, content), min_score)} for row, content in enumerate(model_input["image"])]

    def _detections(self, pixels: npt.NDArray[np.uint8], min_score: float | dict[int, float]) -> list[dict[str, Any]]:
        from paste import image_detections

        outputs = {name: value.numpy()[0] for name, value in self._loaded(pixels[np.newaxis]).items()}
        found: list[dict[str, Any]] = image_detections(outputs, *pixels.shape[:2], min_score=min_score)
        for detection in found:
            detection["name"] = self._names.get(detection["category_id"], f"#{detection['category_id']}")
        return found


def _pixels(row: int, content: bytes) -> npt.NDArray[np.uint8]:
    """The upright picture, uint8 [H, W, 3], RGB; what is none is the client's mistake, which a server answers with code 400."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise mlflow.MlflowException.invalid_parameter_value(f"row {row}: `image` is no image file that Pillow reads: {error}") from error


mlflow.models.set_model(Detector())
