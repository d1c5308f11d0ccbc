"""What tells an annotation format by the files that its tool writes: for each format one function that looks through a folder."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tasks.annotations.folder_tree import FolderTree, split_of
from tasks.annotations.yolo import labelled_splits
from tasks.running.errors import UserError

VALUES_UNKNOWN = "has a PNG for each image, and nothing shows whether its values are objects or classes"
"""Where this is a note, the source is not to be read without a person's word."""

_CATEGORY = "object"
_CALLED_OBJECT = f"all objects are called {_CATEGORY!r}; correct `category` if they have a name"
_FIRST_LINES = 1000  # bytes
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_CITYSCAPES = ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")  # from 24 on
_IMAGE_INSIDE = re.compile(rb'"imageData"\s*:\s*"')
_RECORDS = re.compile(r"\.(tf)?records?(-\d{5}-of-\d{5})?$")
_SHARD = re.compile(r"\d{5}(-of-\d{5})$")
_IMAGE_NAME = re.compile(r'<image\s[^>]*?\bname="([^"]*)"')
_IMAGES_ALONE = ("image_dir", "image_zip", "imagenet", "imagenet_with_subset_dirs", "video_frames")


@dataclass(frozen=True)
class Found:
    """A source in a folder: the YAML `values` of its `kind`, and its split, None where none is named; `where` is what it was known by."""

    kind: str
    where: str
    split: str | None
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def _coco(tree: FolderTree) -> Iterator[Found]:
    """COCO's instances, LVIS and panoptic JSONs; keypoints count where there is nothing else."""
    listed = [(folder, name, marks) for folder, name, marks in tree.jsons if {"images", "annotations", "categories", "image_id"} <= marks]
    with_keypoints = [one for one in listed if "keypoints" in one[2]]
    for folder, name, marks in listed if len(with_keypoints) == len(listed) else [one for one in listed if one not in with_keypoints]:
        path = PurePosixPath(folder, name)
        split = split_of(str(path))
        kind = "panoptic" if "segments_info" in marks else "lvis" if "neg_category_ids" in marks else "coco"
        names = tree.image_names(str(path))
        if kind == "panoptic":
            masks = str(path.with_suffix(""))
            of_images = (str(PurePosixPath(one).with_suffix(suffix)) for one in names for suffix in _IMAGE_SUFFIXES)
            values = {"images": tree.images_of(str(path), of_images, masks), "masks": masks}
        else:
            values = {"images": tree.images_of(str(path), (way for one in names for way in dict.fromkeys((one, PurePosixPath(one).name))))}
        yield Found(kind, str(path), split, {**values, "annotations": str(path)})


def _labelme(tree: FolderTree) -> Iterator[Found]:
    for folder in dict.fromkeys(folder for folder, _, marks in tree.jsons if {"shapes", "imagePath"} <= marks):
        first = next(name for place, name, marks in tree.jsons if place == folder and "imagePath" in marks)
        path = str(PurePosixPath(folder, first))
        image = next(tree.image_names(path), "")
        values = {"annotations": folder}
        if not tree.path(folder, image).is_file() and not _IMAGE_INSIDE.search(tree.beginning(path)):
            values["images"] = tree.images_of(path, [PurePosixPath(image).name])
        yield Found("labelme", path, split_of(folder), values)


def _via(tree: FolderTree) -> Iterator[Found]:
    for folder, name, marks in tree.jsons:
        if {"region_attributes", "shape_attributes"} <= marks:
            path = str(PurePosixPath(folder, name))
            images = tree.images_of(path, tree.image_names(path))
            yield Found("via", path, split_of(path), {"images": images, "annotations": path})


def _via_csv(tree: FolderTree) -> Iterator[Found]:
    for folder, name in tree.named(".csv"):
        path = str(PurePosixPath(folder, name))
        header, *lines = tree.beginning(path).decode("utf-8", "replace").splitlines() or [""]
        if "region_shape_attributes" not in header:
            continue
        names = (line.split(",")[0].strip('"') for line in lines)
        yield Found("via", path, split_of(path), {"images": tree.images_of(path, names), "annotations": path})


def _supervisely(tree: FolderTree) -> Iterator[Found]:
    projects = {
        str(PurePosixPath(folder).parent.parent)
        for folder, _, marks in tree.jsons
        if PurePosixPath(folder).name == "ann" and {"objects", "size"} <= marks
    }
    for project in sorted(projects):
        datasets = [PurePosixPath(one).parent for one in tree.files if PurePosixPath(one).name == "ann"]
        names = {one.name: split_of(one.name) for one in datasets if str(one.parent) == project}
        are_splits = {"train", "val"} <= set(names.values()) and len(set(names.values()) - {None}) == len(names)
        for name, split in names.items() if are_splits else [(None, None)]:
            yield Found(
                "supervisely", str(PurePosixPath(project, "meta.json")), split, {"folder": project, **({"dataset": name} if name else {})}
            )


def _cvat(tree: FolderTree) -> Iterator[Found]:
    for folder, name in tree.named(".xml"):
        path = str(PurePosixPath(folder, name))
        if b"<annotations" not in tree.beginning(path, _FIRST_LINES):
            continue
        text = tree.beginning(path).decode("utf-8", "replace")
        images = tree.images_of(path, map(html.unescape, _IMAGE_NAME.findall(text)))
        yield Found("cvat", path, split_of(path), {"images": images, "annotations": path})


def _yolo(tree: FolderTree) -> Iterator[Found]:
    for folder, name in tree.named(".yaml", ".yml"):
        data = str(PurePosixPath(folder, name))
        splits, others = labelled_splits(tree.path(data))
        notes = tuple(f"{data}: `{one}` has no labels, or the images of another split, and is passed over" for one in others)
        for split in splits:
            yield Found("yolo", data, split if len(splits) > 1 else None, {"data": data, "split": split}, notes)
    for folder, files in tree.files.items():
        images, labels = (str(PurePosixPath(folder, name)) for name in ("images", "labels"))
        if "classes.txt" in files and tree.has(images, labels):
            classes = str(PurePosixPath(folder, "classes.txt"))
            yield Found("yolo", classes, split_of(folder), {"images": images, "classes": classes})


def _voc(tree: FolderTree) -> Iterator[Found]:
    for folder in tree.files:
        inside = [str(PurePosixPath(folder, name)) for name in ("JPEGImages", "SegmentationObject", "SegmentationClass")]
        if tree.has(*inside):
            sets = str(PurePosixPath(folder, "ImageSets", "Segmentation"))
            lists = {name.removesuffix(".txt") for name in tree.files.get(sets, [])}
            names = [name for name in ("train", "val", "test") if name in lists]
            for split in names if {"train", "val"} <= set(names) else [None]:
                yield Found("voc", inside[1], split, {"folder": folder, **({"image_set": split} if split else {})})


def _pets(tree: FolderTree) -> Iterator[Found]:
    for folder in tree.files:
        if tree.has(*(str(PurePosixPath(folder, name)) for name in ("images", "annotations/trimaps", "annotations/xmls"))):
            for split in ("train", "val"):
                yield Found("pets", f"{folder}/annotations/trimaps".removeprefix("./"), split, {"folder": folder, "split": split})


def _cityscapes(tree: FolderTree) -> Iterator[Found]:
    endings = {
        "image_ending": "_leftImg8bit",
        "mask_ending": "_gtFine_instanceIds",
        "divisor": 1000,
        "categories": dict(enumerate(_CITYSCAPES, 24)),
    }
    for split in ("train", "val"):
        images, masks = f"leftImg8bit/{split}", f"gtFine/{split}"
        if tree.has(images, masks):
            yield Found("id_png", masks, split, {"images": images, "masks": masks, **endings})


def _masks(tree: FolderTree) -> Iterator[Found]:
    """`masks` beside `images`: with a folder for each image, as both in a folder for each image, or a file for each image."""
    known: set[str] = set()
    for folder in tree.files:
        images, masks = (str(PurePosixPath(folder, name)) for name in ("images", "masks"))
        if not tree.has(images, masks):
            continue
        values = {"images": images, "masks": masks}
        if tree.files[masks] and len(tree.files[images]) == 1 and folder != ".":
            above = str(PurePosixPath(folder).parent)
            if above not in known:
                known.add(above)
                yield Found("instance_png", masks, split_of(above), {"images": above, "category": _CATEGORY}, (_CALLED_OBJECT,))
        elif tree.files[masks]:
            yield Found("id_png", masks, split_of(folder), {**values, "category": _CATEGORY}, (VALUES_UNKNOWN,))
        elif any(one.startswith(f"{masks}/") and one.count("/") > masks.count("/") + 1 for one in tree.files):
            yield Found("instance_png", masks, split_of(folder), values)
        elif any(one.startswith(f"{masks}/") for one in tree.files):
            yield Found("instance_png", masks, split_of(folder), {**values, "category": _CATEGORY}, (_CALLED_OBJECT,))


def _tfrecord(tree: FolderTree) -> Iterator[Found]:
    for folder, files in tree.files.items():
        maps = [name for name in files if name.endswith(".pbtxt")]
        records = {_SHARD.sub(r"?????\1", name) for name in files if _RECORDS.search(name)}
        if records and len(maps) == 1:
            if "manifest.json" in files:
                raise UserError(f"{tree.path(folder)}: it is a materialized dataset", "give it as it is to `convert --dataset`")
            for name in sorted(records):
                values = {"records": str(PurePosixPath(folder, name)), "label_map": str(PurePosixPath(folder, maps[0]))}
                yield Found("tfrecord", values["records"], split_of(name), values)


def by_library(tree: FolderTree) -> Iterator[Found]:
    """What the library datumaro takes a folder for, if it is installed; several names are several kinds."""
    try:
        from datumaro.components.environment import DEFAULT_ENVIRONMENT
    except ImportError:
        return
    for name in DEFAULT_ENVIRONMENT.detect_dataset(str(tree.root)):
        if name not in _IMAGES_ALONE:
            yield Found(f"datumaro's {name}", "what its library finds", None, {"format": "datumaro", "folder": ".", "reader": name})


LOOKS: Sequence[Callable[[FolderTree], Iterator[Found]]] = (
    *(_tfrecord, _coco, _labelme, _via, _via_csv, _supervisely, _cvat, _yolo, _voc, _pets, _cityscapes, _masks),
)
LOOKED_FOR = (
    "JSONs of COCO, LVIS, panoptic, LabelMe, Supervisely and VGG Image Annotator, or its CSV",
    "CVAT's XML",
    "YOLO's data.yaml or classes.txt",
    "Pascal VOC's SegmentationObject",
    "trimaps of Oxford-IIIT Pets",
    "gtFine of Cityscapes",
    "a folder `masks` beside `images`",
    "TFRecords with a .pbtxt",
    "and, with maskline[formats], what the library datumaro knows; at most 4 folders deep",
)
