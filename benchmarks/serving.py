"""What an exported model takes as a SavedModel and as an ONNX file: bytes, and the time of an image, side by side in one process.

    python -m benchmarks.serving [CONFIG ...] [--repeats 5]

Prints a Markdown table: medians over `--repeats` alternating runs, after one that warms up, on a CPU, of an image at 256 x 256, batch 1,
with the zoo config's own 300 proposals and 90 classes. Before anything is timed, the file is held against the network as an export is.
Usual runtime: ten minutes for all four configs on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tensorflow as tf
import tf_keras

from benchmarks.model import SIZE, THREADS, compare, example, zoo_experiment
from tasks.mask_rcnn.config import ImageResizer
from tasks.mask_rcnn.model import MaskRCNN
from tasks.pipeline_config.zoo import zoo_configs
from tasks.serving.onnx_check import check_onnx
from tasks.serving.onnx_file import save_as_onnx
from tasks.serving.signatures import save_for_serving


def row(name: str, repeats: int) -> str:
    """The row of one zoo config."""
    tf_keras.utils.set_random_seed(0)
    settings = zoo_experiment(name).task.model
    settings.image_resizer = ImageResizer(kind="identity")
    network = MaskRCNN(settings)
    images, _, _ = example(network, 1)
    pixels = images.numpy().astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        saved, file = Path(folder) / "saved_model", Path(folder) / "model.onnx"
        save_for_serving(network, "image_tensor", saved)
        check_onnx(network, save_as_onnx(network, file, "tf1", None, {}), pixels, len(pixels))
        sizes = [sum(each.stat().st_size for each in saved.rglob("*") if each.is_file()), file.stat().st_size]
        served = tf.saved_model.load(str(saved)).signatures["serving_default"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        batch = tf.constant(pixels)
        costs = compare([lambda: session.run(None, {"inputs": pixels}), lambda: served(inputs=batch)], repeats)
    return f"| {name} | {sizes[1] / 1e6:.0f} | {sizes[0] / 1e6:.0f} | {costs} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare exported models as ONNX files and as SavedModels.")
    parser.add_argument("configs", nargs="*", default=list(zoo_configs()), metavar="CONFIG", help="zoo configs; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    print(f"onnxruntime {onnxruntime.__version__}, TensorFlow {tf.__version__}, {THREADS} threads, {SIZE} x {SIZE}, batch 1\n")
    print("| config | ONNX MB | SavedModel MB | ONNX CPU s | TensorFlow CPU s | ratio | ONNX wall s | TensorFlow wall s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.configs:
        print(row(name, arguments.repeats), flush=True)
        tf_keras.backend.clear_session()


if __name__ == "__main__":
    main()
