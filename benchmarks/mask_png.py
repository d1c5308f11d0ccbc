"""What a mask's PNG costs to write and to read, by the way it is written, side by side in one process.

    python -m benchmarks.mask_png [--masks 200]

Prints a Markdown table: medians over the masks of generated scenes of 480 x 640, each encoded from its runs by every way in turn, and the
value that TensorFlow decodes the object's pixels to. Usual runtime: one minute.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import struct
import time
import zlib
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image
from zlib_ng import zlib_ng

from tasks.coco.mask_png import encode_pngs
from tasks.coco.masks import Mask, Rle, decode_png, mask_from_rle, rle_from_mask
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


def grey(mask: Mask, compress: Callable[[bytes], bytes]) -> bytes:
    """8 bits a pixel, all rows as they are."""
    return framed(mask, (8, 0), [], compress(with_filters(mask)))


def palette(mask: Mask, compress: Callable[[bytes], bytes]) -> bytes:
    """1 bit a pixel, which points at one of two colours: grey of value 0 and of value 1."""
    return framed(mask, (1, 3), [(b"PLTE", bytes([0, 0, 0, 1, 1, 1]))], compress(with_filters(np.packbits(mask, axis=1))))


def with_filters(rows: Mask) -> bytes:
    return np.pad(rows, ((0, 0), (1, 0))).tobytes()


def framed(mask: Mask, depth_and_type: tuple[int, int], chunks: list[tuple[bytes, bytes]], pixels: bytes) -> bytes:
    header = struct.pack(">II5B", mask.shape[1], mask.shape[0], *depth_and_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)) for kind, content in parts
    )


def drawn(encode: Callable[..., bytes], *options: Callable[[bytes], bytes]) -> Callable[[Rle], bytes]:
    """The way of one that must be given pixels."""
    return lambda rle: encode(mask_from_rle(rle), *options)


def zlib_ng_fast(rows: bytes) -> bytes:
    return zlib_ng.compress(rows, 1)


def zlib_fast(rows: bytes) -> bytes:
    return zlib.compress(rows, 1)


WAYS: dict[str, Callable[[Rle], bytes]] = {
    "8-bit grey, the object's rows, zlib-ng (ours)": lambda mask: encode_pngs([mask])[0],
    "8-bit grey, zlib-ng level 1": drawn(grey, zlib_ng_fast),
    "8-bit grey, zlib level 1": drawn(grey, zlib_fast),
    "8-bit grey, Pillow": drawn(pillow),
    "8-bit grey, OpenCV": drawn(opencv),
    "1-bit palette of 0 and 1, zlib-ng level 1": drawn(palette, zlib_ng_fast),
    "1-bit palette of 0 and 1, zlib level 1": drawn(palette, zlib_fast),
    "1-bit grey, Pillow": drawn(pillow_one_bit),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=200)
    wanted = parser.parse_args().masks
    scenes = (render_scene(np.random.default_rng(seed), _HEIGHT, _WIDTH) for seed in itertools.count())
    masks = itertools.islice((mask for scene in scenes for mask in scene.masks), wanted)
    costs: dict[str, list[tuple[float, float, float, int, int]]] = {name: [] for name in WAYS}
    for mask in masks:
        rle = rle_from_mask(mask)
        for name, encode in WAYS.items():
            started = time.perf_counter()
            png = encode(rle)
            encoded = time.perf_counter()
            pixels = tf.io.decode_png(png, channels=1).numpy()[..., 0]
            decoded = time.perf_counter()
            ours = decode_png(png)
            ended = time.perf_counter()
            np.testing.assert_array_equal(ours, mask)
            np.testing.assert_array_equal(pixels > 0, mask)
            costs[name].append((encoded - started, decoded - encoded, ended - decoded, len(png), int(pixels.max())))
    print(f"{wanted} masks of {_HEIGHT} x {_WIDTH}\n")
    print("| PNG | encode, ms | decode in TensorFlow, ms | in Pillow, ms | bytes | object decodes to |\n|---|---|---|---|---|---|")
    for name, rows in costs.items():
        *seconds, size, value = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {' | '.join(f'{1000 * one:.3f}' for one in seconds)} | {size:.0f} | {value:.0f} |")


if __name__ == "__main__":
    main()
