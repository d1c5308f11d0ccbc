"""The way back to boxes, against the Faster R-CNN configs that the way there began from."""

from __future__ import annotations

from pathlib import Path

from tasks.pipeline_config.box_edits import remove_masks
from tasks.pipeline_config.edits import MaskBranch, Records, add_masks, to_mask_rcnn
from tasks.pipeline_config.parser import parse_pipeline_config, print_pipeline_config, read_pipeline_config


def test_back_from_masks_a_config_is_what_it_was(configs: Path) -> None:
    for file in sorted((configs / "faster_rcnn").glob("*.config")):
        original = read_pipeline_config(file)
        with_masks, _ = add_masks(original, "PNG_MASKS", MaskBranch(21, 14, 64, 3))
        assert with_masks != original
        back, edits = remove_masks(with_masks)
        assert print_pipeline_config(back) == print_pipeline_config(original)
        assert all(edit.changes for edit in edits)


def test_there_back_and_there_again_is_there_but_for_the_branch(config_file: Path, records: Records) -> None:
    branch = MaskBranch(33, 33, 0, 4)
    there, _ = to_mask_rcnn(read_pipeline_config(config_file), records, branch)
    # The guide says nothing of it, so only the way back touches it.
    there.model.faster_rcnn.ClearField("second_stage_mask_prediction_loss_weight")
    back, _ = remove_masks(there)
    assert add_masks(back, "PNG_MASKS", branch)[0] == there


def test_boxes_only_stay_as_they_are(configs: Path) -> None:
    config = read_pipeline_config(configs / "faster_rcnn" / "faster_rcnn_resnet50_coco.config")
    same, edits = remove_masks(config)
    assert same == config
    assert all(edit.changes == () for edit in edits)


def test_other_metrics_stay_and_proposals_stay_proposals() -> None:
    text = "model { faster_rcnn { number_of_stages: 1 } } eval_input_reader { }"
    config = parse_pipeline_config(f"{text} eval_config {{ metrics_set: ['pascal_voc_detection_metrics', 'coco_mask_metrics'] }}", "x")
    edited, edits = remove_masks(config)
    assert list(edited.eval_config.metrics_set) == ["pascal_voc_detection_metrics"]
    assert edited.model.faster_rcnn.number_of_stages == 1
    assert [(c.path, c.before, c.after) for edit in edits for c in edit.changes] == [
        ("eval_config.metrics_set", '["pascal_voc_detection_metrics", "coco_mask_metrics"]', '["pascal_voc_detection_metrics"]')
    ]
