"""How long a network takes for an image, on the device at hand: after a warm-up, at one image and at a batch."""

from __future__ import annotations

import contextlib
import itertools
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.evaluation.batches import batches_of_one_size
from tasks.evaluation.measure import Detector
from tasks.evaluation.predicted import processor_name
from tasks.evaluation.timing import TIMED_IMAGES, seconds_per_image
from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.mask_rcnn.config import ImageResizer


def latency(detect: Detector, resizer: ImageResizer, data: DataConfig, batch_size: int) -> dict[str, Any]:
    """Seconds per image, `p50` and `p95`, at batch 1 and at `batch_size`, with the device, the machine's name and the images' size.

    As `seconds_per_image` times them: from decoded and resized images in memory to detections in memory. Images of one size, the commonest
    of the first 64. `peak_memory`: the most `bytes` that were held meanwhile, `of` the GPU or of the whole process.
    """
    images = _of_one_size(data, resizer)
    _forget_peak_memory()

    def answer(some: list[tuple[Any, Any]]) -> None:
        for value in detect(np.stack([image for image, _ in some]), np.stack([shape for _, shape in some])).values():
            value.numpy()

    return {
        "device": device_name(),
        "machine": platform.node(),
        "image_size": list(images[0][0].shape[:2]),
        "seconds_per_image": seconds_per_image(answer, images, batch_size),
        "peak_memory": _peak_memory(),
    }


def device_name() -> str:
    """What computes: the first GPU's name, else the processor's."""
    for gpu in tf.config.list_physical_devices("GPU"):
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
    return processor_name()


def _forget_peak_memory() -> None:
    """Lets the peak begin anew; where the system does not allow it, it is that of all that the process has done."""
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark of resident memory


def _peak_memory() -> dict[str, Any]:
    if tf.config.list_physical_devices("GPU"):
        return {"bytes": int(tf.config.experimental.get_memory_info("GPU:0")["peak"]), "of": "GPU"}
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return {"bytes": int(line.split()[1]) * 1024, "of": "process"}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"bytes": most if sys.platform == "darwin" else most * 1024, "of": "process"}


def _of_one_size(data: DataConfig, resizer: ImageResizer) -> list[tuple[Any, Any]]:
    """Resized images and their sizes before padding, all of the commonest size."""
    batches = (batch for file in record_files(data) for batch in batches_of_one_size(file, resizer, 1))
    by_size: dict[tuple[int, ...], list[tuple[Any, Any]]] = {}
    for batch in itertools.islice(batches, TIMED_IMAGES):
        by_size.setdefault(batch.images.shape, []).append((batch.images[0], batch.true_shapes[0]))
    return max(by_size.values(), key=len)
