"""What options leave in the records, counted by hand on twelve images and eleven squares; and options that mean nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tasks.annotations.record_choice import COMMAND_LINE, OPTIONS, parse_limits, parse_range, read_options
from tasks.materialize import materialize
from tasks.preflight import preflight
from tasks.records.annotated_image import Instance
from tasks.records.checks import Check, DataError
from tasks.records.example import NUMERICAL_MASKS, parse_example
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
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


CHOSEN = {
    "split": ("0.7/0.3", {"training": 0.7, "validation": 0.3}),
    "limit": (2, 2),
    "only_categories": ("cat,dog", ["cat", "dog"]),
    "remap_categories": ("names.yaml", {"cat": "feline", "car": None}),
    "empty": ("drop", "drop"),
    "crowds": ("drop", "drop"),
    "mask_type": ("numerical", "numerical"),
    "objects_without_mask": ("drop", "drop"),
    "duplicate_images": ("keep", "keep"),
    "corrections": ("in/fewer.json", ["fewer.json"]),
}
"""Each option as the command line says it, and as the YAML does"""


@pytest.mark.parametrize("option", CHOSEN)
def test_a_dataset_described_and_one_chosen_are_the_same(source, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.yaml").write_text("cat: feline\ncar: null\n")
    image = {"id": 1, "file_name": "0.png", "height": 16, "width": 24}
    (source / "fewer.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    given, said = CHOSEN[option]
    assert set(CHOSEN) == set(OPTIONS)
    plain = materialize(source / "dataset.yaml", tmp_path / "out").summary["digest"]
    chosen = materialize(source / "dataset.yaml", tmp_path / "out", choice(**{option: given})).summary["digest"]
    described(source, **{option: said})
    result = materialize(source / "dataset.yaml", tmp_path / "out")
    assert (result.status, result.summary["digest"]) == ("skipped", chosen)
    assert chosen != plain


def test_the_command_line_wins_over_the_yaml_and_says_so(source, tmp_path, capsys):
    described(source, crowds="objects", only_categories=["cat", "dog"], mask_type="numerical")
    options = choice(crowds="drop", only_categories="car", mask_type="numerical")
    manifest, _ = records(source, tmp_path / "out", options)
    assert manifest.label_map.names == {1: "car"}
    out = capsys.readouterr().out
    assert "--crowds drop of the command line counts, not the YAML's crowds: objects\n" in out
    assert "--only-categories car of the command line counts, not the YAML's only_categories: cat,dog\n" in out
    assert "mask" not in out.split("tiny:")[0]  # both say the same


def test_objects_without_a_mask_are_dropped_where_asked_and_counted(source, tmp_path):
    """Boxes mixed with polygons in one file: 0 has no segmentation at all, 1 an empty one."""

    def change(content: dict) -> None:
        del content["annotations"][0]["segmentation"]
        content["annotations"][1]["segmentation"] = []

    change_annotations(source, change)
    with pytest.raises(DataError, match=r"has no mask\n.*`objects_without_mask: drop`"):
        materialize(source / "dataset.yaml", tmp_path / "out")
    described(source, objects_without_mask="drop")
    manifest, found = records(source, tmp_path / "out", {})
    assert manifest.findings == {Check.OBJECT_WITHOUT_MASK: 2}
    lines = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    assert sorted((line["image"], line["code"], line["done"], line["index"]) for line in lines) == [
        (f"{number}.png", Check.OBJECT_WITHOUT_MASK, "the object is left out", None) for number in (0, 1)
    ]
    assert {number for number, own in categories(found).items() if not own} == {0, 1, 11}


@pytest.mark.parametrize(("duplicates", "extra"), [("drop", 0), ("keep", 1)])
def test_second_copies_go_or_stay(source, tmp_path, duplicates, extra):
    def copy(content: dict) -> None:
        content["images"].append({**content["images"][2], "id": 50})
        content["annotations"].append({**content["annotations"][2], "id": 150, "image_id": 50})

    change_annotations(source, copy)
    described(source, duplicate_images=duplicates)
    manifest, found = records(source, tmp_path / "out", {})
    assert len(categories(found)) == 12 + extra
    assert manifest.findings == ({} if extra else {Check.DUPLICATE_IMAGE: 1})


def test_copies_that_differ_may_stay_too(source, tmp_path):
    change_annotations(source, lambda content: content["images"].append({**content["images"][2], "id": 50}))
    with pytest.raises(DataError, match="is the same as image 2, and has other objects"):
        materialize(source / "dataset.yaml", tmp_path / "out")
    _, found = records(source, tmp_path / "out", choice(duplicate_images="keep"))
    assert categories(found)[50] == []


def test_a_root_of_categories_is_counted_and_told(source, tmp_path, capsys):
    def add_root(content: dict) -> None:
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        for category in content["categories"][1:]:
            category["supercategory"] = "things"

    change_annotations(source, add_root)
    manifest, _ = records(source, tmp_path / "out", {})
    assert manifest.label_map.names == CATEGORIES
    assert (manifest.source_findings, manifest.findings) == ({Check.CATEGORY_ROOT: 1}, {Check.CATEGORY_ROOT: 1})
    assert "all.json: category 0 ('things') is left out" in capsys.readouterr().out


def test_crowds_alone_are_refused_at_once_and_read_as_objects_where_said(source, tmp_path):
    change_annotations(source, lambda content: [one.update(iscrowd=1) for one in content["annotations"]])
    with pytest.raises(DataError, match=r"all \d are crowds .*\n.*`crowds: objects` in the dataset's YAML") as caught:
        materialize(source / "dataset.yaml", tmp_path / "out")
    assert caught.value.check == Check.SPLIT_WITHOUT_OBJECTS
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"its \d images are without any"):
        materialize(source / "dataset.yaml", tmp_path / "out", choice(crowds="drop"))
    described(source, crowds="objects")
    assert records(source, tmp_path / "out", {})[0].splits["train"].crowd_objects == 0


def test_words_for_splits_are_told_and_test_is_kept_apart(source, tmp_path, capsys):
    described(source, split={"Train": 0.4, "valid": 0.3, "testing": 0.3}, crowds="objects")
    manifest, _ = records(source, tmp_path / "out", {})
    assert set(manifest.splits) == {"train", "val", "test"}
    out = capsys.readouterr().out
    for line in ("the split `Train` is read as `train`", "the split `valid` is read as `val`", "`test` is kept from training"):
        assert line in out


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_set_of_splits_that_training_cannot_use_is_refused(source, tmp_path, split):
    described(source, split={split: 0.5, "test": 0.5})
    with pytest.raises(UserError, match=f"there is no split `{'val' if split == 'train' else 'train'}`\n.*training reads"):
        materialize(source / "dataset.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="there is no split"):
        preflight(source / "dataset.yaml", [])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"objects_without_mask": "keep"}, "--objects-without-mask is 'keep'\n  fix: use one of refuse, drop"),
        ({"duplicate_images": "merge"}, "--duplicate-images is 'merge'\n  fix: use one of drop, keep"),
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


@pytest.mark.parametrize(
    ("text", "limits"),
    [("0", (0, {})), ("20", (20, {})), ("box-off-mask=5", (0, {"box-off-mask": 5})), ("2, empty-mask=0,3", (3, {"empty-mask": 0}))],
)
def test_limits_are_a_number_and_codes(text, limits):
    assert parse_limits(text) == limits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-1", "--max-bad is '-1'"),
        ("", "--max-bad is ''"),
        ("box-of-mask=1", "did you mean `box-off-mask`"),
        ("split-empty=1", "no code of a fault"),
    ],
)
def test_limits_of_what_is_no_code_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        parse_limits(text)
