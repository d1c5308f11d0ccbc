"""The step that goes on with an old project: a folder of the Object Detection API becomes a run.

    maskline adopt FOLDER [--output RUN_DIR] [--config CONFIG] [--evaluate]

Looks for `pipeline.config`, label map, records, checkpoints and exported models wherever they lie below FOLDER, says what is there, maps
paths of another machine to these files by their names, and converts: RUN_DIR gets the config with the paths of here, `NAME.config`, and the
model's folder, `NAME/`. What is missing is named with what follows from it; the commands that go on with the work come last. Nothing is
asked, and nothing is written into FOLDER. Usual runtime: ten seconds, and the time to read all records twice; `--evaluate` takes as long as
`maskline evaluate`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.adoption.adopted_config import AdoptedConfig
from tasks.adoption.project import (
    Candidate,
    FoundRecords,
    Opened,
    candidate_of,
    candidates,
    label_map_of,
    records_of,
    start_of,
    weights_of,
)
from tasks.adoption.project_folder import ProjectFolder, look_through
from tasks.annotations.split_names import TRAIN, VAL
from tasks.pipeline_config.checkpoint_fit import head_classes, missing_scopes, network_of
from tasks.pipeline_config.fields import cut, value_text
from tasks.pipeline_config.fine_tuning import names_checkpoint
from tasks.pipeline_config.parser import print_pipeline_config, read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import zoo_configs
from tasks.records.example import MASK_TYPES, NUMERICAL_MASKS
from tasks.records.label_map import LabelMap
from tasks.records.survey import Survey, survey
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, StepResult, read_json, run_dir, write_text

STAND_IN = "mask_rcnn_resnet50_atrous_coco"
"""The zoo config that stands for one that is lost, where no weights tell their network"""

_LISTED = 4
_PLACES_OF_ANY = {"train", "training", "eval", "model", "models", "config", "configs", "data", "saved_model", "checkpoint", "checkpoints"}


@dataclass
class _Project:
    """What was found out, in the order in which it is told."""

    folder: ProjectFolder
    config: AdoptedConfig
    config_file: Path | None
    """None where a zoo config stands for one that is lost"""
    name: str
    label_map: Path | None = None
    weights: Opened | None = None
    start: Path | None = None
    training: FoundRecords | None = None
    evaluation: FoundRecords | None = None
    surveys: dict[str, Survey] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)
    """Why other configs of the folder are not supported"""
    missing: list[str] = field(default_factory=list)

    @property
    def labels(self) -> LabelMap | None:
        return self.folder.label_maps[self.label_map] if self.label_map else None

    @property
    def num_steps(self) -> int:
        return int(self.config.config.train_config.num_steps)

    @property
    def goes_on(self) -> bool:
        """Whether there is something left to train of the training that the weights are of."""
        return self.config_file is not None and self.weights is not None and (self.num_steps == 0 or self.weights.step < self.num_steps)

    @property
    def is_trained(self) -> bool:
        """Whether the weights are those of a model that this config describes."""
        return self.weights is not None

    @property
    def has_records(self) -> bool:
        return self.training is not None and self.evaluation is not None and self.label_map is not None


def adopt(folder: Path, output: Path | None = None, config: str | None = None, *, evaluate: bool = False) -> StepResult:
    """Writes the run of a project's folder; the summary's `commands` go on with it, and `missing` is what it lacks.

    `config` names the one to take where there are several or none: a path, from FOLDER or from here, or a zoo config's name. With
    `evaluate` the summary has the old model's `mask_ap` and `box_ap` on its own records.
    UserError where there is nothing of a project, no config that is supported, or `evaluate` cannot be done; in the last case all else is.
    """
    root = folder.resolve()
    run = RunDir((output or run_dir(_plain(root.name)).root).absolute())
    if run.root.resolve().is_relative_to(root):
        raise UserError(
            f"{run.root} is in the project's folder, where nothing is to be written",
            "name another folder by --output, or set MASKLINE_WORKSPACE, or call the command from elsewhere",
        )
    found = look_through(root)
    print(f"{root} is read, and nothing is written there\n", flush=True)
    project = _project(found, _chosen(found, config), config)
    model = run.model(project.name)
    project.config.start_from(project.weights, project.start, goes_on=project.goes_on)
    written = run.root / f"{project.name}.config"
    _say(project)
    write_text(written, print_pipeline_config(project.config.config))
    _maskline("convert", written, "--output", model.root, *_mask_options(project), quiet=True)
    print(f"\nconverted to {model.root}; its paths are in {written}", flush=True)
    figures = _evaluated(project, model) if evaluate and project.is_trained and project.has_records else {}
    commands = _commands(project, written, model)
    if evaluate and not figures:
        why = "no weights of a training" if not project.is_trained else "no records with a label map, to train and to evaluate on"
        told = "\n  ".join(commands)
        raise UserError(f"{root} cannot be evaluated: it holds {why}", f"bring it there; everything else is done, and goes on by\n  {told}")
    return StepResult(
        "adopt",
        "done",
        {"model": str(model.root), "pipeline_config": str(written)},
        {
            "config": project.name,
            "step": project.weights.step if project.weights else 0,
            "missing": project.missing,
            "commands": commands,
            **figures,
        },
    )


def _chosen(found: ProjectFolder, wish: str | None) -> Candidate | None:
    """The project's config; None where there is none. UserError where none of those that are there is supported, or the wish is not."""
    if wish is not None:
        return _wished(found, wish)
    ranked = candidates(found)
    if ranked and ranked[0].refused is not None:
        rest = [found.relative(one.file) for one in ranked[1:]]
        others = f" (and the other configs are not supported either: {_some(rest)})" if rest else ""
        raise UserError(f"{ranked[0].refused.message}{others}", ranked[0].refused.fix)
    if not ranked and not (found.records or found.weights):
        looked_for = "pipeline.config, records (.record, .tfrecord), checkpoints (model.ckpt-N, ckpt-N), frozen graphs, SavedModels"
        raise UserError(f"{found.root} holds nothing of an Object Detection API project; looked for {looked_for}", "name another folder")
    return ranked[0] if ranked else None


def _wished(found: ProjectFolder, wish: str) -> Candidate | None:
    if wish in zoo_configs():
        return None
    path = next((path for path in (found.root / wish, Path(wish)) if path.is_file()), None)
    if path is None:
        there = _some([found.relative(one) for one in found.configs]) or "none"
        raise UserError(f"there is no config {wish}", f"name one of the folder ({there}), or a zoo config: {', '.join(zoo_configs())}")
    chosen = candidate_of(path.resolve())
    if chosen.refused is not None:
        raise chosen.refused
    return chosen


def _project(found: ProjectFolder, chosen: Candidate | None, wish: str | None) -> _Project:
    # Not at the top: it takes seconds to import TensorFlow, and what is no project is said before.
    from tasks.adoption.opened_weights import opened

    if chosen is not None and chosen.config is not None:
        adopted = TrainEvalPipelineConfig()
        adopted.CopyFrom(chosen.config)
        project = _Project(found, AdoptedConfig(adopted), chosen.file, _name(chosen.file, found))
        ranked = candidates(found)
        project.refused = {one.file: one.refused.message for one in ranked if one.refused is not None}
        belonging = weights_of(chosen, found, ranked)
        readable, faults = opened(belonging, adopted.model.faster_rcnn.feature_extractor.type.removesuffix("_keras"))
    else:
        own = [one for one in found.weights if not found.is_pretrained(one.path)]
        readable, faults = opened(own, "")
        project = _stand_in(found, readable, wish)
    _take_weights(project, readable, faults)
    config = project.config.config
    if not project.weights:
        project.start = start_of(config, found) if project.config_file else None
    project.label_map = label_map_of(config, found)
    if project.config_file is None and project.labels is not None and project.weights is None:
        config.model.faster_rcnn.num_classes = project.labels.num_classes
    evaluation = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader.__class__()
    project.training = records_of(config.train_input_reader, found, TRAIN)
    project.evaluation = records_of(evaluation, found, VAL)
    if project.evaluation is None and project.training is not None:
        project.missing.append("no records to evaluate on: evaluation reads those of training, which says little of other images")
        project.evaluation = project.training
    project.config.read(project.training, project.evaluation, project.label_map)
    for split, records in ((TRAIN, project.training), (VAL, project.evaluation)):
        if records is not None and not (split == VAL and records is project.training):
            project.surveys[split] = survey(records.files, project.labels)
    if project.config_file is None and project.training is not None and not project.surveys[TRAIN].mask_types:
        config.model.faster_rcnn.number_of_stages = 2
    _name_what_is_missing(project)
    return project


def _stand_in(found: ProjectFolder, readable: Sequence[Opened], wish: str | None) -> _Project:
    """A project whose config is lost: the zoo's of the same network stands for it."""
    networks = {network_of(one.shapes) for one in readable}
    zoo = {name: read_pipeline_config(file) for name, file in zoo_configs().items()}
    alike = (name for name, one in zoo.items() if one.model.faster_rcnn.feature_extractor.type in networks)
    name = wish or next(alike, STAND_IN)
    return _Project(found, AdoptedConfig(zoo[name]), None, name)


def _take_weights(project: _Project, readable: Sequence[Opened], faults: Sequence[str]) -> None:
    """The first weights that are of the config's network, heads and all."""
    probe = TrainEvalPipelineConfig()
    probe.CopyFrom(project.config.config)
    probe.train_config.fine_tune_checkpoint_type = "full"
    for one in readable:
        lacking = missing_scopes(probe, one.shapes)
        if not lacking:
            project.weights = one
            break
        path = project.folder.relative(one.weights.path)
        project.missing.append(f"{path} holds nothing for {', '.join(lacking)}: it is not the config's model, and is passed over")
    project.missing += [f"{fault}: it is passed over" for fault in faults]
    if project.weights is not None and project.config_file is None:
        project.config.shape_as(project.weights.shapes)


def _name_what_is_missing(project: _Project) -> None:
    """Each with what follows from it."""
    missing, config = project.missing, project.config.config
    if project.config_file is None:
        missing.append(
            f"no pipeline.config: the zoo's {project.name} stands for it, with its image size, anchors, thresholds and learning rate;"
            " the right one, wherever it is, is named by --config"
        )
    written = config.train_config.fine_tune_checkpoint
    if project.weights is None:
        then = f"training starts from {project.folder.relative(project.start)}" if project.start else "training starts from scratch"
        missing.append(f"no checkpoint and no exported model of this project's own training: {then}")
        if project.start is None and project.config_file and names_checkpoint(written):
            missing.append(
                f"the checkpoint that the config starts from, {cut(written, 120)}, is not there: bring it, and name it in the config"
            )
    else:
        theirs, ours = head_classes(project.weights.shapes), config.model.faster_rcnn.num_classes
        if theirs is not None and theirs != ours:
            missing.append(f"the weights know {theirs} classes, the config says {ours}: their heads do not fit, and cannot be evaluated")
    if project.label_map is None:
        missing.append(
            'no label map: classes have no names, and training and evaluation stop there; write one, `item { id: 1 name: "cat" }`'
        )
    if project.labels is not None and project.labels.num_classes > config.model.faster_rcnn.num_classes:
        missing.append(
            f"the label map has the id {project.labels.num_classes}, the config num_classes {config.model.faster_rcnn.num_classes}:"
            " training and evaluation stop there"
        )
    if project.training is None:
        missing.append("no records to train on: neither training nor evaluation can run before there are some")
    for split, one in project.surveys.items():
        if one.fault is not None:
            missing.append(f"{one.unusable} of {one.records} records ({split}) do not fit: {one.fault.message}")
        if project.config.has_masks and one.records and not one.mask_types:
            missing.append(f"the records ({split}) hold no masks, and the model predicts some: it cannot learn or be measured by them")


def _say(project: _Project) -> None:
    found, config = project.folder, project.config.config
    model = config.model.faster_rcnn
    what = f"{model.feature_extractor.type}, {'boxes and masks' if project.config.has_masks else 'boxes'}, {model.num_classes} classes"
    length = f"{project.num_steps} steps" if project.num_steps else "no last step"
    place = found.relative(project.config_file) if project.config_file else f"none; the zoo's {project.name}"
    print(f"config    {place}: {what}, {length}")
    _also([_with_refusal(one, project) for one in found.configs if one != project.config_file])
    if project.weights is not None:
        print(f"weights   {found.relative(project.weights.weights.path)}: {_told(project.weights)}")
        print(f"          {_outlook(project, project.weights.step)}")
    else:
        print("weights   none of its own")
    named = project.weights.weights if project.weights else None
    _also([found.relative(one.path) for one in found.weights if one != named])
    if project.labels is not None and project.label_map is not None:
        names = [f"{number} {name}" for number, name in project.labels.names.items()]
        print(f"classes   {found.relative(project.label_map)}: {_some(names, 8)}")
    else:
        print("classes   no label map")
    _also([found.relative(one) for one in found.label_maps if one != project.label_map])
    for split, records in ((TRAIN, project.training), (VAL, project.evaluation)):
        label = "records" if split == TRAIN else ""
        if records is None:
            print(f"{label:10}none to {'train' if split == TRAIN else 'evaluate'} on")
        elif split in project.surveys:
            print(f"{label:10}{found.relative(Path(records.pattern))}: {_records_told(project.surveys[split])}{_doubt(records, found)}")
    known = {file for records in (project.training, project.evaluation) if records for file in records.files}
    _also([found.relative(one) for one in found.records if one not in known])
    if found.images:
        print(f"images    {_some([f'{count} in {found.relative(folder)}' for folder, count in sorted(found.images.items())])}")
    for what, paths in (("links to folders, not followed", found.links), ("pointers to files not fetched", found.not_fetched)):
        if paths:
            print(f"          {what}: {_some([found.relative(one) for one in paths])}")
    if found.unreadable:
        print(f"          folders that may not be read: {_some([found.relative(one) for one in found.unreadable])}")
    changed = [one for one in project.config.mapped if str(one.here) != one.written and project.config_file is not None]
    if changed:
        print("\npaths of the config that are others here")
    for one in changed:
        print(f"  {one.where}: {cut(one.written, 120) or 'nothing'} -> {found.relative(Path(one.here))}")
    if project.config.dropped_readers:
        print(f"  eval_input_reader: the first is kept, {project.config.dropped_readers} more dropped")
    if project.missing:
        print("\nmissing")
    for line in project.missing:
        print(f"  {line}")
    sys.stdout.flush()


def _told(weights: Opened) -> str:
    step = f"step {weights.step}" if weights.step else f"{'a training' if weights.weights.is_training else 'an export'}, which has no step"
    state = ", with its optimizer's state" if weights.has_optimizer_state else ""
    others = weights.weights.others
    return step + state + (f" ({_some(others)} beside it)" if others else "")


def _outlook(project: _Project, step: int) -> str:
    """What `train` will do with the weights."""
    if project.goes_on and step:
        return f"training goes on from there, to step {project.num_steps or 'that the config will say'}"
    over = f"its {project.num_steps} steps are done: " if step and project.config_file else ""
    return f"{over}training begins anew from these weights"


def _with_refusal(config: Path, project: _Project) -> str:
    name, refused = project.folder.relative(config), project.refused.get(config)
    return f"{name} (not supported: {cut(refused.rpartition(': ')[2], 80)})" if refused else name


def _records_told(one: Survey) -> str:
    objects = sum(count * images for count, images in one.objects_per_image.items())
    masks = " and ".join(name.split("_")[0] for name in one.mask_types) + " masks" if one.mask_types else "no masks"
    fit = "fit" if one.fault is None else f"{one.unusable} do not fit"
    return f"{one.records} images, {objects} objects, {masks}, {fit}"


def _doubt(records: FoundRecords, found: ProjectFolder) -> str:
    if records.by_name:
        return " (taken by its name)"
    others = [found.relative(one) for one in records.others]
    return f" (files of this name lie in {_some(others)} too)" if others else ""


def _also(paths: Sequence[str]) -> None:
    if paths:
        print(f"          also {_some(paths)}")


def _some(names: Sequence[str], most: int = _LISTED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _name(file: Path, found: ProjectFolder) -> str:
    """What the model is called: after its config, or where that has everybody's name, after the folder that says most."""
    if file.stem != "pipeline":
        return _plain(file.stem)
    folders = (
        [part for part in file.relative_to(found.root).parts[:-1] if part.lower() not in _PLACES_OF_ANY]
        if file.is_relative_to(found.root)
        else []
    )
    return _plain(folders[-1] if folders else found.root.name)


def _plain(name: str) -> str:
    """The name without what a path on a command line does not like."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-") or "project"


def _mask_options(project: _Project) -> list[str]:
    if not project.config.has_masks:
        return ["--reverse"]
    one = project.surveys.get(TRAIN)
    types = list(one.mask_types) if one else []
    if not types:
        written = value_text(project.config.config.train_input_reader, "mask_type")
        types = [written if written in MASK_TYPES.values() else NUMERICAL_MASKS]
    return ["--mask-type", next(name for name, full in MASK_TYPES.items() if full == types[0])]


def _evaluated(project: _Project, model: ModelDir) -> dict[str, Any]:
    """The old model's figures on its own records."""
    print("\nthe old model on its own records", flush=True)
    summary = _maskline("evaluate", model.root)["summary"]
    figures = {name: summary[name] for name in ("mask_ap", "box_ap")}
    told = [f"{name.replace('_ap', '')} AP {value:.4f}" for name, value in figures.items() if value is not None]
    step = f"step {project.weights.step}" if project.weights and project.weights.step else "its last export"
    print(f"the old model, at {step}: {', '.join(told) or 'nothing could be measured'} on {summary['images']} images", flush=True)
    return figures


def _commands(project: _Project, config: Path, model: ModelDir) -> list[str]:
    """The three that go on with the work."""
    folder, file = shlex.quote(str(model.root)), shlex.quote(str(config))
    if project.has_records:
        if project.is_trained:
            return [f"maskline evaluate {folder}", f"maskline train {folder}", f"maskline export {folder}"]
        return [f"maskline lint {file}", f"maskline train {folder}", f"maskline evaluate {folder}"]
    if project.training is not None:
        named = " ".join(f"--set {reader}.label_map_path=LABEL_MAP" for reader in ("train_input_reader", "eval_input_reader[0]"))
        options = " ".join(_mask_options(project))
        convert = f"maskline convert {file} {shlex.join(named.split())} --output {folder} {options}"
        return [
            convert,
            f"maskline {'evaluate' if project.is_trained else 'lint'} {folder if project.is_trained else file}",
            f"maskline train {folder}",
        ]
    images = next(iter(sorted(project.folder.images)), None)
    source = shlex.quote(str(images)) if images else "IMAGES_AND_ANNOTATIONS"
    dataset = shlex.quote(str(model.root.parent / "dataset"))
    start = ""
    if project.is_trained:
        heads = f" --checkpoint-label-map {shlex.quote(str(project.label_map))}" if project.label_map else ""
        start = f" --checkpoint-type detection{heads}"
    again = f"{folder}_again"
    commands = [
        f"maskline materialize {source} --output {dataset}",
        f"maskline convert {file} --dataset {dataset} --output {again}{start}{'' if project.config.has_masks else ' --reverse'}",
    ]
    return [f"maskline export {folder}", *commands] if project.is_trained and project.label_map else [*commands, f"maskline train {again}"]


def _maskline(step: str, *words: Path | str, quiet: bool = False) -> Any:
    """Runs a step in a process of its own; its result. UserError as it says."""
    with tempfile.TemporaryDirectory(prefix="maskline-adopt-") as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "tasks", step, *map(str, words), "--result", str(result)]
        ended = subprocess.run(command, check=False, stdout=subprocess.PIPE if quiet else None, stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            said = ended.stderr.strip().rpartition("error: ")[2]
            message, _, fix = said.partition("\n  fix: ")
            raise UserError(f"maskline {step}: {message}", fix or "see what it said")
        return read_json(result)
