"""What `convert` would refuse of a config whatever its data, so that others can say it before."""

from __future__ import annotations

from tasks.pipeline_config.edits import MaskBranch, add_masks, end_training
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.fields import ConfigError, value_text
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.running.errors import UserError

_SOMEWHERE = "somewhere"


def refusals(config: TrainEvalPipelineConfig, name: str, *, with_dataset: bool = False) -> tuple[UserError, ...]:
    """The errors, families before fields, of the config called `name` with its masks; `with_dataset` brings the number of classes.

    Nothing is said of records and label maps that are not named: a dataset may bring them, and `lint` has codes of its own for them.
    """
    config, _ = end_training(add_masks(config, value_text(config.train_input_reader, "mask_type"), MaskBranch())[0])
    for reader in (config.train_input_reader, *config.eval_input_reader):
        reader.label_map_path = reader.label_map_path or _SOMEWHERE
        if reader.WhichOneof("input_reader") in (None, "tf_record_input_reader") and not reader.tf_record_input_reader.input_path:
            reader.tf_record_input_reader.input_path.append(_SOMEWHERE)
    if with_dataset:
        config.model.faster_rcnn.num_classes = config.model.faster_rcnn.num_classes or 1
    try:
        translate(config, name=name)
    except ConfigError as errors:
        return errors.errors
    except UserError as error:
        return (error,)
    return ()
