"""Deterministic weights for parity tests (numpy only).

    value = make_weight(name, shape, seed)

`name` is the TF1 variable name of the original Object Detection API graph
without the ':0' suffix, e.g.
    'FirstStageFeatureExtractor/resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights'
`shape` is the TF1 shape (conv HWIO, depthwise HWCM, fully connected [in, out]).
The result is float32 and depends on nothing but (name, shape, seed).

The draw: numpy.random.Generator(PCG64(int.from_bytes(sha256(f"{seed}:{name}")[:8], 'little')))
-> standard_normal(shape, dtype=float64) (or uniform for the BN variables), then the
name-based scale below, then a cast to float32.
"""

import hashlib
import re

import numpy as np


def _rng(name, seed):
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def _fan_in(shape):
    if len(shape) == 4:
        return shape[0] * shape[1] * shape[2]
    if len(shape) == 2:
        return shape[0]
    return max(int(np.prod(shape)), 1)


# (regular expression on the name, gain multiplying the he-normal standard deviation)
_KERNEL_GAINS = (
    # ResNet input is mean-subtracted but not scaled (about +-128).
    (r"FirstStageFeatureExtractor/resnet_v1_\d+/conv1/weights$", 1.0 / 48.0),
    # RPN convolution (TF1 name has no scope); keeps part of the values below the 6 of relu6.
    (r"^Conv/weights$", 0.7),
    # Last layers: bring logits / encodings to order one.
    (r"^FirstStageBoxPredictor/BoxEncodingPredictor/weights$", 0.4),
    (r"^FirstStageBoxPredictor/ClassPredictor/weights$", 0.5),
    (r"^SecondStageBoxPredictor/BoxEncodingPredictor/weights$", 0.25),
    (r"^SecondStageBoxPredictor/ClassPredictor/weights$", 0.4),
)
# The last convolution of the mask head (Conv_3 or Conv_1) is known by its width.
_MASK_HEAD = r"^SecondStageBoxPredictor/Conv(_\d+)?/weights$"
_MASK_CLASSES = 90
_MASK_GAIN = 0.35


def make_weight(name, shape, seed=0):
    shape = tuple(int(s) for s in shape)
    rng = _rng(name, seed)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "gamma":
        value = rng.uniform(0.8, 1.2, shape)
        # The last batch norm of a ResNet bottleneck feeds the residual sum: keep it small
        # so that activations do not double in every block.
        if re.search(r"bottleneck_v1/conv3/BatchNorm/gamma$", name):
            value *= 0.25
    elif leaf == "beta" or leaf == "moving_mean":
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == "moving_variance":
        value = rng.uniform(0.7, 1.3, shape)
    elif leaf in ("biases", "bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf in ("weights", "depthwise_weights", "pointwise_weights", "kernel"):
        gain = 1.0
        for pattern, g in _KERNEL_GAINS:
            if re.search(pattern, name):
                gain = g
                break
        if re.search(_MASK_HEAD, name) and shape[-1] == _MASK_CLASSES:
            gain = _MASK_GAIN
        fan = _fan_in(shape) if leaf != "depthwise_weights" else shape[0] * shape[1]
        value = gain * np.sqrt(2.0 / fan) * rng.standard_normal(shape)
    else:
        value = np.zeros(shape)
    return np.asarray(value, dtype=np.float32)


def make_image(height, width, seed=0):
    """uint8 [height, width, 3]: coarse-to-fine smooth noise plus rectangles."""
    rng = _rng(f"image/{height}x{width}", seed)
    img = np.zeros((height, width, 3), np.float64)
    yy = (np.arange(height) + 0.5) / height
    xx = (np.arange(width) + 0.5) / width
    for cells, amp in ((3, 60.0), (8, 35.0), (24, 20.0), (64, 10.0)):
        grid = rng.standard_normal((cells + 1, cells + 1, 3))
        fy, fx = yy * cells, xx * cells
        y0, x0 = np.floor(fy).astype(int), np.floor(fx).astype(int)
        wy, wx = (fy - y0)[:, None, None], (fx - x0)[None, :, None]
        a = grid[y0][:, x0]
        b = grid[y0][:, x0 + 1]
        c = grid[y0 + 1][:, x0]
        d = grid[y0 + 1][:, x0 + 1]
        img += amp * ((1 - wy) * ((1 - wx) * a + wx * b) + wy * ((1 - wx) * c + wx * d))
    for _ in range(8):
        h = int(rng.integers(height // 8, height // 2))
        w = int(rng.integers(width // 8, width // 2))
        y = int(rng.integers(0, height - h))
        x = int(rng.integers(0, width - w))
        img[y : y + h, x : x + w] += rng.uniform(-70, 70, 3)
    return np.clip(np.rint(img + 120.0), 0, 255).astype(np.uint8)
