"""Label maps over several sources, by hand."""

from __future__ import annotations

import pytest

from tasks.annotations.categories import CategoryChoice, share_categories
from tasks.running.errors import UserError

ALL = CategoryChoice()
PETS = {3: "cat", 90: "dog"}


def test_sparse_ids_stay():
    labels, ids = share_categories({"train": PETS}, ALL)
    assert labels.names == {3: "cat", 90: "dog"}
    assert labels.num_classes == 90
    assert ids == {"train": {3: 3, 90: 90}}


def test_ids_from_zero_are_all_renumbered_in_order():
    labels, ids = share_categories({"train": {90: "dog", 0: "cat", 4: "cow"}}, ALL)
    assert labels.names == {1: "cat", 2: "cow", 3: "dog"}
    assert ids == {"train": {0: 1, 4: 2, 90: 3}}


def test_splits_share_one_label_map():
    labels, ids = share_categories({"train": PETS, "val": {1: "cow", 3: "cat"}}, ALL)
    assert labels.names == {1: "cow", 3: "cat", 90: "dog"}
    assert ids == {"train": {3: 3, 90: 90}, "val": {1: 1, 3: 3}}


def test_names_without_ids_are_numbered_in_the_order_of_names():
    labels, ids = share_categories({"train": {"dog": "dog"}, "val": {"cat": "cat", "dog": "dog"}}, ALL)
    assert labels.names == {1: "cat", 2: "dog"}
    assert ids == {"train": {"dog": 2}, "val": {"cat": 1, "dog": 2}}


def test_chosen_categories_are_numbered_from_one():
    labels, ids = share_categories({"all": PETS}, CategoryChoice(only=("dog",)))
    assert labels.names == {1: "dog"}
    assert ids == {"all": {3: None, 90: 1}}


def test_renamed_categories_may_become_one_or_none():
    labels, ids = share_categories(
        {"all": {1: "cat", 2: "dog", 5: "cow"}}, CategoryChoice(renamed={"cat": "pet", "dog": "pet", "cow": None})
    )
    assert labels.names == {1: "pet"}
    assert ids == {"all": {1: 1, 2: 1, 5: None}}


def test_renaming_comes_before_choosing():
    labels, _ = share_categories({"all": PETS}, CategoryChoice(renamed={"cat": "feline"}, only=("feline",)))
    assert labels.names == {1: "feline"}


@pytest.mark.parametrize(
    ("sources", "choice", "reason"),
    [
        ({"train": PETS, "val": {3: "cow"}}, ALL, "val: category 3 is 'cow', in another split it is 'cat'"),
        ({"all": {1: "cat", 2: "cat"}}, ALL, "all: 2 categories have the name 'cat'"),
        ({"all": {0: "cat", 2: "cat"}}, ALL, "all: 2 categories have the name 'cat'"),
        ({"all": {}}, ALL, "all: there are no categories"),
        ({"all": PETS}, CategoryChoice(only=("cow",)), "only_categories names 'cow'.*\n.*cat, dog"),
        ({"all": PETS}, CategoryChoice(renamed={"cow": "ox"}), "remap_categories names 'cow'"),
        ({"all": PETS}, CategoryChoice(renamed={"cat": None, "dog": None}), "there are no categories"),
    ],
)
def test_what_contradicts_itself_or_is_not_there_is_named(sources, choice, reason):
    with pytest.raises(UserError, match=reason):
        share_categories(sources, choice)
