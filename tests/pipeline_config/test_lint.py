"""Each check on a config that is right but for one thing, and the page that explains the codes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.pipeline_config.evidence import Evidence, InputPath, ReaderEvidence
from tasks.pipeline_config.lint import CHECKS, lint
from tasks.pipeline_config.parser import read_pipeline_config, set_field
from tasks.pipeline_config.zoo import zoo_configs
from tasks.records.annotated_image import Category
from tasks.records.label_map import LabelMap
from tasks.running.errors import UserError
from tests.parity.reference import REFERENCES, Reference

RCNN = "model.faster_rcnn"
GRID = f"{RCNN}.first_stage_anchor_generator.grid_anchor_generator"
NMS = f"{RCNN}.second_stage_post_processing.batch_non_max_suppression"
RATE = "train_config.optimizer.momentum_optimizer.learning_rate"
RESIZER = f"{RCNN}.image_resizer.keep_aspect_ratio_resizer"
# Of the zoo's config these three make one that nothing is to be said about.
MENDED = ("train_config.num_steps=1200001", "eval_config.metrics_set=['coco_mask_metrics']", f"{RCNN}.num_classes=3")
LABELS = LabelMap((Category(1, "hazelnut"), Category(3, "date")))


def evidence(*assignments: str, **found: Any) -> Evidence:
    """The ResNet-50 zoo config on good data, with assignments; `found` replaces what was found for every reader, or the checkpoint."""
    config = read_pipeline_config(zoo_configs()["mask_rcnn_resnet50_atrous_coco"])
    for assignment in (*MENDED, *assignments):
        config, _ = set_field(config, assignment)
    checkpoint = found.pop("checkpoint", None)

    def reader(path: str, reader: Any, name: str) -> ReaderEvidence:
        inputs = (InputPath(f"{name}*", (Path(name),), (name,)),)
        return dataclasses.replace(ReaderEvidence(path, reader, inputs, LABELS, "PNG_MASKS"), **found)

    training = reader("train_input_reader", config.train_input_reader, "train.record")
    return Evidence(config, training, (reader("eval_input_reader[0]", config.eval_input_reader[0], "val.record"),), checkpoint)


def found_in(evidence: Evidence) -> list[tuple[str, str]]:
    return [(finding.check.code, finding.error.path) for finding in lint(evidence)]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert found_in(evidence()) == []


@pytest.mark.parametrize(
    ("assignments", "code", "path", "words"),
    [
        ([f"{RCNN}.num_classes=2"], "ML001", f"{RCNN}.num_classes", "2, but the label map has the id 3"),
        ([f"{RCNN}.num_classes=4"], "ML002", f"{RCNN}.num_classes", "write 3"),
        (
            ["train_input_reader.mask_type=DEFAULT"],
            "ML005",
            "train_input_reader.mask_type",
            "NUMERICAL_MASKS, but the records hold PNG_MASKS",
        ),
        (["eval_input_reader.label_map_path=''"], "ML003", "eval_input_reader[0].label_map_path", "is not set"),
        (["eval_input_reader.load_instance_masks=false"], "ML007", "eval_input_reader[0].load_instance_masks", "write true"),
        ([f"{RCNN}.number_of_stages=2", "eval_input_reader.load_instance_masks=false"], None, "", ""),
        (["eval_config.metrics_set=['coco_detection_metrics']"], "ML008", "eval_config.metrics_set", "coco_mask_metrics"),
        ([f"{RCNN}.number_of_stages=2", "eval_config.metrics_set=['coco_detection_metrics']"], None, "", ""),
        ([f"{GRID}.width_stride=16"], "ML009", f"{GRID}.width_stride", "16, but a feature cell is 8 pixels wide"),
        ([f"{RCNN}.maxpool_kernel_size=15"], "ML010", f"{RCNN}.maxpool_kernel_size", "more than initial_crop_size 14"),
        ([f"{RCNN}.maxpool_kernel_size=14"], None, "", ""),
        (["train_config.batch_size=2"], "ML011", "train_config.batch_size", "2 images of different sizes"),
        (["train_config.batch_size=2", f"{RESIZER}.pad_to_max_dimension=true"], None, "", ""),
        (["train_config.batch_size=2", f"{RCNN}.image_resizer.fixed_shape_resizer.height=512"], None, "", ""),
        (["train_config.batch_size=2", f"{RCNN}.image_resizer.identity_resizer={{}}"], "ML011", "train_config.batch_size", "2 images"),
        (["train_config.num_steps=1200000"], "ML014", f"{RATE}.manual_step_learning_rate.schedule[1].step", "1200000 is never reached"),
        ([f"{RATE}.cosine_decay_learning_rate.total_steps=1200001"], None, "", ""),
        (
            [f"{RATE}.cosine_decay_learning_rate.total_steps=1200002"],
            "ML014",
            f"{RATE}.cosine_decay_learning_rate.total_steps",
            "1200002 is never reached",
        ),
        ([f"{RCNN}.second_stage_batch_size=301"], "ML016", f"{RCNN}.second_stage_batch_size", "301 of at most 300"),
        ([f"{RCNN}.second_stage_batch_size=300"], None, "", ""),
        ([f"{NMS}.max_total_detections=99"], "ML017", f"{NMS}.max_detections_per_class", "max_total_detections is 99"),
        ([f"{RCNN}.first_stage_max_proposals=99"], "ML017", f"{NMS}.max_detections_per_class", "first_stage_max_proposals is 99"),
    ],
)
def test_fields_that_contradict_each_other(assignments: list[str], code: str | None, path: str, words: str) -> None:
    findings = lint(evidence(*assignments))
    assert [(finding.check.code, finding.error.path) for finding in findings] == ([(code, path)] if code else [])
    if code:
        assert words in str(findings[0].error)


INPUT = "tf_record_input_reader.input_path"


@pytest.mark.parametrize(
    ("found", "code", "field", "words"),
    [
        ({"label_map": UserError("gone", "correct")}, "ML003", "label_map_path", "gone\n  fix: correct"),
        ({"inputs": ()}, "ML004", INPUT, "names no file"),
        (
            {"inputs": (InputPath("d/pet_train.record-?????-of-00010", (), ("pets_train.record-00000-of-00010", "x")),)},
            "ML004",
            INPUT,
            "is it d/pets_train.record-00000-of-00010?",
        ),
        ({"mask_type": "NUMERICAL_MASKS"}, "ML005", "mask_type", "write NUMERICAL_MASKS"),
        ({"without_masks": "x: record 210"}, "ML006", INPUT, "x: record 210 has objects and no mask"),
        ({"other_masks": "x: record 7"}, "ML005", "mask_type", "x: record 7 holds masks of another type"),
        ({"fault": UserError("x: record 3: no area", "mend")}, "ML021", INPUT, "x: record 3: no area"),
        ({"mask_type": None}, "ML006", INPUT, "the records hold no mask"),
        ({"mask_type": UserError("damaged", "write again")}, "ML006", INPUT, "damaged"),
    ],
)
def test_data_that_contradicts_the_config(found: dict[str, Any], code: str, field: str, words: str) -> None:
    findings = lint(evidence(**found))
    assert [(finding.check.code, finding.error.path) for finding in findings] == [
        (code, f"train_input_reader.{field}"),
        (code, f"eval_input_reader[0].{field}"),
    ]
    assert words in str(findings[0].error)


def test_the_same_file_under_another_path(tmp_path: Path) -> None:
    (tmp_path / "a.record").touch()
    (tmp_path / "b.record").symlink_to("a.record")
    good = evidence()
    training = dataclasses.replace(good.training, inputs=(InputPath("a*", (tmp_path / "a.record",), ()),))
    evaluation = dataclasses.replace(good.evaluation[0], inputs=(InputPath("b*", (tmp_path / "b.record",), ()),))
    again = dataclasses.replace(good, training=training, evaluation=(evaluation,))
    assert found_in(again) == [("ML015", f"eval_input_reader[0].{INPUT}")]


@pytest.mark.parametrize(
    ("checkpoint", "code"),
    [
        (UserError("gone", "correct"), "ML012"),
        # The zoo's config restores the backbones of a detector.
        ({"resnet_v1_50/conv1/weights": (7, 7, 3, 64)}, "ML013"),
        ({f"{stage}StageFeatureExtractor/resnet_v1_50/x": (1,) for stage in ("First", "Second")}, None),
        (None, None),
    ],
)
def test_where_training_starts(checkpoint: dict[str, tuple[int, ...]] | UserError | None, code: str | None) -> None:
    assert found_in(evidence(checkpoint=checkpoint)) == ([(code, "train_config.fine_tune_checkpoint")] if code else [])


@pytest.mark.parametrize(
    ("reference", "extractor"),
    [
        ("inception_v2", "faster_rcnn_inception_v2"),
        ("inception_resnet_v2", "faster_rcnn_inception_resnet_v2"),
        ("resnet50", "faster_rcnn_resnet50"),
        ("resnet101", "faster_rcnn_resnet101"),
    ],
)
def test_a_checkpoint_of_the_original_fits_its_own_network_only(reference: str, extractor: str) -> None:
    variables = Reference(REFERENCES / f"{reference}_small.npz").variables()
    wishes = ["train_config.fine_tune_checkpoint_type=full", f"{RCNN}.num_classes=90"]
    own = evidence(*wishes, f"{RCNN}.feature_extractor.type={extractor}", checkpoint=variables)
    assert [code for code, _ in found_in(own) if code > "ML002"] == []
    other = evidence(*wishes, f"{RCNN}.feature_extractor.type=faster_rcnn_resnet152", checkpoint=variables)
    (finding,) = [finding for finding in lint(other) if finding.check.code > "ML002"]
    assert finding.check.code == "ML013"
    assert "nothing for FirstStageFeatureExtractor/resnet_v1_152, SecondStageFeatureExtractor/resnet_v1_152\n" in str(finding.error)


def test_a_missing_shard_is_named() -> None:
    found = lint(evidence(inputs=(InputPath("d/x-*", (Path("d/x-00000-of-00002"),), (), (Path("d/x-00001-of-00002"),)),)))
    messages = [finding.error.message.partition(": ")[2] for finding in found if finding.check.code == "ML019"]
    assert messages == ["d/x-00001-of-00002 is not there; the names of the other shards count it"] * 2


@pytest.mark.parametrize(("most", "codes"), [(100, []), (101, ["ML020"])])
def test_more_objects_than_training_reads(most: int, codes: list[str]) -> None:
    findings = lint(evidence(most_objects=most, fullest="x: record 5"))
    assert [finding.check.code for finding in findings] == codes
    assert all("100, but x: record 5 has 101 objects" in str(finding.error) for finding in findings)


@pytest.mark.parametrize(("restored", "codes"), [("true", ["ML018"]), ("false", [])])
def test_heads_are_for_as_many_classes(restored: str, codes: list[str]) -> None:
    variables = Reference(REFERENCES / "resnet50_small.npz").variables()
    found = lint(evidence(f"train_config.load_all_detection_checkpoint_vars={restored}", checkpoint=variables))
    assert [finding.check.code for finding in found] == codes
    assert all("the checkpoint's heads know 90 classes, the model 3" in str(finding.error) for finding in found)


def test_every_code_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "lint.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [f"{check.code} {check.title} ({check.severity})" for check in CHECKS]
    assert [check.code for check in CHECKS] == [f"ML{number:03d}" for number in range(1, len(CHECKS) + 1)]
