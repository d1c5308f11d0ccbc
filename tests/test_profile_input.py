"""The step on small records, and the sentence that it draws from a table."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.convert import convert
from tasks.input.profile import NUMBERS, OTHER_PNGS, OWN_PNGS, Profile, StageCost
from tasks.profile_input import first_change, profile_input
from tasks.records.tfrecord import write_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.training.overrides import Overrides
from tasks.transcode import transcode
from tests.input.samples import record

STAGES = ["read", "parse", "decode image", "augment", "resize image", "masks"]


def profiled(
    wall_of_reading: float = 0.5,
    stored: tuple[float, float] = (375.0, 640.0),
    mask_form: str = OWN_PNGS,
    cpu: float = 10.0,
    batch_size: int = 1,
    **costs: float,
) -> Profile:
    """A pipeline of 10 ms an image in which every stage takes half a millisecond, but for those of `costs`."""
    stages = {name: StageCost(cost, cost) for name in STAGES for cost in [costs.get(name.replace(" ", "_"), 0.5)]}
    stages["read"] = dataclasses.replace(stages["read"], wall=wall_of_reading)
    augmentations = {"random_horizontal_flip": 0.2, "random_distort_color": 6.5}
    return Profile(100, 80_000.0, stored, (800.0, 1365.0), 7.0, mask_form, stages, augmentations, batch_size, 100.0, cpu, 2)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        # 80 kB in 40 ms are 2 MB/s.
        (profiled(wall_of_reading=40.0), "storage is waited for, which gives 2 MB/s to one reader: copy them to a disk"),
        (
            profiled(decode_image=6.0, stored=(1600.0, 2730.0)),
            "4.0 times the pixels that training sees.*make the dataset of images of 800 x 1365",
        ),
        (profiled(decode_image=6.0), "nothing stands out: the most is `decode image`"),
        (profiled(augment=7.0), "random_distort_color costs 6.5 ms an image, most of all augmentations"),
        (profiled(masks=6.0, mask_form=NUMBERS), "transcode --mask-type png"),
        (profiled(masks=6.0, mask_form=OTHER_PNGS), "PNGs of another tool.*format: tfrecord"),
        (profiled(masks=6.0), "nothing stands out: the most is `masks`"),
        (profiled(parse=6.0, mask_form=NUMBERS), "records are large because masks are numbers"),
        (profiled(resize_image=6.0), "making images 800 x 1365 is most of the work.*--image-size"),
        (profiled(cpu=30.0, batch_size=4), "putting batches together is most of the work"),
        (profiled(cpu=30.0), "nothing stands out: the most is `batch`"),
    ],
)
def test_what_is_told_to_change_first(found: Profile, words: str) -> None:
    assert re.search(words, first_change(found)), first_change(found)


def run(target: Path, **more: Any) -> dict[str, Any]:
    return dict(profile_input(str(target), images=4, seconds=0.1, **more).summary)


def test_a_dataset_is_read_as_the_zoo_reads_it(scenes: DatasetDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(scenes.root, overrides=Overrides(image_size=80))
    assert list(found["stages"]) == [*STAGES, "rest"]
    assert all(cost["cpu_ms"] >= 0.0 for cost in found["stages"].values())
    assert found["images_per_second"] > 0.0
    assert (found["mask_form"], list(found["augmentations_cpu_ms"])) == (OWN_PNGS, ["random_horizontal_flip"])
    out = capsys.readouterr().out
    # Images of 64 x 80, of which the short side becomes 80.
    assert "4 records of " in out
    assert "images of 64 x 80 pixels, trained on at 80 x 100 (means)" in out
    shares = [int(line.split()[-1].rstrip("%")) for line in out.splitlines() if line.endswith("%")]
    assert len(shares) == len(STAGES) + 1
    assert 96 <= sum(shares) <= 104
    assert f"first thing to change: {found['first_change']}" in out


def test_records_of_other_tools_need_their_label_map(scenes: DatasetDir, tmp_path: Path) -> None:
    transcode(str(scenes.root), "numerical", tmp_path / "numbers")
    pattern = tmp_path / "numbers" / "train.record-?????-of-00001"
    with pytest.raises(UserError, match="nothing says which classes the records have"):
        run(pattern)
    assert run(pattern, label_map=str(scenes.label_map))["mask_form"] == NUMBERS


def test_a_model_is_read_as_its_config_says(scenes: DatasetDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelDir(tmp_path / "model")
    assignments = ["train_config.batch_size=2", "train_config.data_augmentation_options=[{rgb_to_gray {}}]"]
    convert("mask_rcnn_inception_v2_coco", scenes, model, assignments=assignments)
    found = run(model.root, overrides=Overrides(image_size=64))
    assert "batches of 2: " in capsys.readouterr().out
    assert "rgb_to_gray" in found["augmentations_cpu_ms"]


def test_other_pngs_are_told_and_masks_are_needed(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.record", [record()] * 3)
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 1 name: 'cat' } item { id: 3 name: 'dog' }")
    assert run(tmp_path / "x.record", label_map=str(labels), overrides=Overrides(image_size=32))["mask_form"] == OTHER_PNGS
    write_shard(tmp_path / "boxes.record", [record(image__object__mask=[])])
    with pytest.raises(UserError, match="no record has masks"):
        run(tmp_path / "boxes.record", label_map=str(labels))


def test_a_record_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.record", [record(), record(image__encoded=[b"no picture"])])
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 1 name: 'cat' } item { id: 3 name: 'dog' }")
    with pytest.raises(UserError, match=r"x\.record: record 1: the image cannot be read"):
        run(tmp_path / "x.record", label_map=str(labels), overrides=Overrides(image_size=32))


def test_impossible_numbers_are_refused_by_their_option(scenes: DatasetDir) -> None:
    with pytest.raises(UserError, match="--images is 0"):
        profile_input(str(scenes.root), images=0)
    with pytest.raises(UserError, match="--seconds is -1"):
        profile_input(str(scenes.root), seconds=-1.0)
