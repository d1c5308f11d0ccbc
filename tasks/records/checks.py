"""What can be wrong with an image or its annotations, each under a stable code, and what becomes of it; docs/checks.md is the table."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from tasks.running.errors import UserError


class Outcome(StrEnum):
    """What becomes of it; nothing is passed over in silence."""

    FIXED = "fixed"
    """mended, or found to do no harm, and counted"""
    LEFT_OUT = "left out"
    """the object, the category, or the second copy of an image, is not in the records; counted"""
    QUARANTINED = "quarantined"
    """the image is not in the records; listed, and the run goes on up to `--max-bad`"""
    FATAL = "fatal"
    """the run ends, and what was there before stays"""


class Check(StrEnum):
    """The value is the code; `meaning` says what was found and, where it is mended, how."""

    outcome: Outcome
    meaning: str

    def __new__(cls, code: str, outcome: Outcome, meaning: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.outcome = outcome
        member.meaning = meaning
        return member

    @classmethod
    def of(cls, code: str) -> Check:
        """The check of a code."""
        return cls(code)  # type: ignore[call-arg]  # mypy reads __new__; a call looks the member up

    BOX_CLIPPED = "box-clipped", Outcome.FIXED, "the box left the image; it is clipped"
    BOX_FROM_MASK = "box-from-mask", Outcome.FIXED, "there is no box, or it is outside the image; the mask's extent stands in"
    BOX_OFF_MASK = "box-off-mask", Outcome.FIXED, "the box covers less than half of the mask's extent and it together; the extent stands in"
    AREA_FROM_MASK = "area-from-mask", Outcome.FIXED, "there is no area, or it is 0; the mask's pixels stand in"
    IMAGE_TURNED = (
        "image-turned",
        Outcome.FIXED,
        "EXIF asks to turn the image, and the annotations are of the turned one; the record holds that",
    )
    IMAGE_SIXTEEN_BIT = "image-sixteen-bit", Outcome.FIXED, "16 bits a channel; the upper eight are kept"
    IMAGE_PALETTE = "image-palette", Outcome.FIXED, "colours by palette, or black and white; the record holds an RGB PNG"
    IMAGE_CMYK = "image-cmyk", Outcome.FIXED, "printing colours; the record holds an RGB PNG"
    IMAGE_ALPHA = "image-alpha", Outcome.FIXED, "a channel of transparency; it is dropped"
    IMAGE_REENCODED = "image-reencoded", Outcome.FIXED, "neither JPEG nor PNG; the record holds an RGB PNG"
    IMAGE_GREY = "image-grey", Outcome.FIXED, "grey; kept as it is, and read as three equal channels"
    IMAGE_MISNAMED = "image-misnamed", Outcome.FIXED, "the file's name promises another format than its content has; the content counts"
    NUMBER_AS_TEXT = "number-as-text", Outcome.FIXED, "a number is written as text; it is read as the number"
    PATH_SEPARATORS = "path-separators", Outcome.FIXED, "the image's path has Windows' separators; they are read as `/`"
    IMAGE_HASH = "image-hash", Outcome.FIXED, "the record's SHA-256 is not its image's; it is computed anew"
    INDEX_STALE = "index-stale", Outcome.FIXED, "the index beside a shard is of another file; training looks for the records itself"

    DEGENERATE_POLYGON = "degenerate-polygon", Outcome.LEFT_OUT, "no part of the polygon has three points"
    EMPTY_MASK = "empty-mask", Outcome.LEFT_OUT, "the mask covers no pixel of the image"
    OBJECT_OUTSIDE = "object-outside", Outcome.LEFT_OUT, "the polygon lies wholly outside the image"
    OBJECT_WITHOUT_MASK = (
        "object-without-mask",
        Outcome.LEFT_OUT,
        "the object has no mask, as where only a box was drawn, and `objects_without_mask: drop` leaves it out",
    )
    CATEGORY_ROOT = "category-root", Outcome.LEFT_OUT, "no object has the category, and others name it as their supercategory"
    STUFF_SEGMENT = "stuff-segment", Outcome.LEFT_OUT, "a segment of stuff, such as sky, is no object"
    DUPLICATE_IMAGE = (
        "duplicate-image",
        Outcome.LEFT_OUT,
        "the split holds the same image and objects already; the first one stays",
    )

    IMAGE_MISSING = "image-missing", Outcome.QUARANTINED, "the image file cannot be opened"
    IMAGE_EMPTY = "image-empty", Outcome.QUARANTINED, "the image file has no bytes"
    IMAGE_UNREADABLE = "image-unreadable", Outcome.QUARANTINED, "the image file is damaged, or of no format that is known"
    IMAGE_TOO_LARGE = (
        "image-too-large",
        Outcome.QUARANTINED,
        "the image, or a mask, has more pixels than MASKLINE_MAX_IMAGE_PIXELS allows",
    )
    IMAGE_SIZE = "image-size", Outcome.QUARANTINED, "the image has another size than its annotations say"
    IMAGE_SIZE_SWAPPED = "image-size-swapped", Outcome.QUARANTINED, "the annotations swap the image's height and width"
    IMAGE_ORIENTATION = (
        "image-orientation",
        Outcome.QUARANTINED,
        "EXIF asks to turn the image, and nothing shows whether the annotations are of the turned one",
    )
    IMAGE_FRAMES = "image-frames", Outcome.QUARANTINED, "the file holds several images"
    IMAGE_MODE = "image-mode", Outcome.QUARANTINED, "the pixels have no set range to bring to 8 bits"
    SPLIT_LEAKAGE = "split-leakage", Outcome.QUARANTINED, "an earlier split holds the same image"
    DUPLICATE_DIFFERS = "duplicate-differs", Outcome.QUARANTINED, "the split holds the same image already, with other objects"
    UNKNOWN_CATEGORY = "unknown-category", Outcome.QUARANTINED, "an object's category is not among the source's categories"
    MASK_MISSING = "mask-missing", Outcome.QUARANTINED, "an object has no mask, or its mask file cannot be opened"
    MASK_MALFORMED = "mask-malformed", Outcome.QUARANTINED, "an object's mask cannot be read"
    MASK_SIZE = "mask-size", Outcome.QUARANTINED, "a mask has another size than its image"
    MASK_SIZE_SWAPPED = "mask-size-swapped", Outcome.QUARANTINED, "a mask has its image's height and width swapped"
    MASK_VALUES = "mask-values", Outcome.QUARANTINED, "a mask has other values than background and object"
    ANNOTATION_MALFORMED = "annotation-malformed", Outcome.QUARANTINED, "an object's box, area or another value cannot be read"
    RECORD_MALFORMED = (
        "record-malformed",
        Outcome.QUARANTINED,
        "the bytes are no tf.train.Example, or a feature is missing or of another length",
    )

    SOURCE_MISSING = "source-missing", Outcome.FATAL, "a file or folder that the dataset's YAML names cannot be opened"
    SOURCE_MALFORMED = (
        "source-malformed",
        Outcome.FATAL,
        "a file is not of its format, or lacks what must be said of an image or category",
    )
    IMAGE_CHANGED = "image-changed", Outcome.FATAL, "an image's file was written or removed between its listing and its reading"
    RECORD_DAMAGED = (
        "record-damaged",
        Outcome.FATAL,
        "a record is cut off or not what its checksum says; where the next one begins is unknown",
    )
    DUPLICATE_ID = "duplicate-id", Outcome.FATAL, "two images or two categories of a source go by one id or name"
    IMAGE_UNLISTED = "image-unlisted", Outcome.FATAL, "an annotation is of an image that the source does not list"
    CATEGORY_CONFLICT = "category-conflict", Outcome.FATAL, "two splits give one category id two names"
    SPLIT_EMPTY = "split-empty", Outcome.FATAL, "no image of a split becomes a record"
    SPLIT_WITHOUT_OBJECTS = (
        "split-without-objects",
        Outcome.FATAL,
        "all objects of a split are crowds, which training and metrics pass over, or it has none",
    )
    TOO_MANY_BAD = "too-many-bad", Outcome.FATAL, "more images must be quarantined than `--max-bad` allows"


class DataError(UserError):
    """What a source holds cannot be used, and the code of why not."""

    def __init__(self, check: Check, message: str, fix: str) -> None:
        super().__init__(message, fix)
        self.check = check

    def __reduce__(self) -> tuple[type[DataError], tuple[Check, str, str]]:
        return type(self), (self.check, self.message, self.fix)

    def __str__(self) -> str:
        return f"{super().__str__()}\n  code: {self.check}"


class BadImageError(DataError):
    """An image that cannot become a record, and the code under which it is quarantined. It names the image or its object."""
