"""A project's config with the paths of here, and where its training starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tasks.adoption.project import FoundRecords, Opened
from tasks.pipeline_config.checkpoint_fit import Shapes, head_classes
from tasks.pipeline_config.fine_tuning import PLACEHOLDER, names_checkpoint
from tasks.pipeline_config.input_reader_pb2 import InputReader
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig

_HEAD = "SecondStageBoxPredictor"


@dataclass(frozen=True)
class Mapped:
    """A path of the config as it is written, and what it is here."""

    where: str
    written: str
    here: Path | str


@dataclass
class AdoptedConfig:
    """The config on its way; `mapped` lists the paths that are others here."""

    config: TrainEvalPipelineConfig
    mapped: list[Mapped] = field(default_factory=list)
    dropped_readers: int = 0

    @property
    def has_masks(self) -> bool:
        model = self.config.model.faster_rcnn
        return model.number_of_stages == 3 and model.second_stage_box_predictor.mask_rcnn_box_predictor.predict_instance_masks

    def read(self, training: FoundRecords | None, evaluation: FoundRecords | None, label_map: Path | None) -> None:
        """Points the readers at what is here; where nothing is, they keep what is written, or say that it has to be configured."""
        if len(self.config.eval_input_reader) > 1:
            self.dropped_readers = len(self.config.eval_input_reader) - 1
            del self.config.eval_input_reader[1:]
        if not self.config.eval_input_reader:
            self.config.eval_input_reader.add(shuffle=False)
        readers = (
            ("train_input_reader", self.config.train_input_reader, training),
            ("eval_input_reader", self.config.eval_input_reader[0], evaluation),
        )
        for name, reader, records in readers:
            self._point(name, reader, records, label_map)

    def start_from(self, weights: Opened | None, start: Path | None, *, goes_on: bool) -> None:
        """From trained weights, all of them, with their step where the training `goes_on`; or from what the config starts from; else from
        scratch."""
        train = self.config.train_config
        path = weights.weights.path if weights else start
        if path is None:
            for name in ("fine_tune_checkpoint", "fine_tune_checkpoint_type", "from_detection_checkpoint"):
                train.ClearField(name)
            return
        if weights is None and names_checkpoint(train.fine_tune_checkpoint):
            self.mapped.append(Mapped("train_config.fine_tune_checkpoint", train.fine_tune_checkpoint, path))
        train.fine_tune_checkpoint = str(path)
        if weights is not None:
            train.fine_tune_checkpoint_type = "full" if goes_on else "detection"
            train.load_all_detection_checkpoint_vars = not goes_on

    def shape_as(self, shapes: Shapes) -> None:
        """Gives a config that nobody wrote for these weights their classes and their mask branch, as far as shapes tell."""
        model = self.config.model.faster_rcnn
        model.num_classes = head_classes(shapes) or model.num_classes
        predictor = model.second_stage_box_predictor.mask_rcnn_box_predictor
        convolutions = sum(name.startswith(f"{_HEAD}/Conv") and name.endswith("/weights") for name in shapes)
        if not convolutions:
            model.number_of_stages = 2
            return
        predictor.mask_prediction_num_conv_layers = convolutions
        if convolutions > 1:
            predictor.mask_prediction_conv_depth = shapes[f"{_HEAD}/Conv/weights"][-1]

    def _point(self, name: str, reader: InputReader, records: FoundRecords | None, label_map: Path | None) -> None:
        paths = reader.tf_record_input_reader.input_path
        if records is not None:
            self.mapped.append(Mapped(f"{name}.input_path", records.written, Path(records.pattern)))
            paths[:] = [records.pattern]
        elif not paths:
            paths.append(f"{PLACEHOLDER}/{name.partition('_')[0]}.record")
        if label_map is not None:
            self.mapped.append(Mapped(f"{name}.label_map_path", reader.label_map_path, label_map))
            reader.label_map_path = str(label_map)
        elif not reader.label_map_path:
            reader.label_map_path = f"{PLACEHOLDER}/label_map.pbtxt"
