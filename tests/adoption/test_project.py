"""Which files belong together, and how a training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adoption.adopted_config import AdoptedConfig
from tasks.adoption.project import Opened, candidates, records_of, start_of, weights_of
from tasks.adoption.project_folder import Weights, look_through
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import zoo_configs
from tasks.records.tfrecord import write_shard
from tests.adoption.test_project_folder import put

ZOO = zoo_configs()["mask_rcnn_resnet50_atrous_coco"]


@pytest.fixture
def config() -> TrainEvalPipelineConfig:
    return read_pipeline_config(ZOO)


def test_the_config_that_has_trained_comes_first_and_keeps_its_own_weights(tmp_path: Path) -> None:
    for name in ("models/a", "models/b", "exported/b", "pretrained/zoo"):
        put(tmp_path, f"{name}/pipeline.config")
        (tmp_path / name / "pipeline.config").write_text(ZOO.read_text())
    (tmp_path / "models/a/pipeline.config").write_text("model { ssd {} }")
    put(
        tmp_path,
        "models/a/ckpt-3.index",
        "models/b/train/ckpt-5.index",
        "exported/b/checkpoint/ckpt-0.index",
        "pretrained/zoo/checkpoint/ckpt-0.index",
    )
    found = look_through(tmp_path)
    ranked = candidates(found)
    assert [found.relative(one.file.parent) for one in ranked] == ["models/b", "exported/b", "models/a", "pretrained/zoo"]
    assert ranked[2].refused is not None
    mine = [found.relative(one.path) for one in weights_of(ranked[0], found, ranked)]
    assert mine == ["models/b/train/ckpt-5", "exported/b/checkpoint/ckpt-0"]


def test_records_without_their_names_are_known_by_their_split(tmp_path: Path, config: TrainEvalPipelineConfig) -> None:
    for name in ("my_training.record-00000-of-00002", "my_training.record-00001-of-00002", "test.record"):
        write_shard(tmp_path / name, [b"x"])
    found = look_through(tmp_path)
    training, evaluation = (
        records_of(reader, found, split) for reader, split in ((config.train_input_reader, "train"), (config.eval_input_reader[0], "val"))
    )
    assert training is not None
    assert evaluation is not None
    assert (training.pattern, training.by_name) == (str(tmp_path / "my_training.record-?????-of-00002"), True)
    assert evaluation.pattern == str(tmp_path / "test.record")


def test_where_a_config_starts_from_is_known_by_more_than_a_name(tmp_path: Path, config: TrainEvalPipelineConfig) -> None:
    put(tmp_path, "mine/model.ckpt.index", "zoo/mask_rcnn.tar.gz", "pretrained/rcnn/model.ckpt.index")
    found = look_through(tmp_path)
    expected = {
        "C:\\x\\rcnn\\model.ckpt": "pretrained/rcnn/model.ckpt",
        "/y/mask_rcnn/model.ckpt": "zoo/mask_rcnn.tar.gz",
        "/y/other/model.ckpt": None,
    }
    for written, path in expected.items():
        config.train_config.fine_tune_checkpoint = written
        start = start_of(config, found)
        assert (start and found.relative(start)) == path


@pytest.mark.parametrize(("goes_on", "kind", "load_all"), [(True, "full", False), (False, "detection", True)])
def test_a_finished_training_gives_its_weights_alone(config: TrainEvalPipelineConfig, goes_on: bool, kind: str, load_all: bool) -> None:
    adopted = AdoptedConfig(config)
    weights = Weights(Path("/p/model.ckpt-5"), Path("/p"), is_training=True)
    adopted.start_from(Opened(weights, {}, 5, has_optimizer_state=True), None, goes_on=goes_on)
    train = adopted.config.train_config
    assert (train.fine_tune_checkpoint, train.fine_tune_checkpoint_type) == ("/p/model.ckpt-5", kind)
    assert train.load_all_detection_checkpoint_vars is load_all


def test_weights_shape_a_config_that_stands_for_a_lost_one(config: TrainEvalPipelineConfig) -> None:
    head = "SecondStageBoxPredictor"
    shapes = {f"{head}/ClassPredictor/biases": (8,), f"{head}/Conv/weights": (3, 3, 2048, 155), f"{head}/Conv_1/weights": (3, 3, 155, 7)}
    adopted = AdoptedConfig(config)
    adopted.shape_as(shapes)
    model = adopted.config.model.faster_rcnn
    predictor = model.second_stage_box_predictor.mask_rcnn_box_predictor
    assert (model.num_classes, predictor.mask_prediction_num_conv_layers, predictor.mask_prediction_conv_depth) == (7, 2, 155)
    assert adopted.has_masks
    adopted.shape_as({f"{head}/ClassPredictor/biases": (4,)})
    assert (model.num_classes, adopted.has_masks) == (3, False)
