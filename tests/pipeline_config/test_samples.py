"""The page about a folder of configs, on configs whose fate is known."""

from __future__ import annotations

from pathlib import Path

from tasks.running.workspace import DatasetDir
from tests.pipeline_config.samples import HEAD, Outcome, outcome, page


def test_converted_files_name_their_edits_and_refused_ones_their_fault(configs: Path, scenes: DatasetDir, tmp_path: Path) -> None:
    boxes = outcome(configs / "faster_rcnn" / "faster_rcnn_inception_v2_coco.config", scenes, tmp_path)
    # The predictor is already the right one, so the second edit has nothing to do.
    assert [edit.split(".")[0] for edit in boxes.edits] == ["1", "3", "4", "5", "6", "the number of classes is the dataset's"]
    assert (boxes.twin, boxes.refusal) == ("mask_rcnn_inception_v2_coco", None)
    assert [(one.path.rpartition(".")[2], one.before, one.after) for one in boxes.differences] == [
        ("min_dimension", "800", "600"),
        ("max_dimension", "1365", "1024"),
        ("second_stage_mask_prediction_loss_weight", "4.0", "1.0"),
    ]
    (tmp_path / "ssd.config").write_text("model {\n  ssd { }\n}")
    assert outcome(tmp_path / "ssd.config", scenes, tmp_path) == Outcome(
        "ssd", refusal="line 2:3: model.ssd: models of the ssd family are not supported"
    )


def test_the_page_counts() -> None:
    text = page([Outcome("a_coco", ("1. readers", "an end"), "zoo"), Outcome("b", refusal="line 1:1: no")])
    assert text.startswith(HEAD)
    assert "2 files: 1 converted, 1 refused." in text
    assert "| `a_coco` | converted: 1, an end |\n| `b` | refused: line 1:1: no |\n" in text
    assert text.endswith("`a_coco`, beside `zoo`:\n\n- nothing\n")


def test_the_page_about_the_original_s_samples_is_one_of_these() -> None:
    assert (Path(__file__).resolve().parents[2] / "docs" / "samples.md").read_text().startswith(HEAD)
