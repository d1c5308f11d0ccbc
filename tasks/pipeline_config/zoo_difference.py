"""What tells a config from the zoo's of the same backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.pipeline_config.difference import Difference, difference_lines, differences
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import zoo_configs


@dataclass(frozen=True)
class ZooDifference:
    """The zoo config's name, None where the zoo has no such backbone, and the differences, its values first."""

    name: str | None
    differences: tuple[Difference, ...] = ()

    def text(self) -> str:
        """Lines for people."""
        if self.name is None:
            return "the zoo has no config with this feature extractor\n"
        return f"{self.name} of the zoo -> converted\n{difference_lines(self.differences)}"

    def to_json(self) -> dict[str, Any]:
        return {"config": self.name, "differences": [difference.to_json() for difference in self.differences]}


def from_zoo(config: TrainEvalPipelineConfig) -> ZooDifference:
    """What tells `config` from the zoo config with the same feature extractor."""
    for name, file in zoo_configs().items():
        twin = read_pipeline_config(file)
        if twin.model.faster_rcnn.feature_extractor.type == config.model.faster_rcnn.feature_extractor.type:
            return ZooDifference(name, tuple(differences(twin, config)))
    return ZooDifference(None)
