"""Everything else that the library datumaro reads: its own format, LabelMe's XML, Open Images, MOTS, Mapillary Vistas, Cityscapes ...

The library is asked once, where the images are listed; workers get its objects as plain values. It holds the whole dataset in memory,
masks excepted, and reads from disks only.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.outlines import Polygon, ellipse
from tasks.annotations.parts import joined
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.coco.masks import MalformedSegmentationError, mask_from_rle, rle_from_mask, rle_from_segmentation
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError

_OWN_FORMATS = {
    "coco": "coco",
    "coco_instances": "coco",
    "coco_panoptic": "panoptic",
    "cvat": "cvat",
    "tf_detection_api": "tfrecord",
    "voc_segmentation": "voc",
    "yolo": "yolo",
}
"""What is read here by readers that tell faults by image and object, and drop nothing: the library's of CVAT drops ellipses, and its of
YOLO outlines, without a word."""
_DIGITS = 2
_OF_THE_IMAGE = ("label", "caption")
"""Kinds of annotations that are of an image as a whole: no objects."""


@dataclass(frozen=True)
class DatumaroSource:
    """A dataset's folder or file, the library's name of its format, `reader`, and one of its subsets.

    Without `reader` the library looks what the format is; without `subset` all images count. `category` is what objects without a label
    are, as all of Segment Anything's. Polygons, ellipses and masks of one label and
    one group are parts of one object, whose box is the group's if it has one.
    """

    folder: Path
    reader: str | None = None
    subset: str | None = None
    category: str | None = None

    def list(self) -> Listing:
        """UserError where the library is missing or cannot read what is there; its own reasons are told."""
        dataset = self._dataset()
        subsets = sorted(dataset.subsets())
        if self.subset is not None and self.subset not in subsets:
            raise self._malformed(f"it has no subset {self.subset!r}", f"give as `subset` one of {', '.join(subsets)}, or leave it out")
        try:
            items = sorted(
                (item for item in dataset if self.subset in (None, item.subset)), key=lambda item: (str(item.subset), str(item.id))
            )
        except Exception as error:  # the library's readers raise whatever a broken file leads to
            raise self._unreadable(error) from error
        from datumaro import AnnotationType

        labels = dataset.categories().get(AnnotationType.label)
        names: dict[CategoryKey, str] = {index: label.name for index, label in enumerate(labels or ())}
        if self.category is not None:
            names[self.category] = self.category
        is_in_subsets = self.subset is None and len(subsets) > 1
        return Listing(names, (self._listed(item, f"{item.subset}/{item.id}" if is_in_subsets else str(item.id)) for item in items))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for described in image.payload:
            where = f"{self.folder}: {image.source_id}: {described['where']}"
            box, category = described["box"], described["category"]
            yield SourceObject(
                where,
                self.category if category is None and self.category is not None else category,
                _mask(where, described["polygons"], described["masks"], size),
                None if box is None else (box[1], box[0], box[3], box[2]),
                is_crowd=described["is_crowd"],
                is_difficult=described["is_difficult"],
            )

    def _dataset(self) -> Any:
        """The library's dataset."""
        if not isinstance(self.folder, Path):
            raise UserError(f"{self.folder} is a URL, and the library datumaro reads from disks only", "copy the dataset to a folder")
        if not self.folder.exists():
            raise DataError(Check.SOURCE_MISSING, f"{self.folder}: there is no such folder", "correct `folder` in the dataset's YAML")
        try:
            from datumaro import Dataset
            from datumaro.components.environment import DEFAULT_ENVIRONMENT
        except ImportError as error:
            raise UserError(f"the format `datumaro` needs the library of that name: {error}", "install maskline[formats]") from error
        reader = self._reader(sorted(DEFAULT_ENVIRONMENT.importers), DEFAULT_ENVIRONMENT.detect_dataset)
        try:
            return Dataset.import_from(str(self.folder), reader)
        except Exception as error:
            raise self._unreadable(error) from error

    def _reader(self, known: Sequence[str], detect: Any) -> str:
        """The library's name of the format, recognised where none is given."""
        reader = self.reader
        if reader is None:
            found = detect(str(self.folder))
            if len(found) != 1:
                raise self._malformed(
                    f"the library datumaro takes it for {' or '.join(found)}" if found else "the library datumaro knows no such format",
                    f"give as `reader` what it is: {', '.join(found or known)}",
                )
            (reader,) = found
        if reader not in known:
            nearest = difflib.get_close_matches(reader, known, n=1)
            hint = f"did you mean `{nearest[0]}`?" if nearest else f"the library knows {', '.join(known)}"
            raise UserError(f"datumaro: reader is {reader!r}", hint)
        if reader in _OWN_FORMATS:
            raise UserError(
                f"{self.folder}: {reader} is a format that needs no library", f"describe it with `format: {_OWN_FORMATS[reader]}`"
            )
        return reader

    def _listed(self, item: Any, source_id: str) -> ListedImage:
        path = getattr(item.media, "path", None)
        if not path:
            raise self._malformed(f"{source_id} has no image file", "export the dataset with its images, in files of their own")
        size = tuple(map(int, item.media.size)) if item.media.has_size else None
        name = os.path.relpath(path, self.folder if self.folder.is_dir() else self.folder.parent).replace(os.sep, "/")
        return ListedImage(source_id, name, Path(path).absolute(), size, _described(item.annotations))  # type: ignore[arg-type]

    def _unreadable(self, error: BaseException) -> DataError:
        """With the library's reasons from its second on, if there are more: the first says that there is no reading it."""
        reasons = [str(error) or type(error).__name__]
        while error.__cause__ is not None:
            error = error.__cause__
            reasons.append(str(error) or type(error).__name__)
        told = "; ".join(dict.fromkeys(reasons[1:] or reasons))
        return self._malformed(f"the library datumaro cannot read it: {told}", "correct what it names, or export again")

    def _malformed(self, what: str, fix: str) -> DataError:
        return DataError(Check.SOURCE_MALFORMED, f"{self.folder}: {what}", fix)


def _described(annotations: Sequence[Any]) -> list[dict[str, Any]]:
    """The objects that the library's annotations make, as JSON values; boxes are (xmin, ymin, xmax, ymax)."""
    grouped: dict[object, list[int]] = {}
    for index, one in enumerate(annotations):
        if one.type.name not in _OF_THE_IMAGE:
            grouped.setdefault((one.group, one.label) if one.group else index, []).append(index)
    return [_object(indices, [annotations[index] for index in indices]) for indices in grouped.values()]


def _object(indices: Sequence[int], parts: Sequence[Any]) -> dict[str, Any]:
    kinds = [part.type.name for part in parts]
    boxes = [_coordinates(part) for part, kind in zip(parts, kinds, strict=True) if kind == "bbox"]
    return {
        "where": f"annotations[{', '.join(map(str, indices))}] ({', '.join(kinds)})",
        "category": parts[0].label,
        "polygons": [_outline(part) for part, kind in zip(parts, kinds, strict=True) if kind in ("polygon", "ellipse")],
        "masks": [_code(part.image) for part, kind in zip(parts, kinds, strict=True) if kind == "mask"],
        "box": boxes[0] if boxes else None,
        "is_crowd": any(bool(part.attributes.get("is_crowd")) for part in parts),
        "is_difficult": any(bool(part.attributes.get("difficult")) for part in parts),
    }


def _outline(shape: Any) -> Polygon:
    """Of a polygon or an ellipse."""
    points = _coordinates(shape)
    if shape.type.name == "polygon":
        return points
    xmin, ymin, xmax, ymax = points
    return ellipse((xmin + xmax) / 2, (ymin + ymax) / 2, (xmax - xmin) / 2, (ymax - ymin) / 2)


def _coordinates(shape: Any) -> list[float]:
    """The library keeps hundredths of a pixel as float32; as what was written, they end on the same pixels again."""
    return [round(float(value), _DIGITS) for value in shape.points]


def _code(pixels: Any) -> dict[str, Any]:
    """COCO's run-length code of pixels [height, width], as JSON has it."""
    rle = rle_from_mask((np.asarray(pixels) != 0).astype(np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _mask(where: str, polygons: list[Polygon], masks: list[Mapping[str, Any]], size: tuple[int, int]) -> Any:
    """Outlines or one run-length code as they are; where there are several of the latter, or both, the mask [height, width] of all."""
    if len(masks) == 1 and not polygons:
        return masks[0]
    try:
        codes = [rle_from_segmentation(code, *size) for code in masks]
    except MalformedSegmentationError as error:
        raise BadImageError(Check.MASK_MALFORMED, f"{where}: a part of it {error}", "correct the object, or remove it") from error
    return joined(where, [*polygons, *(mask_from_rle(code) for code in codes if code is not None)], size) if polygons or masks else None
