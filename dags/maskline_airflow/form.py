"""The fields of a run: what the trigger form shows, what `conf` by REST may hold and what a schedule's file may set.

Airflow's form takes a field as required unless its type names "null". It opens the section of the fields that name none, under a
heading of its own ("Run Parameters"), and shows one section at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import Param

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
ZOO_CONFIGS = sorted(path.stem for path in (CONFIGS / "zoo").glob("*.config"))
_SEED = "-seed"
DATASETS = sorted(f"configs/datasets/{path.name}" for path in (CONFIGS / "datasets").glob("*.yaml"))


def demo_values() -> dict[str, Any]:
    """What the form of `mask_rcnn_zoo` starts with: the demo's settings, but for the name of its run."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    del values["run_name"]
    return values


def form(values: Mapping[str, Any]) -> dict[str, Param]:
    """All fields by name, in the order of the form; one that `values` does not name starts empty."""
    return _in_sections({"": _what(), "Training": _training(), "Data": data_fields(), "Advanced": _advanced()}, values)


def evaluation_form(values: Mapping[str, Any]) -> dict[str, Param]:
    """Those of the evaluation of one model, likewise."""
    return _in_sections({"": _evaluated(), "Model": _of_model(), "Evaluation": _evaluation(), "Data": data_fields()}, values)


def _in_sections(sections: Mapping[str, Mapping[str, Param]], values: Mapping[str, Any]) -> dict[str, Param]:
    fields = {}
    for section, params in sections.items():
        for name, param in params.items():
            param.schema |= {"section": section} if section else {}
            param.value = values.get(name)
            fields[name] = param
    return fields


def dataset_field(value: str | None = None) -> Param:
    return Param(
        value,
        type="string",
        pattern=r"\S",
        examples=DATASETS,
        title="Data set",
        description="A data set's YAML file, or its folder: an absolute path, one from the root of the repository, or a URL. "
        "Empty the field to see those of configs/datasets/.",
    )


def _what() -> dict[str, Param]:
    return {
        "dataset": dataset_field(),
        "configs": Param(
            None,
            type="array",
            items={"type": "string", "enum": ZOO_CONFIGS},
            examples=ZOO_CONFIGS,
            minItems=1,
            uniqueItems=True,
            title="Zoo configs",
            description="The models to train and compare, at least one.",
        ),
        "run_name": _folder_name(
            "Name of the run",
            "Its folder under runs/: letters, digits, '_', '-' and '.'. The name of an earlier run continues it and skips what is done. "
            "Empty: made of the DAG run's id.",
        ),
    }


def _evaluated() -> dict[str, Param]:
    return {
        "dataset": dataset_field(),
        "model": _text(
            "Model",
            "A path: the folder of a model that was trained here or exported, a SavedModel's, an .onnx file, or a checkpoint of the "
            "original by its prefix, folder, tarball or frozen graph. Empty: the detections are in a file.",
            examples=["runs/RUN/mask_rcnn_inception_v2_coco"],
        ),
        "results": _text("File of detections", "In COCO's results format, of whatever program. Empty: the model finds them."),
        "run_name": _folder_name(
            "Name of the run",
            "Its folder under runs/; models that are evaluated under one name can be compared. Empty: made of the DAG run's id.",
        ),
        "model_name": _folder_name("Name of the model", "Its folder in that of the run. Empty: `model`."),
    }


def _of_model() -> dict[str, Param]:
    return {
        "config": _text(
            "Config of a checkpoint",
            "The pipeline.config of a checkpoint of the original, or a zoo config's name. Empty: the one that lies beside it.",
            examples=ZOO_CONFIGS,
        ),
        "label_map": _text("Label map", "With the model's classes; `coco` is the zoo's. Empty: the model's own.", examples=["coco"]),
        "checkpoint": _text(
            "Checkpoint", "Which one of a model that was trained here: best, last, or its prefix. Empty: the best, or else the last."
        ),
    }


def _evaluation() -> dict[str, Param]:
    return {
        "split": _choice("Split", ["val", "test"], "The records to evaluate on. Empty: val.", empty="val"),
        "batch_size": _integer("Batch", "At which the model is timed, beside one image. Empty: as its config says.", 1, [1, 8]),
        "slices": _text("Attributes of images", "A CSV file by whose columns all figures are told apart. Empty: those in the records."),
    }


def _training() -> dict[str, Param]:
    return {
        "steps": _integer("Training steps", "Optimizer steps of each model. Empty: as the zoo config says.", 1, [500, 20000, 200000]),
        "batch_size": _integer("Images per step", "Over all GPUs together. Empty: as the zoo config says.", 1, [1, 2, 8]),
        "image_size": _integer(
            "Image size",
            "Short side in pixels after resizing; the long side follows the config's proportion. Empty: as the zoo config says.",
            32,
            [320, 640, 800],
        ),
        "learning_rate": _number(
            "Learning rate",
            "Above 0, reached after any warm-up; the config's other rates keep their proportion to it. Empty: as the zoo config says.",
            type="number",
            exclusiveMinimum=0,
            examples=[0.0001, 0.003],
        ),
        "precision": _choice(
            "Precision",
            ["auto", "float32", "tf32", "mixed_bfloat16", "mixed_float16"],
            "Numbers that the network computes in; its variables are float32. auto: what the GPU is made for, and float32 on a CPU; the "
            "task's log tells which. Empty: as the zoo config says, and auto where it says nothing.",
        ),
        "xla": _choice(
            "XLA",
            ["auto", "on", "off"],
            "Whether XLA compiles the networks. auto: on a GPU, where all images have one size. Empty: as the zoo config says, and auto "
            "where it says nothing.",
        ),
        "seeds": _lines(
            "Seeds",
            "Whole numbers, one a line: each config is trained once with each, in a folder CONFIG-seedN, and what another seed changes "
            "enters the comparison. Empty: once, with the config's seed.",
            "^(0|[1-9][0-9]*)?$",
        ),
        "evaluate_every": _text(
            "Evaluate every",
            "Steps between two evaluations of the validation split on the way, or a share of the training such as 10%: the best checkpoint "
            "is kept, and is what is evaluated, compared and exported. Empty: the last one is, and nothing is evaluated on the way.",
            pattern=r"^([1-9][0-9]*|0?\.[0-9]+|1\.0*|[0-9.]+%)?$",
            examples=["10%", "1000"],
        ),
        "patience": _integer(
            "Patience", "Evaluations without a better one after which a training ends. Empty: it goes on to its last step.", 1, [3, 5]
        ),
        "checkpoint": _text(
            "Checkpoint",
            "To start from: a checkpoint of the original by its prefix, folder or tarball, its frozen graph or SavedModel, a model "
            "trained here, or a folder that holds one for each chosen config, named as the zoo's are, such as that of a run. Empty: from "
            "scratch.",
        ),
        "checkpoint_label_map": _text(
            "Label map of the checkpoint",
            "With one, the heads are restored too, for the classes that both label maps name; `coco` is the zoo's. "
            "Empty: of a checkpoint of the original the backbone alone is restored; a model that was trained here brings its own.",
            examples=["coco"],
        ),
    }


def data_fields() -> dict[str, Param]:
    """How a data set is written."""
    return {
        "max_bad": _integer("Bad images", "How many that cannot become records may be left out and listed. Empty: none.", 0, [0, 10]),
        "shards": _integer("Shards", "Files of records for each split. Empty: one for 500 images.", 1, [1, 10, 100]),
        "workers": _integer("Processes", "How many write records on one machine. Empty: one.", 1, [1, 8]),
        "shard_ranges": _lines(
            "Ranges of shards",
            "FIRST:END, one a line, counted over all splits from 0: each is written by a task of its own, on whichever worker is free, "
            "and `materialize` joins them. Empty: one task writes all.",
            "^([0-9]+:[0-9]+)?$",
        ),
    }


def promotion_fields() -> dict[str, Param]:
    """What a promotion is about, and what it is held to."""
    return {
        "candidates": _lines(
            "Candidates",
            "Folders of models, or of pipeline runs whose best model it is, one a line. Empty only where an offer of a "
            "schedule's run starts this one: then it is what was offered.",
            r"^(\S.*)?$",
        ),
        "policy": _text("Policy", "YAML file of the rules that have to hold. Empty: configs/promotion.yaml."),
        "hours_to_answer": _integer("Hours to answer", "Without an answer until then the champion stays. Empty: 72.", 1, [24, 72, 168]),
    }


def champion_fields(dataset: str, values: Mapping[str, Any] | None = None) -> dict[str, Param]:
    """The data set whose champion is measured again, how its records are written (as `values` say), and when it has fallen."""
    written = data_fields()
    for name, param in written.items():
        param.value = (values or {}).get(name)
    return {
        "dataset": dataset_field(dataset),
        "split": _choice(
            "Split", ["test", "val"], "On which the champion is measured; `val` where the data has no test split. Empty: test.", "test"
        ),
        "allowed_fall": _number(
            "Allowed fall",
            "By how much the AP, from 0 to 1, may be lower than at its promotion. Empty: 0.02.",
            type="number",
            minimum=0,
            exclusiveMaximum=1,
            examples=[0.01, 0.02, 0.05],
        ),
        "registered_model": _text("Registered model", "As MLflow calls it. Empty: the data set's name."),
        **written,
    }


def _advanced() -> dict[str, Param]:
    return {
        "config_fields": _lines(
            "Fields of the pipeline.config",
            "PATH=VALUE, one a line, set in each chosen config; CONFIG: PATH=VALUE is set in that one alone. Empty: as the config says.",
            "^([^=]+=.+)?$",
        ),
        "proposals": _integer(
            "Proposals", "Boxes per image that reach the second stage. Empty: as the zoo config says, 300.", 1, [50, 300]
        ),
        "best_metric": _choice(
            "Best by",
            ["mask_ap", "mask_ap50", "box_ap", "box_ap50"],
            "What makes a checkpoint the best of those that are evaluated on the way. Empty: mask AP, and box AP where there are no masks.",
            empty="mask AP",
        ),
        "on_nan": _choice(
            "Steps that are no number",
            ["skip", "stop"],
            "What becomes of a step whose loss or gradient is infinite or NaN. skip: it changes nothing, its records are listed, and only "
            "many end the training; stop: the first does. Empty: skip.",
            empty="skip",
        ),
        "keep": _integer("Checkpoints to keep", "The newest ones of each training, beside the best. Empty: two.", 1, [1, 2, 5]),
        "max_bad_records": _integer(
            "Bad records",
            "How many that training cannot use it may leave out and list, instead of stopping at the first. Empty: none.",
            0,
            [0, 10],
        ),
    }


def _text(title: str, description: str, **schema: Any) -> Param:
    return Param(None, type=["null", "string"], title=title, description=description, **schema)


def _folder_name(title: str, description: str) -> Param:
    return _text(title, description, pattern="^([A-Za-z0-9_-][A-Za-z0-9._-]*)?$")


def _choice(title: str, values: list[str], description: str, empty: str = "as the zoo config says") -> Param:
    labels = {"null": empty}
    return Param(None, type=["null", "string"], enum=[None, *values], values_display=labels, title=title, description=description)


def _integer(title: str, description: str, minimum: int, examples: list[int]) -> Param:
    return _number(title, description, type="integer", minimum=minimum, examples=examples)


def _number(title: str, description: str, **schema: Any) -> Param:
    """A program may send "" for an empty number too. With examples, Airflow's form still shows a field for numbers."""
    schema["type"] = ["null", schema["type"], "string"]
    return Param(None, title=title, description=description, maxLength=0, **schema)


def _lines(title: str, description: str, pattern: str) -> Param:
    """One value a line; blank lines, which a text field easily gets, mean nothing."""
    return Param(None, type=["null", "array"], items={"type": "string", "pattern": pattern}, title=title, description=description)


def named_models(configs: Iterable[str], seeds: Iterable[str] | None) -> list[str]:
    """The models of a run, by the names of their folders: each config, or one for each seed of it."""
    numbers = list(dict.fromkeys(seed for seed in seeds or () if seed))
    return [f"{config}{_SEED}{seed}" for config in configs for seed in numbers] if numbers else list(configs)


def config_of(model: str) -> str:
    """The config of a model by its name."""
    return model.partition(_SEED)[0]


def seed_of(model: str) -> str:
    """The seed of a model by its name; "" where the config says it."""
    return model.partition(_SEED)[2]


def template(field: str) -> str:
    """The template of a field's value as a word of a command, empty where the field is.

    Templates are equal in every process; `dag.param(...)` in a mapped task would be serialized by its address in memory.
    """
    return f"{{{{ '' if params.{field} is none else params.{field} }}}}"


def lines_template(field: str) -> str:
    """The same of a field that holds several lines."""
    return f"{{{{ (params.{field} or []) | join('\\n') }}}}"


def unknown_fields(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A line for each name that is not known, with the nearest that is."""
    known = list(known)
    lines = []
    for name in sorted(set(given) - set(known)):
        nearest = difflib.get_close_matches(name, known, n=1)
        lines.append(f"`{name}`: " + (f"did you mean `{nearest[0]}`?" if nearest else f"the fields are {', '.join(known)}"))
    return lines
