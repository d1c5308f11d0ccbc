"""Annotated images to and from serialized `tf.train.Example`, under the Object Detection API's feature keys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.coco.masks import Rle
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.checks import BadImageError, Check
from tasks.records.example_pb2 import Example, Feature
from tasks.records.features import RecordFeatures
from tasks.records.image_file import EncodedImage
from tasks.records.mask_forms import put_dense_masks, put_png_masks, stored_masks

PNG_MASKS = "PNG_MASKS"
NUMERICAL_MASKS = "NUMERICAL_MASKS"
MASK_TYPES = {"png": PNG_MASKS, "numerical": NUMERICAL_MASKS}
"""By the words of the command line"""
MASK_KEY = "image/object/mask"
BOX_SIDES = tuple(f"image/object/bbox/{side}" for side in ("ymin", "xmin", "ymax", "xmax"))

PUT_MASKS: Mapping[str, Callable[[Feature, Iterable[Rle]], None]] = {PNG_MASKS: put_png_masks, NUMERICAL_MASKS: put_dense_masks}


def build_example(image: AnnotatedImage, encoded: EncodedImage, category_names: Mapping[int, str], mask_type: str = PNG_MASKS) -> bytes:
    """The serialized example of one image; equal inputs give equal bytes.

    Boxes are normalized by the image's size; labels are label-map ids; `mask_type` is the form of the masks. An image without objects
    has its lists empty. `category_names` maps label-map ids to names.
    """
    instances = image.instances
    example = Example()
    features = example.features.feature

    def put_bytes(key: str, values: Iterable[bytes]) -> None:
        features[key].bytes_list.value.extend(values)

    def put_ints(key: str, values: Iterable[int]) -> None:
        features[key].int64_list.value.extend(values)

    def put_floats(key: str, values: Iterable[float]) -> None:
        features[key].float_list.value.extend(values)

    put_bytes("image/encoded", [encoded.content])
    put_bytes("image/format", [encoded.format.encode()])
    put_bytes("image/filename", [image.filename.encode()])
    put_bytes("image/key/sha256", [encoded.sha256.encode()])
    put_bytes("image/source_id", [image.source_id.encode()])
    put_ints("image/height", [image.height])
    put_ints("image/width", [image.width])
    put_floats("image/object/bbox/ymin", (instance.box_yxyx[0] / image.height for instance in instances))
    put_floats("image/object/bbox/xmin", (instance.box_yxyx[1] / image.width for instance in instances))
    put_floats("image/object/bbox/ymax", (instance.box_yxyx[2] / image.height for instance in instances))
    put_floats("image/object/bbox/xmax", (instance.box_yxyx[3] / image.width for instance in instances))
    put_bytes("image/object/class/text", (category_names[instance.category_id].encode() for instance in instances))
    put_ints("image/object/class/label", (instance.category_id for instance in instances))
    put_floats("image/object/area", (instance.area for instance in instances))
    put_ints("image/object/is_crowd", (int(instance.is_crowd) for instance in instances))
    put_ints("image/object/difficult", (int(instance.is_difficult) for instance in instances))
    put_ints("image/object/group_of", (0 for _ in instances))
    put_floats("image/object/weight", (instance.weight for instance in instances))
    PUT_MASKS[mask_type](features[MASK_KEY], (instance.mask for instance in instances))
    put_floats("image/object/mask/weight", (1.0 for _ in instances))
    return example.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class ImageRecord:
    """A record read back: the image's bytes as stored, and its instances on the full frame, boxes in pixels.

    What the record does not say is empty text, but for the format, which is then `jpeg`. `has_areas` is false where it stores none and
    the boxes' areas stand in.
    """

    source_id: str
    filename: str
    encoded: bytes
    format: str
    sha256: str
    height: int
    width: int
    instances: tuple[Instance, ...]
    has_areas: bool


def parse_example(serialized: bytes, where: str, label_ids: Mapping[str, int] | None = None) -> ImageRecord:
    """The record of a serialized example, ours or another tool's, with masks in either form; `where` names it in errors.

    `label_ids` maps names to label-map ids: with it, the objects' names decide, as in the original, and their stored ids where they
    have no names. Without it, the stored ids are taken as they are. BadImageError where the bytes are no example, a list has another
    length than the boxes, a box is not of finite numbers, a category is unknown, or a mask is missing or not the image's.
    """
    features = RecordFeatures.parse(serialized, where)
    height, width = features.size
    sides = [features.floats(key) for key in BOX_SIDES]
    count = len(sides[0])
    if any(len(side) != count for side in sides):
        raise features.malformed(f"the boxes' sides hold {[len(side) for side in sides]} values")
    boxes = [(ymin * height, xmin * width, ymax * height, xmax * width) for ymin, xmin, ymax, xmax in zip(*sides, strict=True)]
    areas = features.floats("image/object/area")
    if not all(map(math.isfinite, itertools.chain(*sides, areas))):
        raise BadImageError(
            Check.ANNOTATION_MALFORMED, f"{where}: a box or area is no finite number", "correct it, or remove the object from the record"
        )
    values = zip(
        category_ids(features, count, label_ids),
        boxes,
        stored_masks(features.feature(MASK_KEY), count, (height, width), where),
        features.floats("image/object/area", count) if areas else [(ymax - ymin) * (xmax - xmin) for ymin, xmin, ymax, xmax in boxes],
        features.ints("image/object/is_crowd", count, 0),
        features.ints("image/object/difficult", count, 0),
        features.floats("image/object/weight", count, 1.0),
        strict=True,
    )
    return ImageRecord(
        source_id=features.text("image/source_id"),
        filename=features.text("image/filename"),
        encoded=features.byte_strings("image/encoded", 1)[0],
        format=features.text("image/format", "jpeg"),
        sha256=features.text("image/key/sha256"),
        height=height,
        width=width,
        instances=tuple(
            Instance(category_id, box, mask, area, bool(is_crowd), bool(is_difficult), weight)
            for category_id, box, mask, area, is_crowd, is_difficult, weight in values
        ),
        has_areas=bool(areas),
    )


def category_ids(features: RecordFeatures, count: int, label_ids: Mapping[str, int] | None) -> list[int]:
    """The objects' label-map ids, by name where there is a label map and the record has names; raises what `parse_example` does."""
    key = "image/object/class/text"
    if label_ids is None or not features.feature(key).bytes_list.value:
        ids = features.ints("image/object/class/label", count)
        unknown = sorted(set(ids) - set(label_ids.values())) if label_ids is not None else []
        return _known(ids, unknown, features.where)
    names = [features.decoded(key, name) for name in features.byte_strings(key, count)]
    return _known([label_ids.get(name, 0) for name in names], sorted(set(names) - set(label_ids)), features.where)


def _known(ids: list[int], unknown: Sequence[object], where: str) -> list[int]:
    if unknown:
        raise BadImageError(
            Check.UNKNOWN_CATEGORY,
            f"{where}: the label map has no category {', '.join(map(repr, unknown))}",
            "give the label map that the records were written with; a name that several of its items have means none of them",
        )
    return ids
