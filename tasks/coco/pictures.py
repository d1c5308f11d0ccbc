"""Pictures for people: what is there beside what was found, in one image."""

from __future__ import annotations

import colorsys
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from tasks.coco.masks import Rle, crop_from_rle, rle_extent_yxyx

Color = tuple[int, int, int]

# Apart in hue and in lightness, so that neighbours in the label map differ on photographs and for the colour-blind.
_PALETTE: tuple[Color, ...] = (
    (255, 99, 71),
    (30, 170, 255),
    (255, 200, 0),
    (50, 200, 110),
    (200, 100, 255),
    (255, 130, 200),
    (0, 205, 205),
    (190, 230, 60),
    (255, 150, 50),
    (120, 130, 255),
)
_BACKGROUND: Color = (24, 26, 31)
_TEXT: Color = (236, 238, 242)
_FAINT: Color = (150, 155, 165)
_MASK_OPACITY = 0.42
# Pixels of a panel's longer side: small images are enlarged until labels fit, large ones shrunk until a page shows them.
_SMALLEST_PANEL, _LARGEST_PANEL = 640, 1100
_MOST_OBJECTS = 60
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class PictureObjects:
    """Objects of one image, N of them."""

    boxes_yxyx: npt.NDArray[Any]
    """[N, 4], pixels of the image."""
    category_ids: Sequence[int]
    masks: Sequence[Mapping[str, Any]] | None = None
    """N compressed run-length codes of the image's size."""
    scores: Sequence[float] | None = None


def draw_comparison(
    image: npt.NDArray[np.uint8],
    groundtruth: PictureObjects,
    detections: PictureObjects,
    names: Mapping[int, str],
    min_score: float = 0.3,
    title: str = "",
) -> bytes:
    """A PNG: the ground truth on the left, detections of at least `min_score` on the right.

    Args:
      image: uint8 [height, width, 3], RGB.
      names: category id -> name; an id keeps its colour in every picture.
      title: a line above the panels, such as the image's file name.
    """
    kept = surest(detections, min_score)
    left = _panel(image, groundtruth, names)
    right = _panel(image, kept, names)
    unit = max(left.width, left.height) / _SMALLEST_PANEL
    margin, size = round(14 * unit), round(16 * unit)
    heading, caption = _font(size), _font(round(size * 0.85))
    captions = (
        f"ground truth · {_counted(len(groundtruth.category_ids))}",
        f"predictions · {_counted(len(kept.category_ids))} scored {min_score:g} or more",
    )
    column = max(left.width, *(round(caption.getlength(text)) for text in captions))
    top = margin + (round(1.9 * size) if title else 0) + round(1.7 * size)
    sheet = Image.new("RGB", (2 * column + 3 * margin, top + left.height + margin), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        _write(draw, (margin, margin), _fitted(title, heading, sheet.width - 2 * margin), heading, _TEXT)
    for x, panel, text in zip((margin, 2 * margin + column), (left, right), captions, strict=True):
        _write(draw, (x, top - round(1.6 * size)), text, caption, _FAINT)
        sheet.paste(panel, (x, top))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def draw_objects(
    image: npt.NDArray[np.uint8], objects: PictureObjects, names: Mapping[int, str], longest_side: int = _LARGEST_PANEL
) -> bytes:
    """A JPEG: the image, uint8 [height, width, 3], RGB, with the masks, boxes and names of its objects."""
    encoded = io.BytesIO()
    _panel(image, objects, names, longest_side).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def category_color(category_id: int) -> Color:
    """RGB of a category: the palette in the order of ids from 1, beyond it hues as far apart as the golden angle."""
    if 1 <= category_id <= len(_PALETTE):
        return _PALETTE[category_id - 1]
    red, green, blue = colorsys.hsv_to_rgb(category_id * 0.618034 % 1, 0.55 + 0.4 * (category_id % 2), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def surest(detections: PictureObjects, min_score: float) -> PictureObjects:
    """The surest detections of at least `min_score`, surest first; all objects where they have no scores."""
    if detections.scores is None:
        return detections
    scores = np.asarray(detections.scores, np.float64)
    order = [int(i) for i in np.argsort(-scores, kind="stable")[:_MOST_OBJECTS] if scores[i] >= min_score]
    return PictureObjects(
        np.asarray(detections.boxes_yxyx).reshape(-1, 4)[order],
        [detections.category_ids[i] for i in order],
        [detections.masks[i] for i in order] if detections.masks is not None else None,
        [float(scores[i]) for i in order],
    )


def _panel(
    image: npt.NDArray[np.uint8], objects: PictureObjects, names: Mapping[int, str], longest_side: int = _LARGEST_PANEL
) -> Image.Image:
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, _SMALLEST_PANEL), longest_side) / longer
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    panel = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    boxes = np.asarray(objects.boxes_yxyx, np.float64).reshape(-1, 4) * scale
    line = max(1, round(max(size) / 400))
    # Large objects first, so that what lies on them stays visible.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in np.argsort(-areas, kind="stable"):
        color = category_color(objects.category_ids[index])
        if objects.masks is not None:
            _blend(panel, objects.masks[index], color, line)
        ymin, xmin, ymax, xmax = boxes[index]
        corners = (xmin, ymin, max(xmax - 1, xmin), max(ymax - 1, ymin))
        ImageDraw.Draw(panel).rectangle(corners, outline=color, width=line)
    _label(panel, boxes, objects, names)
    return panel


def _blend(panel: Image.Image, code: Mapping[str, Any], color: Color, line: int) -> None:
    """Tints the object and traces its outline, both with soft edges; enlarged masks lose their staircase.

    All of it where the object is: most of a large image is not.
    """
    rle = Rle(size=list(code["size"]), counts=code["counts"])
    height, width = rle["size"]
    down, across = panel.height / height, panel.width / width
    top, left, bottom, right = rle_extent_yxyx(rle)
    reach = 2 + line + round(2 * max(across, 1))  # pixels of the panel that outline and soft edges need around the object
    place = (
        max(math.floor(left * across) - reach, 0),
        max(math.floor(top * down) - reach, 0),
        min(math.ceil(right * across) + reach, panel.width),
        min(math.ceil(bottom * down) + reach, panel.height),
    )
    box = (place[0] / across, place[1] / down, min(place[2] / across, width), min(place[3] / down, height))
    # Around the box, as far as the filter looks.
    margin = 2 + math.ceil(1 / min(down, across, 1.0))
    around = (
        max(math.floor(box[1]) - margin, 0),
        max(math.floor(box[0]) - margin, 0),
        min(math.ceil(box[3]) + margin, height),
        min(math.ceil(box[2]) + margin, width),
    )
    decoded = Image.fromarray(np.ascontiguousarray(crop_from_rle(rle, around)) * np.uint8(255))
    seen = (box[0] - around[1], box[1] - around[0], box[2] - around[1], box[3] - around[0])
    mask = decoded.resize((place[2] - place[0], place[3] - place[1]), Image.Resampling.BILINEAR, seen)
    if across > 1:
        mask = mask.filter(ImageFilter.GaussianBlur(across / 2))
    steepness = max(across, 1)
    solid = mask.point([round(min(max((value - 127.5) * steepness + 127.5, 0), 255)) for value in range(256)])
    outline = ImageChops.subtract(solid, solid.filter(ImageFilter.MinFilter(2 * line + 1)))
    panel.paste(color, place, solid.point([round(value * _MASK_OPACITY) for value in range(256)]))
    panel.paste(color, place, outline)


def _label(panel: Image.Image, boxes: npt.NDArray[Any], objects: PictureObjects, names: Mapping[int, str]) -> None:
    """Writes name and score at each box, where no earlier label and no border is in the way."""
    draw = ImageDraw.Draw(panel)
    size = max(11, round(max(panel.size) / 50))
    font = _font(size)
    pad = max(2, size // 4)
    taken = np.zeros((len(objects.category_ids), 4))
    for index, category_id in enumerate(objects.category_ids):
        name = names.get(category_id, f"#{category_id}")
        score = "" if objects.scores is None else f" {objects.scores[index]:.2f}"
        text = _fitted(name, font, panel.width - font.getlength(score) - 2 * pad) + score
        width, height = font.getlength(text) + 2 * pad, size + 2 * pad
        ymin, xmin, ymax, _ = boxes[index]
        x = min(max(xmin, 0), max(panel.width - width, 0))
        candidates = [ymin - height, ymin, ymax - height, ymax, *np.arange(ymin + height, ymax - height, height)]
        inside = [y for y in candidates if 0 <= y <= panel.height - height] or [0.0]
        beside = taken[:index][(taken[:index, 0] < x + width) & (x < taken[:index, 2])]
        tops = np.array(inside)[:, np.newaxis]
        free = np.flatnonzero(~((tops < beside[:, 3]) & (beside[:, 1] < tops + height)).any(axis=1))
        y = float(inside[free[0] if free.size else 0])
        color = category_color(category_id)
        taken[index] = (x, y, x + width, y + height)
        draw.rounded_rectangle((x, y, x + width, y + height), radius=pad, fill=color)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        _write(draw, (x + pad, y + pad), text, font, ink)


def _write(draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, ink: Color) -> None:
    # Anchored at the ascender, so that lines with and without descenders sit alike.
    draw.text((position[0], position[1] - font.size * 0.12), text, font=font, fill=ink, anchor="la")


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _counted(count: int) -> str:
    return f"{count} object" if count == 1 else f"{count} objects"


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which knows most of the world's letters; found without importing matplotlib."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("matplotlib is not installed")
    return ImageFont.truetype(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
