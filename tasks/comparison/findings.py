"""What lies behind the verdicts, as numbers: curves, categories, errors, disputed images and how the configs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.coco.figures import accumulated
from tasks.coco.matches import Matches
from tasks.comparison.disagreement import Disagreement, most_disputed, outcome, right_where_wrong
from tasks.comparison.judgement import Comparison
from tasks.comparison.learning import Points, loss_curve, measured_curve
from tasks.comparison.rows import BOX_AP, EVALUATED, MASK_AP
from tasks.evaluation.analysis import MIN_SCORE, category_figures, precision_curves
from tasks.evaluation.error_split import error_split
from tasks.evaluation.slices import whole
from tasks.evaluation.thresholds import THRESHOLDS, Thresholds, choose_thresholds, operating, read_thresholds
from tasks.pipeline_config.difference import differences
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir

DISPUTED = 12
"""Images that are shown."""


@dataclass(frozen=True)
class Findings:
    """By the models' names, those of the comparison first; empty where there is nothing of a kind to compare."""

    losses: Mapping[str, Points]
    """Mean total loss by step."""
    measured_on_the_way: Mapping[str, Points]
    """The figure that ranks by step."""
    precision: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """At each recall, the mean over categories, as an evaluation's `curves.json` has it."""
    categories: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By category: `objects`, and the AP of each model under `models`."""
    errors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each kind of error costs, as an evaluation's `errors.json` has it."""
    operating: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the operating thresholds do beside the default one, as an evaluation's `operating.json` has it, the `rule`, and `fallbacks`: why
    categories have no threshold of their own."""
    right_where_wrong: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many objects a model finds that another misses."""
    disputed: tuple[Disagreement, ...] = ()
    config_differences: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """By field: the value of each model that has a config; None where the field is absent."""
    left_out: tuple[str, ...] = ()
    """What could not be told, and why."""

    def to_json(self, ids: Any = ()) -> dict[str, Any]:
        """For a file; `ids` are the images'."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("disputed", "left_out")},
            "left_out": list(self.left_out),
            "disputed": [
                {
                    "image": str(ids[one.image]),
                    "objects": one.objects,
                    "found": one.found,
                    "false": one.false,
                    "told": [{"found_by": list(finders), "objects": counts} for finders, counts in one.told.items()],
                }
                for one in self.disputed
            ],
        }


def findings(comparison: Comparison, models: Mapping[str, ModelDir]) -> Findings:
    """Of the evaluated models among `models`."""
    names = [row.config for row in comparison.ready]
    # Configs of one model's trainings are alike.
    of_models = [(model.trainings or (model.row,))[0] for model in comparison.models]
    differing, left_out = _config_differences({row.config: models[row.config] for row in of_models if row.state == EVALUATED})
    metric = MASK_AP if comparison.ranking == "mask AP" else BOX_AP
    learnt: dict[str, Any] = {
        "losses": {name: curve for name in names if (curve := loss_curve(models[name]))},
        "measured_on_the_way": {name: curve for name in names if (curve := measured_curve(models[name], metric))},
        "config_differences": differing,
        "left_out": left_out,
    }
    if not comparison.matches:
        return Findings(**learnt)
    precision, figures, errors, operated = {}, {}, {}, {}
    for name, matches in comparison.matches.items():
        part, curves = whole(matches), {kind: accumulated(matches, kind) for kind in matches.kinds[:1]}
        precision[name] = precision_curves(matches, part, curves[matches.kind])
        figures[name] = category_figures(matches, part, curves)
        errors[name] = error_split(matches, part, MIN_SCORE)
        thresholds = _thresholds(models[name], matches)
        fallbacks = {one.name: f"{one.reason}: {one.score:g}, {one.source}" for one in thresholds.fallbacks}
        operated[name] = {"rule": str(thresholds.rule), "fallbacks": fallbacks, **operating(matches, part, thresholds)}
    first = next(iter(comparison.matches.values()))
    categories = {
        category: {
            "objects": one["objects"],
            "models": {name: of_model[category][comparison.ranking] for name, of_model in figures.items()},
        }
        for category, one in next(iter(figures.values())).items()
    }
    outcomes = {name: outcome(matches) for name, matches in comparison.matches.items()}
    return Findings(
        **learnt,
        precision=precision,
        categories=categories,
        errors=errors,
        operating=operated,
        right_where_wrong=right_where_wrong(outcomes),
        disputed=tuple(most_disputed(first, outcomes, DISPUTED)) if len(outcomes) > 1 else (),
    )


def _thresholds(model: ModelDir, matches: Matches) -> Thresholds:
    """Those that the evaluation has chosen; one of an earlier version has chosen none, and they follow from its matches."""
    file = model.evaluation / THRESHOLDS
    return read_thresholds(file) if file.exists() else choose_thresholds(matches)


def _config_differences(models: Mapping[str, ModelDir]) -> tuple[dict[str, dict[str, str | None]], tuple[str, ...]]:
    """The fields in which not all configs agree, and what cannot be read."""
    configs, left_out = {}, []
    for name, model in models.items():
        if not model.pipeline_config.exists():
            continue
        try:
            configs[name] = read_pipeline_config(model.pipeline_config)
        except UserError as error:
            left_out.append(f"the config of {name}: {error.message}")
    found: dict[str, dict[str, str | None]] = {}
    if len(configs) > 1:
        (_, first), *others = configs.items()
        for name, config in others:
            for one in differences(first, config):
                # A field in which another model does not differ has the reference's value there.
                found.setdefault(one.path, dict.fromkeys(configs, one.before))[name] = one.after
    return found, tuple(left_out)
