"""Oxford-IIIT Pets in miniature: ten images of three breeds, trimaps of 2 x 3 pixels."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.annotations.pets import PetsSource
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import png, voc_xml, write

SIZE = (2, 3)
TRIMAP = np.array([[2, 3, 1], [2, 2, 3]], np.uint8)
BREEDS = {"Abyssinian": 4, "american_bulldog": 3, "Bengal": 3}
NAMES = [f"{breed}_{index}" for breed, count in BREEDS.items() for index in range(count)]
NUMBERS = {"Abyssinian": 1, "american_bulldog": 2, "Bengal": 6}
ORDER = [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]
"""What CPython's `random.seed(42); random.shuffle(list(range(10)))` makes."""


@pytest.fixture
def pets(folder):
    lines = ["#Image CLASS-ID SPECIES BREED ID", *(f"{name} {NUMBERS[name.rpartition('_')[0]]} 1 1" for name in NAMES)]
    write(folder / "annotations" / "trainval.txt", "\n".join(lines).encode())
    for name in NAMES:
        write(folder / "images" / f"{name}.jpg")
        write(folder / "annotations" / "trimaps" / f"{name}.png", png(TRIMAP))
        write(folder / "annotations" / "xmls" / f"{name}.xml", voc_xml(("cat", (1, 1, 2, 2), name == "Bengal_0")))
    return folder


def test_the_mask_is_all_but_background(pets):
    source = PetsSource(pets)
    images = list(source.list().images)
    assert [image.source_id for image in images] == NAMES
    (found,) = source.objects(images[0], SIZE)
    assert found.segmentation.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert (found.category, found.box_yxyx, found.is_difficult) == (1, None, False)
    assert [next(source.objects(image, SIZE)).is_difficult for image in images] == [name == "Bengal_0" for name in NAMES]


def test_breeds_are_named_by_the_files_and_numbered_by_the_list(pets):
    assert PetsSource(pets).list().categories == {1: "Abyssinian", 2: "american_bulldog", 6: "Bengal"}


def test_the_division_is_the_originals(pets):
    assert [image.source_id for image in PetsSource(pets, split="train").list().images] == [NAMES[index] for index in ORDER[:7]]
    assert [image.source_id for image in PetsSource(pets, split="val").list().images] == [NAMES[index] for index in ORDER[7:]]


def test_images_without_xml_are_passed_over_after_the_division(pets):
    (pets / "annotations" / "xmls" / f"{NAMES[7]}.xml").unlink()
    listing = PetsSource(pets, split="train").list()
    assert [image.source_id for image in listing.images] == [NAMES[index] for index in ORDER[1:7]]
    assert listing.passed_over == 1
    assert PetsSource(pets, split="val").list().passed_over == 0


def test_other_values_in_a_trimap_are_a_fault(pets):
    write(pets / "annotations" / "trimaps" / f"{NAMES[0]}.png", png(TRIMAP - 1))
    source = PetsSource(pets)
    with pytest.raises(BadImageError, match=r"Abyssinian_0\.png: it has other values") as caught:
        list(source.objects(next(source.list().images), SIZE))
    assert caught.value.check == Check.MASK_VALUES


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (b"Abyssinian_1\n", "Abyssinian_1 has no class"),
        (b"Abyssinian_1 x 1 1\n", "Abyssinian_1 has no class"),
        (b"Abyssinian_1 1 1 1\nBengal_1 1 1 1\n", "class 1 is Abyssinian and Bengal"),
        (b"\xff", "the list cannot be read"),
    ],
)
def test_a_broken_list_is_refused(pets, lines, reason):
    write(pets / "annotations" / "trainval.txt", lines)
    with pytest.raises(UserError, match=rf"trainval\.txt: {reason}"):
        PetsSource(pets).list()


def test_an_unknown_split_is_refused(pets):
    with pytest.raises(UserError, match="split is 'test'"):
        PetsSource(pets, split="test")
