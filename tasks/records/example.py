"""Annotated images to and from serialized `tf.train.Example`, under the Object Detection API's feature keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from tasks.coco.masks import decode_png, encode_png, mask_from_rle, rle_from_mask
from tasks.errors import UserError
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.example_pb2 import Example, Feature
from tasks.records.image_file import EncodedImage

PNG_MASKS = "PNG_MASKS"
NUMERICAL_MASKS = "NUMERICAL_MASKS"

_Value = TypeVar("_Value", int, float, bytes)


def build_example(image: AnnotatedImage, encoded: EncodedImage, category_names: Mapping[int, str]) -> bytes:
    """The serialized example of one image; equal inputs give equal bytes.

    Boxes are normalized by the image's size; labels are label-map ids; each mask is a whole-image PNG of zeros and ones. An image
    without objects has its lists empty. `category_names` maps label-map ids to names.
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
    put_ints("image/object/difficult", (0 for _ in instances))
    put_ints("image/object/group_of", (0 for _ in instances))
    put_floats("image/object/weight", (1.0 for _ in instances))
    put_bytes("image/object/mask", (encode_png(mask_from_rle(instance.mask)) for instance in instances))
    put_floats("image/object/mask/weight", (1.0 for _ in instances))
    return example.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class ImageRecord:
    """A record read back: the image's bytes as stored, and its instances on the full frame, boxes in pixels."""

    source_id: str
    filename: str
    encoded: bytes
    format: str
    sha256: str
    height: int
    width: int
    instances: tuple[Instance, ...]
    class_names: tuple[str, ...]


def parse_example(serialized: bytes, where: str) -> ImageRecord:
    """The record of a serialized example with PNG masks; `where` names it in errors.

    Raises UserError where the bytes are no example, a list has another length than the boxes, or a mask another size than the image.
    """
    try:
        features = Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise UserError(f"{where}: not a tf.train.Example", "materialize the dataset again") from error
    fields = _Fields(features, where)
    height, width = fields.ints("image/height", 1)[0], fields.ints("image/width", 1)[0]
    sides = [fields.floats(f"image/object/bbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")]
    count = len(sides[0])
    labels = fields.ints("image/object/class/label", count)
    areas = fields.floats("image/object/area", count)
    crowds = fields.ints("image/object/is_crowd", count)
    names = fields.byte_strings("image/object/class/text", count)
    pngs = fields.byte_strings("image/object/mask", count)
    instances = []
    for index, (ymin, xmin, ymax, xmax) in enumerate(zip(*sides, strict=True)):
        mask = decode_png(pngs[index])
        if mask.shape != (height, width):
            raise UserError(
                f"{where}: mask {index} is {mask.shape[0]} x {mask.shape[1]} (height x width), its image {height} x {width}",
                "materialize the dataset again from masks of the image's size",
            )
        instances.append(
            Instance(
                category_id=labels[index],
                box_yxyx=(ymin * height, xmin * width, ymax * height, xmax * width),
                mask=rle_from_mask(mask),
                area=areas[index],
                is_crowd=bool(crowds[index]),
            )
        )
    return ImageRecord(
        source_id=fields.byte_strings("image/source_id", 1)[0].decode(),
        filename=fields.byte_strings("image/filename", 1)[0].decode(),
        encoded=fields.byte_strings("image/encoded", 1)[0],
        format=fields.byte_strings("image/format", 1)[0].decode(),
        sha256=fields.byte_strings("image/key/sha256", 1)[0].decode(),
        height=height,
        width=width,
        instances=tuple(instances),
        class_names=tuple(name.decode() for name in names),
    )


@dataclass(frozen=True)
class _Fields:
    """An example's features, with errors that name the record and the key; a `count` of None accepts any length."""

    features: Mapping[str, Feature]
    where: str

    def ints(self, key: str, count: int | None = None) -> list[int]:
        return self._counted(key, list(self.features[key].int64_list.value) if key in self.features else [], count)

    def floats(self, key: str, count: int | None = None) -> list[float]:
        return self._counted(key, list(self.features[key].float_list.value) if key in self.features else [], count)

    def byte_strings(self, key: str, count: int | None = None) -> list[bytes]:
        return self._counted(key, list(self.features[key].bytes_list.value) if key in self.features else [], count)

    def _counted(self, key: str, values: list[_Value], count: int | None) -> list[_Value]:
        if count is not None and len(values) != count:
            raise UserError(f"{self.where}: {key} holds {len(values)} values, {count} expected", "materialize the dataset again")
        return values
