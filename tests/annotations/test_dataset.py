"""The dataset's YAML: what it says, and what is wrong with one that says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from upath import UPath

from tasks.annotations.coco import CocoSource
from tasks.annotations.dataset import GivenSplits, HashedSplits, read_dataset_config
from tasks.annotations.record_choice import OPTIONS, Choice, DuplicateImages, EmptyImages, WithoutMask
from tasks.annotations.shard import Crowds
from tasks.records.example import NUMERICAL_MASKS
from tasks.running.errors import UserError
from tasks.shapes.dataset import ShapesConfig
from tests.annotations.files import LFS_POINTER

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
SOURCE = {"images": "photos", "annotations": "../all.json"}


@pytest.fixture
def read(tmp_path):
    def read_values(values):
        path = tmp_path / "set" / "dataset.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return read_dataset_config(path)

    return read_values


def test_paths_start_at_the_files_folder(read, tmp_path):
    config = read({"name": "a", "source": SOURCE, "split": {"train": 0.75, "val": 0.25}})
    source = CocoSource(tmp_path / "set" / "photos", tmp_path / "all.json")
    assert config.images == HashedSplits(source)
    assert config.options == {"split": {"train": 0.75, "val": 0.25}}


def test_a_source_may_lie_under_a_url_and_be_split_later(read):
    config = read({"name": "a", "source": {"images": "memory://bucket/photos", "annotations": "memory://bucket/all.json"}})
    assert config.images == HashedSplits(CocoSource(UPath("memory://bucket/photos"), UPath("memory://bucket/all.json")))
    assert config.options == {}


def test_given_splits_have_a_source_each(read, tmp_path):
    config = read({"name": "a", "splits": {"train": SOURCE, "val": SOURCE}})
    source = CocoSource(tmp_path / "set" / "photos", tmp_path / "all.json")
    assert config.images == GivenSplits({"train": source, "val": source})


def test_shapes_are_counts_and_sizes(read):
    assert read({"name": "a", "shapes": {"train": 4, "seed": 9}}).images == ShapesConfig(train=4, seed=9)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_examples_are_named_as_their_files(path):
    assert read_dataset_config(path).name == path.stem


def test_what_the_command_line_can_choose_can_be_described(read, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "names.yaml").write_text("cat: pet\nant: null\n")
    options = {
        "limit": 5,
        "only_categories": ["pet", "dog"],
        "remap_categories": "names.yaml",
        "empty": "drop",
        "crowds": "objects",
        "mask_type": "numerical",
        "objects_without_mask": "drop",
        "duplicate_images": "keep",
    }
    config = read({"name": "a", "source": SOURCE, "split": {"train": 0.5, "val": 0.5}, **options})
    assert Choice(**config.options) == Choice(
        split={"train": 0.5, "val": 0.5},
        limit=5,
        only_categories=("pet", "dog"),
        remap_categories={"cat": "pet", "ant": None},
        empty=EmptyImages.DROP,
        crowds=Crowds.OBJECTS,
        mask_type=NUMERICAL_MASKS,
        objects_without_mask=WithoutMask.DROP,
        duplicate_images=DuplicateImages.KEEP,
    )
    # Corrections are read where they lie: tests/test_materialize_corrections.py.
    assert set(options) | {"split", "corrections"} == set(OPTIONS)
    shapes = read({"name": "a", "shapes": {}, "remap_categories": {"cat": "pet"}})
    assert shapes.options == {"remap_categories": {"cat": "pet"}}


def test_splits_go_by_what_their_names_mean(read):
    config = read({"name": "a", "splits": {"Training": SOURCE, "valid": SOURCE, "test2017": SOURCE}})
    assert isinstance(config.images, GivenSplits)
    assert list(config.images.splits) == ["train", "test", "val"]
    assert config.split_words == {"train": "Training", "val": "valid", "test": "test2017"}
    config = read({"name": "a", "source": SOURCE, "split": {"train": 0.8, "validation": 0.2}})
    assert config.options == {"split": {"train": 0.8, "val": 0.2}}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "a", "splits": {"train": SOURCE, "calibration": SOURCE}}, "splits: a split is called 'calibration', which no step reads"),
        ({"name": "a", "splits": {"val": SOURCE, "dev": SOURCE}}, "the splits 'dev' and 'val' mean both `val`"),
        ({"name": "a", "source": SOURCE, "split": {"train": 0.8, "rest": 0.2}}, "split: a split is called 'rest'"),
        ({"name": "a", "source": SOURCE, "crowds": "hide"}, r"yaml: crowds is 'hide'\n  fix: use one of keep, drop, objects"),
        ({"name": "a", "source": SOURCE, "crowd": "drop"}, r"unknown key `crowd`\n  fix: did you mean `crowds`\?"),
        ({"name": "a", "source": SOURCE, "empty": False}, "yaml: empty is False"),
        ({"name": "a", "source": SOURCE, "limit": "5"}, "yaml: limit is '5'"),
        ({"name": "a", "source": SOURCE, "only_categories": [1]}, r"yaml: only_categories is \[1\]"),
        ({"name": "a", "source": SOURCE, "remap_categories": {1: "cat"}}, "no mapping of names to names"),
        ({"name": "a", "source": SOURCE, "remap_categories": "absent.yaml"}, r"absent\.yaml cannot be opened"),
        (LFS_POINTER, "it is a Git LFS pointer"),
        ({"name": "a", "shape": {}}, r"unknown key `shape`\n  fix: did you mean `shapes`\?"),
        ({"name": "a", "shapes": {"hieght": 4}}, r"shapes has an unknown key `hieght`\n  fix: did you mean `height`\?"),
        ({"name": "a", "splits": {"train": {**SOURCE, "imagess": "x"}}}, r"splits.train has an unknown key `imagess`"),
        ({"name": "a", "splits": {"train": {"images": "x"}}}, "splits.train has no `annotations`"),
        ({"name": "a", "splits": {"train": {"images": 3, "annotations": "x"}}}, "splits.train.images is 3, and a path is expected"),
        ({"name": "a", "splits": {}}, "splits names no splits"),
        ({"shapes": {}}, "has no `name`"),
        ({"name": "a/b", "shapes": {}}, "name is 'a/b'"),
        ({"name": "a"}, "it has no images"),
        ({"name": "a", "shapes": {}, "splits": {"train": SOURCE}}, "it has splits and shapes"),
        ({"name": "a", "shapes": {}, "split": {"train": 1}}, "`split` divides a `source`"),
        ({"name": "a", "source": SOURCE, "split": {"train": 0.8, "val": 0.3}}, "sum to 1.1"),
        ({"name": "a", "source": SOURCE, "split": {"train": 0, "val": 1}}, "the share of train is 0"),
        ({"name": "a", "source": {**SOURCE, "format": "coko"}}, r"source.format is 'coko'\n  fix: did you mean `coco`\?"),
        ({"name": "a", "shapes": {"train": "many"}}, "train is 'many'"),
        ("a: [", "not YAML"),
        ("just text", "is no mapping"),
    ],
)
def test_what_is_wrong_is_named(read, values, reason):
    with pytest.raises(UserError, match=rf"(?s){reason}"):
        read(values)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_and_windows_separators_are_no_fault(read, tmp_path, encoding):
    read({"name": "a", "shapes": {}})
    path = tmp_path / "set" / "dataset.yaml"
    text = "name: a\nsource: {images: 'sub\\photos', annotations: '..\\all.json'}\nremap_categories: 'sub\\names.yaml'\n"
    path.write_text(text, encoding=encoding)
    (tmp_path / "set" / "sub").mkdir()
    (tmp_path / "set" / "sub" / "names.yaml").write_text("Käfer: beetle\n", encoding=encoding)
    config = read_dataset_config(path)
    assert config.images == HashedSplits(CocoSource(tmp_path / "set" / "sub" / "photos", tmp_path / "all.json"))
    assert config.options == {"remap_categories": {"Käfer": "beetle"}}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: the dataset's YAML cannot be opened"):
        read_dataset_config(tmp_path / "absent.yaml")
