"""The augmentations that a config can ask for: the original's names, parameters and defaults, frozen and checked.

What they do is in `augmentation`. Nothing here needs TensorFlow, so that a config can be translated without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tasks.running.errors import UserError


@dataclasses.dataclass(frozen=True)
class Option:
    """An augmentation with its parameters. Lengths are pixels, fractions are of the image, deltas of the range of pixel values."""

    def __post_init__(self) -> None:
        """Refuses an interval that is none, and a list of another length than its default means."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            length = _LENGTHS.get(name)
            if length is not None and len(value) not in (0, length):
                raise UserError(f"{name} has {len(value)} values", f"give {length}, or none")
            above = values.get(name.replace("min", "max"))
            if above and any(low > high for low, high in zip(_listed(value), _listed(above), strict=False)):
                raise UserError(f"{name} {value} is above {name.replace('min', 'max')} {above}", "exchange them, or correct one")


_LENGTHS = {"pad_color": 3, "min_padded_size_ratio": 2, "max_padded_size_ratio": 2}


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@dataclasses.dataclass(frozen=True)
class RandomHorizontalFlip(Option):
    """Left and right exchanged."""

    probability: float = 0.5


@dataclasses.dataclass(frozen=True)
class RandomVerticalFlip(Option):
    """Top and bottom exchanged."""

    probability: float = 0.5


@dataclasses.dataclass(frozen=True)
class RandomRotation90(Option):
    """Turned by 90 degrees, counter-clockwise."""

    probability: float = 0.5


@dataclasses.dataclass(frozen=True)
class RandomImageScale(Option):
    """Height and width multiplied by one factor."""

    min_scale_ratio: float = 0.5
    max_scale_ratio: float = 2.0


@dataclasses.dataclass(frozen=True)
class RandomCropImage(Option):
    """A window that covers `min_object_covered` of at least one object; objects of which less than `overlap_thresh` is inside go.

    With probability `random_coef` the image stays whole. Aspect ratios are width over height.
    """

    min_object_covered: float = 1.0
    min_aspect_ratio: float = 0.75
    max_aspect_ratio: float = 1.33
    min_area: float = 0.1
    max_area: float = 1.0
    overlap_thresh: float = 0.3
    random_coef: float = 0.0
    clip_boxes: bool = True


@dataclasses.dataclass(frozen=True)
class RandomCropToAspectRatio(Option):
    """The largest window of an aspect ratio (width over height), somewhere; objects go as in `RandomCropImage`."""

    aspect_ratio: float = 1.0
    overlap_thresh: float = 0.3
    clip_boxes: bool = True


@dataclasses.dataclass(frozen=True)
class RandomPadImage(Option):
    """The image somewhere on a larger canvas. Least and greatest size are the image's and twice that where 0; no colour is the mean's."""

    min_image_height: int = 0
    min_image_width: int = 0
    max_image_height: int = 0
    max_image_width: int = 0
    pad_color: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class RandomCropPadImage(RandomCropImage):
    """A random crop on a canvas of so many times the uncropped height and width, (1, 1) to (2, 2) where nothing is said."""

    min_padded_size_ratio: tuple[float, ...] = ()
    max_padded_size_ratio: tuple[float, ...] = ()
    pad_color: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class RandomSquareCropByScale(Option):
    """A square of one of `num_scales` sizes, relative to the long side, about a centre that lies `max_border` or more from the edge.

    The border is halved until it is at most half of the side.
    """

    max_border: int = 128
    scale_min: float = 0.6
    scale_max: float = 1.3
    num_scales: int = 8


@dataclasses.dataclass(frozen=True)
class RandomScaleCropAndPadToSquare(Option):
    """The long side made so many times `output_size`; of that, a square of `output_size`."""

    output_size: int = 512
    scale_min: float = 0.1
    scale_max: float = 2.0


@dataclasses.dataclass(frozen=True)
class RandomPixelValueScale(Option):
    """Every value of every pixel multiplied by a factor of its own."""

    minval: float = 0.9
    maxval: float = 1.1


@dataclasses.dataclass(frozen=True)
class RGBToGray(Option):
    """Without colour, in three channels."""


@dataclasses.dataclass(frozen=True)
class RandomRGBToGray(Option):
    """Without colour, in three channels."""

    probability: float = 0.1


@dataclasses.dataclass(frozen=True)
class RandomAdjustBrightness(Option):
    """One amount added to every pixel."""

    max_delta: float = 0.2


@dataclasses.dataclass(frozen=True)
class RandomAdjustContrast(Option):
    """Distances from the channel's mean multiplied by one factor."""

    min_delta: float = 0.8
    max_delta: float = 1.25


@dataclasses.dataclass(frozen=True)
class RandomAdjustHue(Option):
    """The hue turned, either way, by up to `max_delta` of the circle."""

    max_delta: float = 0.02


@dataclasses.dataclass(frozen=True)
class RandomAdjustSaturation(Option):
    """The saturation multiplied by one factor."""

    min_delta: float = 0.8
    max_delta: float = 1.25


@dataclasses.dataclass(frozen=True)
class RandomDistortColor(Option):
    """Brightness, saturation, hue, contrast; or, with `color_ordering` 1, brightness, contrast, saturation, hue."""

    color_ordering: int = 0

    def __post_init__(self) -> None:
        if self.color_ordering not in (0, 1):
            raise UserError(f"color_ordering {self.color_ordering} is unknown", "write 0 or 1")


OPTIONS: dict[str, type[Option]] = {
    "random_horizontal_flip": RandomHorizontalFlip,
    "random_vertical_flip": RandomVerticalFlip,
    "random_rotation90": RandomRotation90,
    "random_image_scale": RandomImageScale,
    "random_crop_image": RandomCropImage,
    "random_crop_to_aspect_ratio": RandomCropToAspectRatio,
    "random_pad_image": RandomPadImage,
    "random_crop_pad_image": RandomCropPadImage,
    "random_square_crop_by_scale": RandomSquareCropByScale,
    "random_scale_crop_and_pad_to_square": RandomScaleCropAndPadToSquare,
    "random_pixel_value_scale": RandomPixelValueScale,
    "rgb_to_gray": RGBToGray,
    "random_rgb_to_gray": RandomRGBToGray,
    "random_adjust_brightness": RandomAdjustBrightness,
    "random_adjust_contrast": RandomAdjustContrast,
    "random_adjust_hue": RandomAdjustHue,
    "random_adjust_saturation": RandomAdjustSaturation,
    "random_distort_color": RandomDistortColor,
}


def option(kind: str, parameters: Mapping[str, Any]) -> Option:
    """The option of a name with parameters of theirs, the rest at its default; UserError for what is unknown or contradicts itself."""
    if kind not in OPTIONS:
        raise UserError(f"the augmentation {kind!r} is not supported", f"supported: {', '.join(sorted(OPTIONS))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    try:
        return OPTIONS[kind](**values)
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(OPTIONS[kind]))
        raise UserError(f"{kind} has no parameters {sorted(parameters)}", f"it has: {names}") from error
