"""Which of the given fields are set in which config."""

from __future__ import annotations

import pytest

from tasks.pipeline_config.assignments import assignments_of
from tasks.running.errors import UserError

RESNET, INCEPTION = "mask_rcnn_resnet50_atrous_coco", "mask_rcnn_inception_v2_coco"


def test_a_line_with_a_name_is_for_that_config_alone_and_the_order_stays() -> None:
    lines = ["train_config.num_steps=100", f"{RESNET}: train_config.num_steps=200", f"{INCEPTION}:a.b=1", "c.d=2"]
    assert assignments_of(RESNET, lines) == ["train_config.num_steps=100", "train_config.num_steps=200", "c.d=2"]
    assert assignments_of(INCEPTION, lines) == ["train_config.num_steps=100", "a.b=1", "c.d=2"]


def test_a_colon_in_the_value_names_no_config() -> None:
    lines = ["a.b={c: 1}", "a.d=s3://bucket/x:y"]
    assert assignments_of(RESNET, lines) == lines


def test_ones_own_config_has_the_name_of_its_file() -> None:
    assert assignments_of("mine", ["mine: a.b=1", f"{RESNET}: a.b=2"]) == ["a.b=1"]
    assert assignments_of("mine", ["theirs: a.b=1"], others=["theirs"]) == []


def test_a_name_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no config mask_rcnn_resnet5O_atrous_coco") as refused:
        assignments_of(INCEPTION, ["mask_rcnn_resnet5O_atrous_coco: a.b=1"])
    assert RESNET in refused.value.fix
