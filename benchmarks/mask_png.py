"""What a mask's PNG costs to write and to read, by the way it is written, side by side in one process.

    python -m benchmarks.mask_png [--masks 200]

Prints a Markdown table: medians over the masks of generated scenes of 480 x 640, each encoded by every way in turn, and the value that
TensorFlow decodes the object's pixels to. Usual runtime: one minute.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image

from tasks.coco.masks import Mask, encode_png
from tasks.shapes.scene import render_scene

_HEIGHT, _WIDTH = 480, 640


def pillow(mask: Mask) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "png")
    return stream.getvalue()


def pillow_one_bit(mask: Mask) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask * 255).convert("1").save(stream, "png")
    return stream.getvalue()


def opencv(mask: Mask) -> bytes:
    return bytes(cv2.imencode(".png", mask)[1])


WAYS: dict[str, Callable[[Mask], bytes]] = {
    "8-bit grey, zlib-ng level 1 (ours)": encode_png,
    "8-bit grey, Pillow": pillow,
    "8-bit grey, OpenCV": opencv,
    "1-bit grey, Pillow": pillow_one_bit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=200)
    wanted = parser.parse_args().masks
    scenes = (render_scene(np.random.default_rng(seed), _HEIGHT, _WIDTH) for seed in itertools.count())
    masks = itertools.islice((mask for scene in scenes for mask in scene.masks), wanted)
    costs: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in WAYS}
    for mask in masks:
        for name, encode in WAYS.items():
            started = time.perf_counter()
            png = encode(mask)
            encoded = time.perf_counter()
            pixels = tf.io.decode_png(png, channels=1).numpy()
            costs[name].append((encoded - started, time.perf_counter() - encoded, len(png), int(pixels.max())))
    print(f"{wanted} masks of {_HEIGHT} x {_WIDTH}\n")
    print("| PNG | encode, ms | decode in TensorFlow, ms | bytes | object decodes to |\n|---|---|---|---|---|")
    for name, rows in costs.items():
        encode_s, decode_s, size, value = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {1000 * encode_s:.3f} | {1000 * decode_s:.3f} | {size:.0f} | {value:.0f} |")


if __name__ == "__main__":
    main()
