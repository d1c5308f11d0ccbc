"""What options leave in the records, counted by hand on twelve images and eleven squares; and options that mean nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tasks.errors import UserError
from tasks.materialize import materialize
from tasks.record_choice import COMMAND_LINE, parse_range, read_options
from tasks.records.annotated_image import Instance
from tasks.records.example import NUMERICAL_MASKS, parse_example
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.tfrecord import read_shard
from tests.small_dataset import change_annotations, write_source

CATEGORIES = {3: "cat", 7: "dog", 90: "car"}


def choice(**options: Any) -> dict[str, Any]:
    """Options as the command line gives them."""
    return read_options(options, COMMAND_LINE, Path.cwd())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two splits by hash. The objects of images 0 to 10 are cat, dog, car, cat, ..., the first one a crowd; image 11 has none."""
    write_source(tmp_path / "in")

    def change(content: dict) -> None:
        content["categories"] = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
        for index, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = list(CATEGORIES)[index % 3]
        content["annotations"][0]["iscrowd"] = 1

    change_annotations(tmp_path / "in", change)
    return tmp_path / "in"


def records(source: Path, out: Path, chosen: dict[str, Any]) -> tuple[Manifest, dict[str, dict[int, tuple[Instance, ...]]]]:
    """The manifest, and by split and image id the objects of each record."""
    materialize(source / "dataset.yaml", out, chosen)
    manifest = read_manifest(out / "manifest.json")
    found = {
        name: [parse_example(record, shard) for shard in split.shards for record in read_shard(out / shard)]
        for name, split in manifest.splits.items()
    }
    return manifest, {name: {int(one.source_id): one.instances for one in own} for name, own in found.items()}


def categories(found: dict[str, dict[int, tuple[Instance, ...]]]) -> dict[int, list[int]]:
    """The categories of each image's objects, whatever their split."""
    return {number: [one.category_id for one in objects] for own in found.values() for number, objects in own.items()}


def described(source: Path, **values: Any) -> None:
    """Adds keys to the dataset's YAML."""
    path = source / "dataset.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def test_shares_are_taken_from_the_hash_of_the_file(source, tmp_path):
    """A hash read as a fraction of all hashes lies in one of [0, 0.4), [0.4, 0.7) and [0.7, 1)."""
    _, found = records(source, tmp_path / "out", choice(split="0.4/0.3/0.3", crowds="objects"))
    expected: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for number in range(12):
        digest = hashlib.sha256((source / "images" / f"{number}.png").read_bytes()).digest()
        fraction = int.from_bytes(digest) / 2**256
        expected["train" if fraction < 0.4 else "val" if fraction < 0.7 else "test"].add(number)
    assert {name: set(own) for name, own in found.items()} == expected


def test_a_limit_keeps_the_first_images_of_each_split(source, tmp_path):
    _, every = records(source, tmp_path / "all", choice(split="0.5/0.5"))
    _, few = records(source, tmp_path / "few", choice(split="0.5/0.5", limit=2))
    assert {name: list(own) for name, own in few.items()} == {name: list(own)[:2] for name, own in every.items()}


def test_without_a_choice_the_ids_are_the_sources(source, tmp_path):
    manifest, found = records(source, tmp_path / "out", choice())
    assert manifest.label_map.names == CATEGORIES
    assert categories(found) == {number: [list(CATEGORIES)[number % 3]] if number < 11 else [] for number in range(12)}


def test_only_some_categories_are_numbered_from_one(source, tmp_path):
    manifest, found = records(source, tmp_path / "out", choice(only_categories="car, cat"))
    assert manifest.label_map.names == {1: "cat", 2: "car"}
    assert categories(found) == {number: {0: [1], 1: [], 2: [2]}[number % 3] if number < 11 else [] for number in range(12)}


def test_categories_are_renamed_joined_and_left_out(source, tmp_path):
    (tmp_path / "names.yaml").write_text("cat: animal\ndog: animal\ncar: null\n")
    manifest, found = records(source, tmp_path / "out", choice(remap_categories=tmp_path / "names.yaml"))
    assert manifest.label_map.names == {1: "animal"}
    assert categories(found) == {number: [1] if number % 3 < 2 and number < 11 else [] for number in range(12)}


def test_categories_are_chosen_by_their_new_names(source, tmp_path):
    (tmp_path / "names.yaml").write_text("cat: animal\ndog: animal\n")
    chosen = choice(remap_categories=tmp_path / "names.yaml", only_categories="animal")
    assert records(source, tmp_path / "out", chosen)[0].label_map.names == {1: "animal"}


def test_images_that_are_left_without_objects_can_be_dropped(source, tmp_path):
    manifest, found = records(source, tmp_path / "out", choice(only_categories="cat", empty="drop"))
    assert categories(found) == {0: [1], 3: [1], 6: [1], 9: [1]}
    assert [split.empty_images for split in manifest.splits.values()] == [0, 0]


@pytest.mark.parametrize(("crowds", "flags"), [("keep", [True]), ("drop", []), ("objects", [False])])
def test_crowds_stay_go_or_become_ordinary(source, tmp_path, crowds, flags):
    manifest, found = records(source, tmp_path / "out", choice(crowds=crowds))
    assert [one.is_crowd for own in found.values() for one in own.get(0, ())] == flags
    splits = manifest.splits.values()
    assert (sum(one.objects for one in splits), sum(one.crowd_objects for one in splits)) == (10 + len(flags), sum(flags))


def test_numerical_masks_are_what_tensorflow_reshapes(source, tmp_path):
    import tensorflow as tf

    materialize(source / "dataset.yaml", tmp_path / "out", choice(mask_type="numerical"))
    assert read_manifest(tmp_path / "out" / "manifest.json").mask_type == NUMERICAL_MASKS
    square = np.zeros((16, 24), np.float32)
    square[2:12, 2:12] = 1
    counts: Counter[int] = Counter()
    spec = {"image/object/mask": tf.io.VarLenFeature(tf.float32)}
    for serialized in tf.data.TFRecordDataset([str(path) for path in (tmp_path / "out").glob("*.record-*")]):
        masks = tf.reshape(tf.io.parse_single_example(serialized, spec)["image/object/mask"].values, (-1, 16, 24)).numpy()
        np.testing.assert_array_equal(masks, np.broadcast_to(square, masks.shape))
        counts[len(masks)] += 1
    assert counts == {1: 11, 0: 1}


def test_each_option_changes_the_digest(source, tmp_path):
    (tmp_path / "names.yaml").write_text("cat: feline\n")
    choices = [
        {},
        {"split": "0.7/0.3"},
        {"limit": 2},
        {"only_categories": "cat"},
        {"remap_categories": tmp_path / "names.yaml"},
        {"empty": "drop"},
        {"crowds": "drop"},
        {"crowds": "objects"},
        {"mask_type": "numerical"},
        {"objects_without_mask": "drop"},
        {"duplicate_images": "keep"},
    ]
    digests = {materialize(source / "dataset.yaml", tmp_path / "out", choice(**one)).summary["digest"] for one in choices}
    assert len(digests) == len(choices)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": "0.8"}, "--split is '0.8': there are 1 shares"),
        ({"split": "0.7/0.1/0.1/0.1"}, "--split is .*: there are 4 shares"),
        ({"split": "0.8/0.3"}, "--split is '0.8/0.3': the shares sum to 1.1"),
        ({"split": "1/0"}, "--split is '1/0': the share of val is 0"),
        ({"split": "most/few"}, "--split is 'most/few': could not convert"),
        ({"crowds": "hide"}, "--crowds is 'hide'\n  fix: use one of keep, drop, objects"),
        ({"mask_type": "jpeg"}, "--mask-type is 'jpeg'\n  fix: use one of png, numerical"),
        ({"limit": 0}, "--limit is 0"),
        ({"only_categories": "cat,cow"}, "only_categories names 'cow', and there is no such category\n  fix: .* car, cat, dog"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(source, tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        materialize(source / "dataset.yaml", tmp_path / "out", choice(**options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (None, r"names\.yaml cannot be opened"),
        ("cat: [", r"names\.yaml: not YAML"),
        ("- cat", r"names\.yaml: no mapping of names to names"),
        ("cat: 5", r"names\.yaml: no mapping of names to names"),
        ("cow: cat", "remap_categories names 'cow', and there is no such category"),
    ],
)
def test_a_file_of_names_that_means_nothing_is_refused(source, tmp_path, names, reason):
    path = tmp_path / "names.yaml"
    if names is not None:
        path.write_text(names)
    with pytest.raises(UserError, match=reason):
        materialize(source / "dataset.yaml", tmp_path / "out", choice(remap_categories=path))


def test_shares_belong_to_one_source_and_must_be_said(source, tmp_path):
    path = source / "dataset.yaml"
    text = path.read_text()
    path.write_text("name: tiny\nsplits: {train: {images: images, annotations: all.json}}\n")
    with pytest.raises(UserError, match="--split cannot divide tiny: its splits are given"):
        materialize(path, tmp_path / "out", choice(split="0.5/0.5"))
    path.write_text("\n".join(text.splitlines()[:4]) + "\n")
    with pytest.raises(UserError, match="tiny: nothing says how to split it"):
        materialize(path, tmp_path / "out", choice())


@pytest.mark.parametrize("text", ["3", "a:b", "1:", "-1:2"])
def test_a_range_is_two_numbers(text):
    assert parse_range("0:12") == (0, 12)
    with pytest.raises(UserError, match=f"--shard-range is '{text}'"):
        parse_range(text)
