"""A model to ask for the detections of one image after the other, whatever it was kept as: a checkpoint, a SavedModel or an ONNX file."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.checkpoints.files import is_checkpoint
from tasks.evaluation.thresholds import THRESHOLDS, Thresholds, read_thresholds
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, read_json

if TYPE_CHECKING:
    from tasks.serving.trained_model import TrainedModel

Pixels = npt.NDArray[np.uint8]
Outputs = Mapping[str, npt.NDArray[Any]]

LABEL_MAP = "label_map.pbtxt"
_ALWAYS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
_DETECTIONS = (*_ALWAYS, "detection_masks")
_MODELS = "the folder of a trained or exported model, of a SavedModel, an ONNX file, or a checkpoint with its pipeline.config"


@dataclass(frozen=True)
class Predictor:
    """A model that is ready: it answers with an exported model's outputs, without the batch, for an image uint8 [H, W, 3], RGB."""

    batch: Callable[[Pixels], Outputs]
    """The same of images of one size, [N, H, W, 3], with the batch; N = 1 where it takes no batches."""
    takes_batches: bool = True
    decode: Callable[[bytes], Pixels] | None = None
    """An image file's pixels as the model was trained on them: TensorFlow and Pillow read a JPEG a little differently"""

    def __call__(self, pixels: Pixels) -> Outputs:
        return {name: values[0] for name, values in self.batch(pixels[np.newaxis]).items()}


@dataclass(frozen=True)
class KeptModel:
    """A model where it lies. `kind` is `checkpoint`, `original_checkpoint`, `saved_model` or `onnx`; `digest` tells another model under the
    same path."""

    kind: str
    path: Path
    names: Mapping[int, str]
    """Of the label map's ids; empty where none is known."""
    digest: str
    load: Callable[[], Predictor]
    thresholds_file: Path
    """Where its operating thresholds are, if it has any: beside an exported model, in the evaluation of a trained one."""
    batch_size: int = 1
    """That its config evaluates with"""

    def thresholds(self) -> Thresholds:
        """Its operating thresholds. UserError where it has none, or a trained model's are of another checkpoint."""
        if not self.thresholds_file.is_file():
            raise UserError(
                f"{self.path} has no operating thresholds: there is no {self.thresholds_file}",
                "evaluate the model, which chooses them, and where it is an export, export it again; or name a file of some",
            )
        found = read_thresholds(self.thresholds_file)
        if self.kind == "checkpoint" and found.chosen_on.get("checkpoint_digest") != self.digest:
            raise UserError(
                f"{self.thresholds_file}: the operating thresholds are of another checkpoint than {self.path}",
                "evaluate this checkpoint, which chooses them",
            )
        return found


def find_model(path: Path, label_map: Path | None = None, checkpoint: str = "", config: str = "") -> KeptModel:
    """The model in `path`: the folder of a trained or an exported model, of a SavedModel, an ONNX file, or a checkpoint of the original.

    The names are those of `label_map`, else those that belong to the model. `checkpoint` is one of a trained model's, as
    `read_trained_model` takes it. `config` is that of a checkpoint of the original, as `original_model` takes it; where it is given, `path`
    is taken for one. UserError for anything else; nothing is loaded yet.
    """
    names = None if label_map is None else read_label_map(label_map).names
    found = _original_checkpoint(path, config) if config else _found(path, checkpoint)
    if checkpoint and found.kind != "checkpoint":
        raise UserError(f"--checkpoint {checkpoint} chooses among a trained model's, and {path} is none", "leave it out")
    return found if names is None else replace(found, names=names)


def _found(path: Path, checkpoint: str) -> KeptModel:
    if path.suffix == ".onnx" and path.is_file():
        return _onnx_file(path)
    if not path.is_dir():
        if is_checkpoint(path):
            return _original_checkpoint(path)
        raise UserError(f"{path} {'is no model' if path.exists() else 'does not exist'}", f"name {_MODELS}")
    if (path / "model.onnx").is_file():
        return _onnx_file(path / "model.onnx")
    if (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if (path / "saved_model" / "saved_model.pb").is_file():
        return _saved_model(path / "saved_model")
    model = ModelDir(path)
    if model.train.is_dir() or model.experiment.is_file():
        return _trained_model(model, checkpoint)
    if is_checkpoint(path):
        return _original_checkpoint(path)
    below = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and ModelDir(folder).pipeline_config.is_file())
    if below:
        raise UserError(f"{path} holds several models", f"name one of them: {', '.join(str(path / name) for name in below)}")
    raise UserError(f"{path} holds no model", f"name {_MODELS}")


def _trained_model(model: ModelDir, checkpoint: str) -> KeptModel:
    # TensorFlow takes seconds to import, and ONNX files do without.
    from tasks.serving.trained_model import read_trained_model

    trained = read_trained_model(model.train, checkpoint)
    data = trained.experiment.task.validation_data
    file = model.trained_label_map if model.trained_label_map.is_file() else Path(data.label_map_path)
    return _of_network("checkpoint", trained, _names(file), trained.checkpoint_digest, model.evaluation / THRESHOLDS)


def _original_checkpoint(path: Path, config: str = "") -> KeptModel:
    from tasks.serving.original_model import class_names, original_model

    original = original_model(path, config)
    # Another config makes another model of it.
    stamp = f"{original.checkpoint_digest} {hashlib.sha256(original.experiment_file.read_bytes()).hexdigest()}"
    digest = hashlib.sha256(stamp.encode()).hexdigest()
    return _of_network("original_checkpoint", original, class_names(original), digest, original.experiment_file.parent / THRESHOLDS)


def _of_network(kind: str, trained: TrainedModel, names: Mapping[int, str], digest: str, thresholds: Path) -> KeptModel:
    """A model that our own network computes."""

    def load() -> Predictor:
        import tensorflow as tf

        from tasks.serving.signatures import INPUTS, resized_images, served_outputs
        from tasks.serving.trained_model import restored_model

        network = restored_model(trained)
        spec, _ = INPUTS["image_tensor"]

        @tf.function(input_signature=[spec])
        def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return served_outputs(network, *resized_images(images, "image_tensor", network.config.image_resizer))

        return Predictor(
            lambda pixels: _detections({name: value.numpy() for name, value in answer(tf.constant(pixels)).items()}),
            decode=_decoded_by_tensorflow,
        )

    batch_size = trained.experiment.task.validation_data.global_batch_size
    return KeptModel(kind, Path(trained.checkpoint), names, digest, load, thresholds, batch_size)


def _saved_model(folder: Path) -> KeptModel:
    report = folder.parent / "export.json"
    input_type = read_json(report).get("input_type") if report.is_file() else None

    def load() -> Predictor:
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise UserError(f"{folder} is no SavedModel that TensorFlow loads: {error}", "export the model again") from error
        signature = loaded.signatures.get("serving_default")
        given = list(signature.structured_input_signature[1].items()) if signature else []
        if len(given) != 1 or not set(_ALWAYS) <= set(signature.structured_outputs):
            raise UserError(
                f"{folder} has no signature `serving_default` of one input that answers with {', '.join(_ALWAYS)}",
                "export a detection model, with `maskline export` or the Object Detection API's exporter",
            )
        ((key, spec),) = given

        def answer(pixels: Pixels) -> Outputs:
            is_text = spec.dtype == tf.string
            batch = tf.constant([_encoded(image, input_type) for image in pixels]) if is_text else tf.cast(pixels, spec.dtype)
            found = signature(**{key: batch})
            return _detections({name: value.numpy() for name, value in found.items()})

        # The function lives as long as the object that it came from.
        answer.loaded = loaded  # type: ignore[attr-defined]
        takes_batches = spec.shape.rank is None or spec.shape[0] != 1
        return Predictor(answer, takes_batches, _decoded_by_tensorflow)

    stamp = [(file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*"))]
    digest = hashlib.sha256(str(stamp).encode()).hexdigest()
    return KeptModel("saved_model", folder, _names(folder.parent / LABEL_MAP), digest, load, folder.parent / THRESHOLDS)


def _decoded_by_tensorflow(encoded: bytes) -> Pixels:
    import tensorflow as tf

    pixels: Pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    return pixels


def _encoded(pixels: Pixels, input_type: str | None) -> bytes:
    """What a model that takes strings is given: a PNG, or a tf.Example that holds it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    if input_type != "tf_example":
        return stream.getvalue()
    import tensorflow as tf

    feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[stream.getvalue()]))}
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    return serialized


def _onnx_file(file: Path) -> KeptModel:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{file} needs onnxruntime, which this environment has not", "install maskline[onnx]")
    content = file.read_bytes()
    session = _session(file)
    names = [output.name for output in session.get_outputs()]
    given = session.get_inputs()
    if len(given) != 1 or not set(_ALWAYS) <= set(names):
        raise UserError(
            f"{file} is no detection model: it has not one input and the outputs {', '.join(_ALWAYS)}", "name a file of `maskline export`"
        )
    key, wanted = given[0].name, [name for name in _DETECTIONS if name in names]
    count, height, width = given[0].shape[:3]

    def load() -> Predictor:
        if isinstance(height, int):
            print(f"{file} takes images of {height} x {width} pixels (height x width): others are resized to that", flush=True)
        return Predictor(answer, takes_batches=not isinstance(count, int))

    def answer(pixels: Pixels) -> Outputs:
        # Boxes come back as shares of the image, whatever its size was.
        if isinstance(height, int) and pixels.shape[1:3] != (height, width):
            resized = (Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in pixels)
            pixels = np.stack([np.asarray(image) for image in resized])
        return _detections(dict(zip(wanted, session.run(wanted, {key: pixels}), strict=True)))

    stored = session.get_modelmeta().custom_metadata_map.get("class_names")
    known = {int(number): name for number, name in json.loads(stored).items()} if stored else _names(file.parent / LABEL_MAP)
    return KeptModel("onnx", file, known, hashlib.sha256(content).hexdigest(), load, file.parent / THRESHOLDS)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has a class of its own for each kind of fault
        said = str(error).splitlines()[0]
        raise UserError(f"{file} is no ONNX file that onnxruntime runs: {said}", "export the model again") from error


def _detections(outputs: Outputs) -> Outputs:
    return {name: np.asarray(outputs[name]) for name in _DETECTIONS if name in outputs}


def _names(file: Path) -> Mapping[int, str]:
    return read_label_map(file).names if file.is_file() else {}
