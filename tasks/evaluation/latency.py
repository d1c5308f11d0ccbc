"""How long a network takes for an image, on the device at hand: after a warm-up, at one image and at a batch."""

from __future__ import annotations

import contextlib
import itertools
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.evaluation.batches import batches_of_one_size
from tasks.evaluation.measure import Detector
from tasks.evaluation.predicted import processor_name
from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.mask_rcnn.config import ImageResizer

_WARM_UP, _RUNS, _SECONDS, _FEWEST = 2, 50, 10.0, 3
_IMAGES = 64
"""Of the first ones, those of the size that most of them have are taken in turn."""


def latency(detect: Detector, resizer: ImageResizer, data: DataConfig, batch_size: int) -> dict[str, Any]:
    """Seconds per image, `p50` and `p95`, at batch 1 and at `batch_size`, with the device, the machine's name and the images' size.

    Of each two runs warm up, which build what they need, and then up to 50 are timed, for ten seconds but three at least: from decoded and
    resized images in memory to detections in memory. Images of one size, the commonest of the first 64. `peak_memory`: the most `bytes`
    that were held meanwhile, `of` the GPU or of the whole process.
    """
    images = _of_one_size(data, resizer)
    batches = {}
    _forget_peak_memory()
    for size in sorted({1, batch_size}):
        rounds = _rounds(images, size)
        seconds: list[float] = []
        for run in itertools.count():
            stack, shapes = next(rounds)
            started = time.perf_counter()
            for value in detect(stack, shapes).values():
                value.numpy()
            if run >= _WARM_UP:
                seconds.append((time.perf_counter() - started) / size)
            if len(seconds) >= _RUNS or (len(seconds) >= _FEWEST and sum(seconds) * size > _SECONDS):
                break
        p50, p95 = np.percentile(seconds, (50, 95))
        batches[str(size)] = {"p50": float(p50), "p95": float(p95), "runs": len(seconds)}
    return {
        "device": device_name(),
        "machine": platform.node(),
        "image_size": list(images[0][0].shape[:2]),
        "seconds_per_image": batches,
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
    for batch in itertools.islice(batches, _IMAGES):
        by_size.setdefault(batch.images.shape, []).append((batch.images[0], batch.true_shapes[0]))
    return max(by_size.values(), key=len)


def _rounds(images: list[tuple[Any, Any]], size: int) -> Iterator[tuple[Any, Any]]:
    """Batches of the images in turn, without end."""
    turn = itertools.cycle(images)
    while True:
        some = list(itertools.islice(turn, size))
        yield np.stack([image for image, _ in some]), np.stack([shape for _, shape in some])
