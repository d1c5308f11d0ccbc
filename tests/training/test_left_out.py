"""A training that meets bad records: told, listed, left out up to a limit, and seen again by one that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from official.core import config_definitions as cfg

from tasks.input.batches import training_dataset
from tasks.input.config import DataConfig
from tasks.input.record_faults import DATA_ERRORS
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.records.record_index import parse_places
from tasks.records.tfrecord import index_path
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tasks.training.experiment import MaskRCNNTask as TaskConfig
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.left_out import BAD_RECORDS, RecordsLeftOut
from tasks.training.loop import run_training
from tasks.training.task import MaskRCNNTask
from tests.training.trackers import Told

STEPS = 6
# The third record's place in the order by seed 1: inside of the third loop, since the first two are of one step.
FIRST_MET = 3
RESIZER = config.ImageResizer(kind="fixed_shape", height=64, width=64)


@pytest.fixture
def damaged(scenes: DatasetDir, tmp_path: Path) -> DatasetDir:
    """Four scenes, of which one is not what its checksum says."""
    folder = tmp_path / "damaged"
    shutil.copytree(scenes.root, folder)
    (shard,) = folder.glob("train.record-*")
    content = bytearray(shard.read_bytes())
    places = parse_places(index_path(shard).read_text(), len(content))
    assert places is not None
    content[int(places[2, 0]) + 100] ^= 1
    shard.write_bytes(content)
    return DatasetDir(folder)


def experiment(dataset: DatasetDir, most: int, steps: int = STEPS) -> cfg.ExperimentConfig:
    """The first stage alone, whose batch norms are trained, so that nothing is read before the first step."""
    model = config.MaskRCNN(
        num_classes=8,
        number_of_stages=1,
        image_resizer=RESIZER,
        feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2", batch_norm_trainable=True),
        anchors=config.GridAnchorGenerator(height=32, width=32),
        first_stage=config.FirstStage(minibatch_size=16, max_proposals=4),
    )
    data = DataConfig(
        input_path=str(dataset.root / "train.record-*"),
        label_map_path=str(dataset.label_map),
        global_batch_size=1,
        seed=1,
        is_training=True,
        load_instance_masks=False,
        max_bad_records=most,
    )
    found = mask_rcnn_zoo()
    found.task = TaskConfig(model=model, train_data=data)
    found.trainer.train_steps, found.trainer.checkpoint_interval = steps, STEPS
    return found


def positions_of_the_damaged(dataset: DatasetDir) -> list[int]:
    """By the order of the same records undamaged: those at which the third stands."""
    data = experiment(dataset, 0).task.train_data
    batches = training_dataset(data, RESIZER, read_label_map(dataset.label_map), 1).take(STEPS)
    pictures = [images.numpy() for images, _, _ in batches]
    third = [
        images.numpy()
        for images, _, _ in training_dataset(data.replace(shuffle=False), RESIZER, read_label_map(dataset.label_map), 1).take(3)
    ][2]
    return [position for position, picture in enumerate(pictures) if np.array_equal(picture, third)]


def test_a_training_goes_on_from_the_step_that_it_had_reached(
    scenes: DatasetDir, damaged: DatasetDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    assert positions_of_the_damaged(scenes) == [FIRST_MET]
    told = Told()
    summary = run_training(experiment(damaged, most=1), tmp_path / "train", told)
    assert (summary["steps"], summary["bad_records"]) == (STEPS, 1)
    (bad,) = json.loads((tmp_path / "train" / BAD_RECORDS).read_text())
    (shard,) = damaged.root.glob("train.record-*")
    assert bad == {"file": str(shard), "record": 2, "step": FIRST_MET, "reason": f"{shard}: record 2 is cut off or damaged"}
    assert f"left out, 1 of at most 1 records: {shard}: record 2 is cut off or damaged" in capsys.readouterr().out
    assert told.metrics == [({"bad_records": 1}, FIRST_MET)]
    rows = [json.loads(line) for line in (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == told.steps == list(range(1, STEPS + 1))

    # A longer one begins behind the record, and does not meet it.
    going_on = run_training(experiment(damaged, most=1, steps=STEPS + 1), tmp_path / "train", Told())
    assert (going_on["steps"], going_on["bad_records"]) == (STEPS + 1, 1)


def test_without_a_limit_the_first_bad_record_ends_the_training_by_name(damaged: DatasetDir, tmp_path: Path) -> None:
    left_out = RecordsLeftOut(experiment(damaged, most=0).task, tmp_path, 0)
    with pytest.raises(UserError) as error:
        left_out.add(DATA_ERRORS[0](None, None, "TensorFlow's words"), FIRST_MET)
    (shard,) = damaged.root.glob("train.record-*")
    assert error.value.message == f"{shard}: record 2 is cut off or damaged"
    assert "--max-bad-records N" in error.value.fix
    assert not (tmp_path / BAD_RECORDS).exists()


def test_frozen_batch_norms_take_their_statistics_from_what_can_be_read(damaged: DatasetDir, tmp_path: Path) -> None:
    settings = experiment(damaged, most=1).task
    settings.model.feature_extractor.batch_norm_trainable = False
    task = MaskRCNNTask(settings, logging_dir=str(tmp_path))
    task.bad_records = RecordsLeftOut(settings, tmp_path, 0)
    model: MaskRCNN = task.build_model()
    task.initialize(model)
    # Four batches are an epoch, so the record was met; it is left out from the training's first step on.
    assert [(one.record, one.step) for one in task.bad_records.records] == [(2, 0)]
    moved = [layer for layer in model.first_stage.layers if "BatchNorm" in layer.name]
    assert moved
    assert all(np.any(layer.moving_mean.numpy() != 0.0) for layer in moved)


def test_what_the_batch_norms_have_left_out_no_step_meets(damaged: DatasetDir, tmp_path: Path) -> None:
    settings = experiment(damaged, most=1)
    settings.task.model.feature_extractor.batch_norm_trainable = False
    (tmp_path / "train").mkdir()
    summary = run_training(settings, tmp_path / "train", Told())
    assert (summary["steps"], summary["bad_records"]) == (STEPS, 1)
    assert [one["step"] for one in json.loads((tmp_path / "train" / BAD_RECORDS).read_text())] == [0]


def test_an_error_that_no_record_is_to_blame_for_goes_on_its_way(scenes: DatasetDir, tmp_path: Path) -> None:
    left_out = RecordsLeftOut(experiment(scenes, most=5).task, tmp_path, 0)
    error = DATA_ERRORS[0](None, None, "of the network")
    with pytest.raises(DATA_ERRORS[0], match="of the network"):
        left_out.add(error, 0)
    assert left_out.records == ()


def test_what_was_left_out_later_than_the_checkpoint_will_be_met_again(scenes: DatasetDir, tmp_path: Path) -> None:
    bad = [{"file": "x", "record": number, "step": step, "reason": ""} for number, step in ((0, 3), (1, 7))]
    (tmp_path / BAD_RECORDS).write_text(json.dumps(bad))
    settings = experiment(scenes, most=5).task
    kept = [[one.record for one in RecordsLeftOut(settings, tmp_path, step).records] for step in (0, 2, 3, 6, 7)]
    assert kept == [[], [], [0], [0], [0, 1]]
