"""What each annotation format is to materialization: a list of images, and the objects of one of them.

A format is a module of this folder with one frozen dataclass that is a `Source`. It says what its files say; masks, boxes and sizes
are checked in one place for all formats (`instances.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tasks.coco.masks import Mask
from tasks.records.checks import Check, DataError

Box = tuple[float, float, float, float]
CategoryKey = int | str
"""What a source knows a category by: its id where the format has ids, else its name."""


@dataclass(frozen=True)
class ListedImage:
    """One image of a source before its masks are drawn: small, and all that a worker needs.

    `size` is (height, width) in pixels as the annotations say, None where they say none. `payload` holds JSON values, free of absolute
    paths, from which the source's own `objects` makes the objects; `files` are the further files that it reads for that. `findings` are
    what was mended in what is said of the image itself.
    """

    source_id: str
    file_name: str
    path: Path
    size: tuple[int, int] | None
    payload: Any
    files: tuple[Path, ...] = ()
    findings: tuple[Check, ...] = ()


@dataclass(frozen=True)
class SourceObject:
    """One object as its source has it, unchecked but for types.

    `where` names it in errors. `segmentation` is COCO's polygons or run-length code, a mask uint8 [height, width] of zeros and ones, or
    None where the source has none. The box is (ymin, xmin, ymax, xmax) in pixels; box and area are None where the source has none.
    `findings` are what was mended in reading it.
    `left_out` is why it is not to be in the records, whatever it is, None for most.
    """

    where: str
    category: CategoryKey
    segmentation: Sequence[Any] | Mapping[str, Any] | Mask | None
    box_yxyx: Box | None = None
    area: float | None = None
    is_crowd: bool = False
    is_difficult: bool = False
    weight: float = 1.0
    findings: tuple[Check, ...] = ()
    left_out: Check | None = None
    id: int | str | None = None
    """The source's own, where its objects have ids"""


@dataclass(frozen=True)
class Listing:
    """What a source holds: names by category key, and the images in an order that is the same on every machine.

    `passed_over` is how many images it names beside these which have no annotations. `findings` count what was mended or left out of the
    source as a whole, and `notes` say it, a line each.
    """

    categories: Mapping[CategoryKey, str]
    images: Iterator[ListedImage]
    passed_over: int = 0
    findings: Mapping[Check, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A data set in one format: frozen, picklable, its fields the paths that the YAML gives."""

    def list(self) -> Listing:
        """Reads what there is; UserError, naming the file, where it as a whole is missing or broken."""

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        """The image's objects; `size` is the image file's own (height, width). BadImageError where one cannot be read."""


@runtime_checkable
class EmbeddedImages(Protocol):
    """A `Source` whose images have no files of their own; it hands over their bytes."""

    def image_bytes(self, image: ListedImage) -> bytes:
        """The encoded image. BadImageError where it cannot be read."""


def unopened(annotations: Path, error: OSError) -> DataError:
    """The error of a file of annotations that cannot be opened."""
    return DataError(
        Check.SOURCE_MISSING,
        f"{annotations}: the annotations cannot be opened: {error.strerror or error}",
        "correct `annotations` in the dataset's YAML",
    )
