"""One PNG file for each object: a folder of masks for each image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.annotations.folder import confirm_paired, files_by_stem, names, required_names
from tasks.annotations.mask_file import read_mask
from tasks.annotations.source import ListedImage, Listing, SourceObject
from tasks.records.checks import BadImageError, Check, DataError


@dataclass(frozen=True)
class InstancePngSource:
    """`images/NAME.jpg` beside `masks/NAME/*.png`; without `masks`, `images` has a folder `NAME/images` and `NAME/masks` for each image.

    The masks of an image lie in a folder for each category, or `category` names the only one. Masks may overlap.
    """

    images: Path
    masks: Path | None = None
    category: str | None = None

    def list(self) -> Listing:
        if self.category is not None:
            return Listing({self.category: self.category}, self._images())
        found = {category for image in self._images() for category in image.payload or ()}
        return Listing({category: category for category in sorted(found)}, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        if image.payload is None:
            raise BadImageError(
                Check.MASK_MISSING,
                f"{image.file_name}: the image has no folder of masks",
                "add it (with one hidden file, where the image shows no object), or remove the image",
            )
        for category, path in zip(image.payload, image.files, strict=True):
            yield SourceObject(str(path), category, read_mask(path, size))

    def _images(self) -> Iterator[ListedImage]:
        """Each has the categories of its masks as payload, None where there is no folder of masks, and the masks' files."""
        for source_id, path, folder in self._folders() if self.masks is None else self._pairs(self.masks):
            masks = _masks(folder, self.category)
            payload = None if masks is None else [category for category, _ in masks]
            yield ListedImage(source_id, path.name, path, None, payload, tuple(file for _, file in masks or ()))

    def _folders(self) -> Iterator[tuple[str, Path, Path]]:
        """Of each image its id, its file and its folder of masks."""
        for name in required_names(self.images, "images"):
            folder = self.images / name
            yield name, _only_file(folder / "images", name), folder / "masks"

    def _pairs(self, masks: Path) -> Iterator[tuple[str, Path, Path]]:
        """The same, of images and masks in two folders; masks without an image are listed too, so that the image is missed."""
        files = files_by_stem(self.images, "images")
        folders = required_names(masks, "masks")
        confirm_paired(
            files,
            folders,
            str(masks),
            "give each image's masks a folder of its name, less its suffix; masks that lie beside one another are `id_png`",
        )
        for stem in sorted({*files, *folders}):
            yield stem, self.images / files.get(stem, f"{stem}.png"), masks / stem


def _only_file(folder: Path, name: str) -> Path:
    try:
        files = names(folder)
    except OSError:
        files = ()
    if len(files) > 1:
        raise DataError(
            Check.DUPLICATE_ID,
            f"{folder}: there are {len(files)} files, and their masks are not told apart",
            "leave one image in the folder",
        )
    return folder / (files[0] if files else f"{name}.png")


def _masks(folder: Path, category: str | None) -> list[tuple[str, Path]] | None:
    """Category and file of each mask, or None where there is no such folder; DataError where the categories are not clear."""
    try:
        entries = names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    masks = []
    for name in entries:
        path = folder / name
        is_folder = not name.lower().endswith(".png") and path.is_dir()
        if is_folder and category is not None:
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{path}: a folder of masks, and all are of category {category!r}",
                "leave `category` out, or move the masks up",
            )
        if is_folder:
            masks += [(name, path / file) for file in names(path)]
        elif category is None:
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{path}: nothing says what the mask shows",
                "give `category`, or put the masks into folders by category",
            )
        else:
            masks.append((category, path))
    return masks
