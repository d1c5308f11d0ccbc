"""How long a model takes for an image, whatever it is kept as: after a warm-up, at one image and at a batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

_WARM_UP, _RUNS, _SECONDS, _FEWEST = 2, 50, 10.0, 3
TIMED_IMAGES = 64
"""Of the first ones, those of the size that most of them have are taken in turn."""

_Image = TypeVar("_Image")


def seconds_per_image(answer: Callable[[list[_Image]], object], images: Sequence[_Image], batch_size: int) -> dict[str, dict[str, Any]]:
    """By size of the batch, 1 and `batch_size`: `p50`, `p95` and the number of `runs`; `answer` takes a list of images of one size.

    Of each two runs warm up, which build what they need, and then up to 50 are timed, for ten seconds but three at least.
    """
    found = {}
    for size in sorted({1, batch_size}):
        turn, seconds = itertools.cycle(images), []
        for run in itertools.count():
            some = list(itertools.islice(turn, size))
            started = time.perf_counter()
            answer(some)
            if run >= _WARM_UP:
                seconds.append((time.perf_counter() - started) / size)
            if len(seconds) >= _RUNS or (len(seconds) >= _FEWEST and sum(seconds) * size > _SECONDS):
                break
        p50, p95 = np.percentile(seconds, (50, 95))
        found[str(size)] = {"p50": float(p50), "p95": float(p95), "runs": len(seconds)}
    return found


def latency_figures(latency: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of an evaluation's `latency`: seconds an image at batch 1, median and 95th percentile, and at the other batch."""
    by_size = {int(size): one for size, one in latency.get("seconds_per_image", {}).items()}
    found: dict[str, float] = {}
    if 1 in by_size:
        found |= {"seconds_per_image": by_size[1]["p50"], "seconds_per_image_p95": by_size[1]["p95"]}
    if (largest := max(by_size, default=1)) > 1:
        found |= {"batch_size": largest, "seconds_per_image_batched": by_size[largest]["p50"]}
        found["seconds_per_image_batched_p95"] = by_size[largest]["p95"]
    return found
