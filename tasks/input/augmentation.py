"""What each augmentation does to a scene: a pure function of the option, the scene and a seed, int64 [2].

Sizes and positions are drawn as the original drew them, and its rules say which objects stay. Masks differ in one point: whatever stretches
them takes the nearest pixel, where the original interpolated some, so they stay 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import tensorflow as tf

from tasks.input import augmentation_options as options
from tasks.input.scene import Scene
from tasks.mask_rcnn import boxes


def augment_all(scene: Scene, chosen: Sequence[options.Option], seed: tf.Tensor) -> Scene:
    """The scene after every option in turn, each with a seed of its own."""
    for position, one in enumerate(chosen):
        scene = augment(one, scene, tf.random.fold_in(seed, position))
    return scene


@singledispatch
def augment(option: options.Option, scene: Scene, seed: tf.Tensor) -> Scene:
    """The scene after one option."""
    raise NotImplementedError(type(option).__name__)


@augment.register
def _(option: options.RandomHorizontalFlip, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.mirrored(_chance(seed, option.probability))


@augment.register
def _(option: options.RandomVerticalFlip, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.mirrored(_chance(seed, option.probability), upside_down=True)


@augment.register
def _(option: options.RandomRotation90, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.turned(_chance(seed, option.probability))


@augment.register
def _(option: options.RandomImageScale, scene: Scene, seed: tf.Tensor) -> Scene:
    factor = _uniform(seed, option.min_scale_ratio, option.max_scale_ratio)
    height, width = (_share(side, factor) for side in scene.size)
    return scene.scaled(height, width, align_corners=True)


@augment.register
def _(option: options.RandomCropImage, scene: Scene, seed: tf.Tensor) -> Scene:
    return _cropped(option, scene, seed)


@augment.register
def _(option: options.RandomCropPadImage, scene: Scene, seed: tf.Tensor) -> Scene:
    crop_seed, pad_seed = tf.unstack(tf.random.split(seed))
    least, most = (
        [_share(side, ratio) for side, ratio in zip(scene.size, ratios, strict=True)]
        for ratios in (option.min_padded_size_ratio or (1.0, 1.0), option.max_padded_size_ratio or (2.0, 2.0))
    )
    return _padded(_cropped(option, scene, crop_seed), least, most, option.pad_color, pad_seed)


@augment.register
def _(option: options.RandomCropToAspectRatio, scene: Scene, seed: tf.Tensor) -> Scene:
    height, width = scene.size
    window_height = tf.minimum(height, _rounded(width, 1.0 / option.aspect_ratio))
    window_width = tf.minimum(width, _rounded(height, option.aspect_ratio))
    seeds = tf.random.split(seed)
    top, left = _integer(seeds[0], 0, height - window_height + 1), _integer(seeds[1], 0, width - window_width + 1)
    seen = _mostly_inside(scene.seen_through(top, left, window_height, window_width), option.overlap_thresh)
    return seen.clipped() if option.clip_boxes else seen


@augment.register
def _(option: options.RandomPadImage, scene: Scene, seed: tf.Tensor) -> Scene:
    height, width = scene.size
    least = [option.min_image_height, option.min_image_width]
    most = [option.max_image_height or 2 * height, option.max_image_width or 2 * width]
    return _padded(scene, least, most, option.pad_color, seed)


@augment.register
def _(option: options.RandomSquareCropByScale, scene: Scene, seed: tf.Tensor) -> Scene:
    """The original dropped the last row and column of the image, and of an odd window; here they are seen."""
    scale_seed, *center_seeds = tf.unstack(tf.random.split(seed, 3))
    scales = tf.linspace(option.scale_min, option.scale_max, option.num_scales)
    side = _share(tf.reduce_max(scene.size), scales[_integer(scale_seed, 0, option.num_scales)])
    centers = []
    for length, center_seed in zip(scene.size, center_seeds, strict=True):
        border = _border(option.max_border, length)
        centers.append(_integer(center_seed, border, length - border + 1))
    return _partly_inside(scene.seen_through(centers[0] - side // 2, centers[1] - side // 2, side, side))


@augment.register
def _(option: options.RandomScaleCropAndPadToSquare, scene: Scene, seed: tf.Tensor) -> Scene:
    scale_seed, *offset_seeds = tf.unstack(tf.random.split(seed, 3))
    scale = _uniform(scale_seed, option.scale_min, option.scale_max) * option.output_size / tf.cast(tf.reduce_max(scene.size), tf.float32)
    sides = [_share(side, scale) for side in scene.size]
    offsets = [
        tf.cast(tf.cast(tf.maximum(side - option.output_size, 0), tf.float32) * _uniform(offset_seed, 0.0, 1.0), tf.int32)
        for side, offset_seed in zip(sides, offset_seeds, strict=True)
    ]
    scaled = scene.scaled(sides[0], sides[1], align_corners=False)
    return _partly_inside(scaled.seen_through(offsets[0], offsets[1], option.output_size, option.output_size))


@augment.register
def _(option: options.RandomPixelValueScale, scene: Scene, seed: tf.Tensor) -> Scene:
    factors = tf.random.stateless_uniform(tf.shape(scene.image), seed, option.minval, option.maxval)
    return scene.recoloured(scene.image * factors)


@augment.register
def _(option: options.RGBToGray, scene: Scene, seed: tf.Tensor) -> Scene:  # noqa: ARG001
    return scene.recoloured(_gray(scene.image))


@augment.register
def _(option: options.RandomRGBToGray, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.recoloured(tf.cond(_chance(seed, option.probability), lambda: _gray(scene.image), lambda: scene.image))


@augment.register
def _(option: options.RandomAdjustBrightness, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.recoloured(scene.image + 255.0 * _uniform(seed, -option.max_delta, option.max_delta))


@augment.register
def _(option: options.RandomAdjustContrast, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.recoloured(tf.image.adjust_contrast(scene.image, _uniform(seed, option.min_delta, option.max_delta)))


@augment.register
def _(option: options.RandomAdjustHue, scene: Scene, seed: tf.Tensor) -> Scene:
    return scene.recoloured(255.0 * tf.image.adjust_hue(scene.image / 255.0, _uniform(seed, -option.max_delta, option.max_delta)))


@augment.register
def _(option: options.RandomAdjustSaturation, scene: Scene, seed: tf.Tensor) -> Scene:
    factor = _uniform(seed, option.min_delta, option.max_delta)
    return scene.recoloured(255.0 * tf.image.adjust_saturation(scene.image / 255.0, factor))


@augment.register
def _(option: options.RandomDistortColor, scene: Scene, seed: tf.Tensor) -> Scene:
    contrast = options.RandomAdjustContrast(0.5, 1.5)
    saturation, hue = options.RandomAdjustSaturation(0.5, 1.5), options.RandomAdjustHue(0.2)
    later = (saturation, hue, contrast) if option.color_ordering == 0 else (contrast, saturation, hue)
    return augment_all(scene, [options.RandomAdjustBrightness(32.0 / 255.0), *later], seed)


def _cropped(option: options.RandomCropImage, scene: Scene, seed: tf.Tensor) -> Scene:
    whole_seed, window_seed = tf.unstack(tf.random.split(seed))
    height, width = scene.size
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        tf.clip_by_value(scene.boxes, 0.0, 1.0)[tf.newaxis],
        window_seed,
        min_object_covered=option.min_object_covered,
        aspect_ratio_range=(option.min_aspect_ratio, option.max_aspect_ratio),
        area_range=(option.min_area, option.max_area),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    whole = _chance(whole_seed, option.random_coef)
    top, left = tf.unstack(tf.where(whole, 0, begin[:2]))
    window_height, window_width = tf.unstack(tf.where(whole, [height, width], size[:2]))
    seen = scene.seen_through(top, left, window_height, window_width)
    seen = seen.kept(whole | _is_mostly_inside(seen.boxes, option.overlap_thresh))
    return seen.clipped() if option.clip_boxes else seen


def _padded(scene: Scene, least: Sequence[tf.Tensor], most: Sequence[tf.Tensor], color: tuple[float, ...], seed: tf.Tensor) -> Scene:
    """The scene on a canvas of `least` to `most` pixels (height, width; not less than its own), filled with `color` or its mean."""
    seeds = tf.unstack(tf.random.split(seed, 4))
    canvas, offsets = [], []
    for length, low, high, size_seed, offset_seed in zip(scene.size, least, most, seeds[:2], seeds[2:], strict=True):
        low, high = tf.maximum(low, length), tf.maximum(high, length)
        side = _integer(size_seed, tf.minimum(low, high), high)
        canvas.append(side)
        offsets.append(_integer(offset_seed, 0, side - length))
    fill = tf.constant(color) if color else tf.reduce_mean(scene.image, [0, 1])
    return scene.seen_through(-offsets[0], -offsets[1], canvas[0], canvas[1], fill)


def _mostly_inside(scene: Scene, overlap: float) -> Scene:
    return scene.kept(_is_mostly_inside(scene.boxes, overlap))


def _is_mostly_inside(all_boxes: tf.Tensor, overlap: float) -> tf.Tensor:
    """Whether boxes, [M, 4] normalized, are inside the image with at least so much of their area, and with any: bool [M]."""
    inside = boxes.area(tf.clip_by_value(all_boxes, 0.0, 1.0))
    return (inside > 0.0) & (inside >= overlap * boxes.area(all_boxes))


def _partly_inside(scene: Scene) -> Scene:
    """With the objects of which any part is inside, and boxes that end where the image does."""
    return _mostly_inside(scene, 0.0).clipped()


def _border(most: int, length: tf.Tensor) -> tf.Tensor:
    """`most` halved until it is at most half of `length`, an int32 scalar."""
    halvings = tf.math.ceil(tf.math.log(2.0 * most / tf.cast(length, tf.float32)) / tf.math.log(2.0))
    return most // tf.cast(tf.clip_by_value(2.0**halvings, 1.0, float(most)), tf.int32)


def _gray(image: tf.Tensor) -> tf.Tensor:
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))


def _share(length: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """`length` times `factor` in whole pixels, rounded down, but one at least."""
    return tf.maximum(tf.cast(tf.cast(length, tf.float32) * factor, tf.int32), 1)


def _rounded(length: tf.Tensor, factor: float) -> tf.Tensor:
    return tf.cast(tf.round(tf.cast(length, tf.float32) * factor), tf.int32)


def _uniform(seed: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, low, high)


def _integer(seed: tf.Tensor, low: tf.Tensor | int, high: tf.Tensor | int) -> tf.Tensor:
    """From `low` up to, but not including, `high`; `low` where there is nothing between."""
    return tf.random.stateless_uniform([], seed, low, tf.maximum(high, low + 1), tf.int32)


def _chance(seed: tf.Tensor, probability: float) -> tf.Tensor:
    return _uniform(seed, 0.0, 1.0) < probability
