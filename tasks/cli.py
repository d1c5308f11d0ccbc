"""The command line over the steps: `maskline STEP ...` or `python -m tasks STEP ...`.

Each command parses its options, imports its step only then, so that one which needs no TensorFlow does not pay for it,
and writes the step's result to `--result FILE` for whoever called it. The file is long because it is a list: a function for each command,
with its options and nothing else.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tasks.running.concealment import without_secrets
from tasks.running.errors import UserError
from tasks.running.failure import as_user_error, keep_traceback
from tasks.running.named_paths import dataset_folder, local_dataset, new_file, new_folder
from tasks.running.tensorflow_log import tensorflow_log
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, addressed, opened, workspace_root, write_text
from tasks.running.workspace_session import workspace_session

# Model Garden is written against Keras 2, which TensorFlow only hands out when told so before its import.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# NumPy multiplies no large matrices here; starting threads for that costs more than most commands do.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_LONGEST_MESSAGE = 500
_REFUSED = 3
"""The exit code of a model that is not promoted: no error, and nothing that another try would mend"""
_SET_HELP = "Set a field of the config; repeatable. `NAME: PATH=VALUE` sets it in the config NAME alone."

app = typer.Typer(
    name="maskline",
    help="Retrain the TensorFlow Mask R-CNN zoo: materialize, convert, train, evaluate, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def steps() -> None:
    """Keeps the step's name a word of the command line, however many steps there are."""


def finite(text: str | float) -> float:
    """The number that an option is given. No step can compare itself with `nan` or `inf`.

    Raises typer.BadParameter where the text is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is no finite number")
    return number


ResultOption = Annotated[
    Path | None,
    typer.Option(
        "--result", parser=new_file, metavar="FILE", help="Write the step's result (names, paths, small numbers) to this JSON file."
    ),
]


CheckpointOption = Annotated[
    str,
    typer.Option(metavar="last|best|PREFIX", help="By default the best that training has measured on its way, or else the last."),
]


OriginalConfigOption = Annotated[
    str,
    typer.Option(
        metavar="CONFIG",
        help="Of the original's checkpoint: its pipeline.config, or a zoo config's name; by default the one beside it.",
    ),
]


VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Show TensorFlow's own log too, instead of keeping it in the model folder's tensorflow.log.")
]


ConvertedDatasetOption = Annotated[
    DatasetDir | None,
    typer.Option(
        parser=local_dataset,
        metavar="FOLDER",
        help="Folder of a materialized dataset; by default the config keeps its own records and classes.",
    ),
]


AssignmentsOption = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help=_SET_HELP)]


StartOption = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint to start from: the original's by its prefix, folder or tarball, its frozen graph or SavedModel, a model that "
        "was trained here, or a folder of several named as zoo configs."
    ),
]


StartLabelMapOption = Annotated[
    str | None, typer.Option(help="Label map of the checkpoint, or `coco`: restores the heads, class by class.")
]


def _training_options(
    image_size: Annotated[int | None, typer.Option(help="Short side of the resized image, pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, over all GPUs.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(parser=finite, metavar="NUMBER", help="The rate after any warm-up; others keep their proportion.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, tf32, mixed_bfloat16, mixed_float16, or auto: what the GPU is made for, float32 on a CPU. "
            "By default what the config says, else auto."
        ),
    ] = None,
    xla: Annotated[
        str | None,
        typer.Option(help="Whether XLA compiles the networks: on, off, or auto (the default): on a GPU where all images have one size."),
    ] = None,
    proposals: Annotated[int | None, typer.Option(help="Proposals per image at inference, and at most sampled in training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initial weights, order and sampling.")] = None,
    evaluate_every: Annotated[
        str | None,
        typer.Option(
            metavar="N|SHARE",
            help="Evaluate the validation split on the way: every N steps, or every such share of the training (0.1, 10%); by default not.",
        ),
    ] = None,
    best_metric: Annotated[
        str | None, typer.Option(help="By which the best checkpoint is kept; by default mask AP, and box AP where there are no masks.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better one after which training ends; by default none.")
    ] = None,
    on_nan: Annotated[
        str | None,
        typer.Option(help="skip (the default) a step whose loss or gradient is no number, within bounds, or stop at the first."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Let every operation give the same bits in every run; slower, above all on a GPU.")
    ] = False,
    max_bad_records: Annotated[int | None, typer.Option(help="Records that may be left out because training cannot use them.")] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints that stay, the newest ones, beside the best; by default 2.")] = None,
    grace_seconds: Annotated[
        float | None,
        typer.Option(
            parser=finite, metavar="NUMBER", help="Time from SIGTERM to the process's end, in which a checkpoint is written; by default 30."
        ),
    ] = None,
) -> None:
    """The options that are fields of `Overrides`, by their names; never called."""


def _takes_overrides(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options in place of its parameter `overrides`, which gets their values by name."""
    own, options = (inspect.signature(function, eval_str=True).parameters for function in (command, _training_options))
    parameters = [one for name in own for one in (options.values() if name == "overrides" else [own[name]])]

    @functools.wraps(command)
    def parsed(**values: Any) -> None:
        overrides = {name: values.pop(name) for name in options}
        command(**values, overrides=overrides)

    # Typer reads both.
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {one.name: one.annotation for one in parameters}
    return parsed


@contextmanager
def _trained_in(folder: Path, verbose: bool, worker: int = 0) -> Iterator[ModelDir]:
    """The folder of a model, for a step that runs its network; within the block TensorFlow's log goes there too."""
    model = ModelDir(folder.absolute())
    if not model.root.is_dir():
        raise UserError(f"{folder} is not a folder", "name the folder of a model, as `maskline convert` made it")
    with tensorflow_log(None if verbose else model.tensorflow_log_of(worker)):
        yield model


def answer(result: StepResult, result_file: Path | None) -> None:
    """Prints one closing line and writes the result file where the caller asked for one."""
    print(f"{result.step}: {result.status}")
    for name, path in result.outputs.items():
        print(f"  {name}: {path}")
    if result_file is not None:
        write_text(result_file, addressed(result.to_json_text()))


@app.command("convert")
def convert_command(
    config: Annotated[str, typer.Argument(help="Name of a zoo config, or path of a pipeline.config.")],
    dataset: ConvertedDatasetOption = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Folder of the model: receives pipeline.config and experiment.yaml."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be different, and write nothing.")] = False,
    reverse: Annotated[bool, typer.Option("--reverse", help="Take the masks away: back to Faster R-CNN.")] = False,
    assignments: AssignmentsOption = None,
    mask_type: Annotated[
        str, typer.Option(help="How the records store masks: png or numerical; auto asks the dataset, or looks into the config's records.")
    ] = "auto",
    mask_height: Annotated[int | None, typer.Option(help="Rows of a predicted mask.")] = None,
    mask_width: Annotated[int | None, typer.Option(help="Columns of a predicted mask.")] = None,
    mask_conv_depth: Annotated[
        int | None, typer.Option(help="Channels of the mask branch; 0 derives them from the number of classes.")
    ] = None,
    mask_conv_layers: Annotated[int | None, typer.Option(help="Convolutions of the mask branch, counting the last.")] = None,
    original_padded_masks: Annotated[
        bool,
        typer.Option("--original-padded-masks", help="Predict masks of padded images where the original did: docs/parity.md."),
    ] = False,
    checkpoint: StartOption = None,
    checkpoint_label_map: StartLabelMapOption = None,
    checkpoint_type: Annotated[str | None, typer.Option(help="classification, detection or full; by default what the config says.")] = None,
    all_checkpoint_variables: Annotated[
        bool, typer.Option("--all-checkpoint-variables", help="Restore the heads too, where their shapes are equal.")
    ] = False,
    result: ResultOption = None,
) -> None:
    """Make a pipeline.config a Mask R-CNN experiment on a dataset."""
    if output is None and not dry_run:
        raise UserError("there is no --output", "name the model's folder, or give --dry-run, which writes nothing")
    from tasks.convert import convert
    from tasks.pipeline_config.edits import MaskBranch
    from tasks.pipeline_config.fine_tuning import StartingPoint

    branch = MaskBranch(mask_height, mask_width, mask_conv_depth, mask_conv_layers)
    start = StartingPoint(checkpoint, checkpoint_type, all_checkpoint_variables, checkpoint_label_map)
    answer(
        convert(
            config,
            dataset,
            ModelDir(output) if output and not dry_run else None,
            assignments=assignments or (),
            branch=branch,
            start=start,
            mask_type=mask_type,
            reverse=reverse,
            original_padded_masks=original_padded_masks,
        ),
        result,
    )


@app.command("lint")
def lint_command(
    config: Annotated[str, typer.Argument(help="Name of a zoo config, or path of a pipeline.config.")],
    dataset: Annotated[
        DatasetDir | None,
        typer.Option(
            parser=local_dataset,
            metavar="FOLDER",
            help="Folder of a materialized dataset, whose records and label map stand for the config's own.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 1 on warnings too.")] = False,
    result: ResultOption = None,
) -> None:
    """Look for mistakes in a pipeline.config and its data; ends with code 1 when there is an error."""
    from tasks.lint import lint_config

    found = lint_config(config, dataset)
    answer(found, result)
    if found.summary["errors"] or (strict and found.summary["warnings"]):
        raise typer.Exit(1)


@app.command("shapes")
def shapes_command(
    folder: Annotated[
        Path, typer.Argument(parser=new_folder, metavar="FOLDER", help="Folder that receives images, COCO JSON and dataset.yaml.")
    ],
    train: Annotated[int, typer.Option(help="Training images.")] = 48,
    val: Annotated[int, typer.Option(help="Validation images.")] = 16,
    test: Annotated[int, typer.Option(help="Images that are kept from training.")] = 0,
    height: Annotated[int, typer.Option(help="Rows of an image.")] = 480,
    width: Annotated[int, typer.Option(help="Columns of an image.")] = 640,
    seed: Annotated[int, typer.Option(help="The same seed draws the same scenes.")] = 0,
    most_objects: Annotated[int, typer.Option(help="Objects that are laid into an image, at most.")] = 7,
    smallest_radius: Annotated[
        float, typer.Option(parser=finite, metavar="NUMBER", help="Of an object, as a share of the image's shorter side.")
    ] = 0.055,
    largest_radius: Annotated[float, typer.Option(parser=finite, metavar="NUMBER", help="Likewise; up to 0.5.")] = 0.3,
    coloured_classes: Annotated[bool, typer.Option("--coloured-classes", help="Give each class a hue of its own.")] = False,
    result: ResultOption = None,
) -> None:
    """Draw the embedded dataset: lit, overlapping objects of four classes, with exact masks."""
    from tasks.shapes.dataset import ShapesConfig, shapes

    config = ShapesConfig(train, val, height, width, seed, test, most_objects, smallest_radius, largest_radius, coloured_classes)
    answer(shapes(config, folder), result)


@app.command("materialize")
def materialize_command(
    dataset: Annotated[str, typer.Argument(help="YAML file that names images and annotations, path or URL; or a folder of them.")],
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Folder or URL of the records; by default the workspace's, by the name."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="0.8/0.1/0.1", help="Shares of train, val and test, by a hash of the image's content.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Images of each split, the first ones.")] = None,
    only_categories: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Categories to keep, after renaming.")] = None,
    remap_categories: Annotated[Path | None, typer.Option(help="YAML file of `old name: new name`; null leaves a category out.")] = None,
    empty: Annotated[
        bool | None, typer.Option("--include-empty/--drop-empty", help="Whether images without objects stay; by default they do.")
    ] = None,
    crowds: Annotated[str | None, typer.Option(help="keep (the default: marked, as the original does), drop, or objects.")] = None,
    mask_type: Annotated[str | None, typer.Option(help="How masks are stored: png (the default) or numerical.")] = None,
    objects_without_mask: Annotated[
        str | None, typer.Option(help="refuse (the default: their image is quarantined) or drop, where only boxes were drawn.")
    ] = None,
    duplicate_images: Annotated[str | None, typer.Option(help="drop (the default) or keep second copies of an image in a split.")] = None,
    corrections: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="COCO JSON with all objects of some images, laid over what the dataset says of them: what `maskline review` proposed, "
            "reviewed; repeatable, a later file counts.",
        ),
    ] = None,
    shards: Annotated[int | None, typer.Option(help="Shards for each split; by default one for 500 images.")] = None,
    shard_range: Annotated[
        str | None, typer.Option(metavar="A:B", help="Write these shards alone, counted over all splits; a run without it joins all.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; the bytes are the same for any number.")] = 1,
    max_bad: Annotated[
        str,
        typer.Option(
            metavar="N,CODE=N", help="Images that may be quarantined before the run fails; for a code, how often it may be found."
        ),
    ] = "0",
    result: ResultOption = None,
) -> None:
    """Turn images and annotations into TFRecords with a mask for every box.

    What the options choose can be said in the YAML too, by the same names; an option given here counts instead of it.
    """
    from tasks.annotations.record_choice import COMMAND_LINE, parse_limits, parse_range, read_options
    from tasks.materialize import Effort, materialize
    from tasks.running.workspace import located

    given = {
        "split": split,
        "limit": limit,
        "only_categories": only_categories,
        "remap_categories": remap_categories,
        "empty": None if empty is None else "include" if empty else "drop",
        "crowds": crowds,
        "mask_type": mask_type,
        "objects_without_mask": objects_without_mask,
        "duplicate_images": duplicate_images,
        "corrections": corrections or None,
    }
    options = read_options({key: value for key, value in given.items() if value is not None}, COMMAND_LINE, Path.cwd())
    images, by_code = parse_limits(max_bad)
    effort = Effort(shards, workers, images, parse_range(shard_range) if shard_range else None, by_code)
    answer(materialize(located(dataset), output, options, effort), result)


@app.command("preflight")
def preflight_command(
    dataset: Annotated[str, typer.Argument(help="YAML file that names images and annotations: path or URL.")],
    configs: Annotated[
        list[str] | None, typer.Option("--config", help="Name of a zoo config, or path of a pipeline.config; repeatable.")
    ] = None,
    assignments: AssignmentsOption = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint to start from, as `convert` takes it.")] = None,
    checkpoint_label_map: Annotated[str | None, typer.Option(help="Label map of the checkpoint, as `convert` takes it.")] = None,
    shard_ranges: Annotated[
        list[str] | None, typer.Option("--shard-range", metavar="A:B", help="Shards that one task writes; repeatable.")
    ] = None,
    evaluate_into: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Where `evaluate` will write; what follows is evaluated, as it takes it."),
    ] = None,
    predictor: Annotated[Path | None, typer.Option(help="The model.")] = None,
    results: Annotated[Path | None, typer.Option(help="The file of detections.")] = None,
    predictor_config: Annotated[str, typer.Option(help="The model's config.")] = "",
    predictor_label_map: Annotated[str, typer.Option(help="The model's label map.")] = "",
    predictor_checkpoint: Annotated[str, typer.Option(help="The model's checkpoint.")] = "",
    slices: Annotated[Path | None, typer.Option(help="The file with attributes of images.")] = None,
    result: ResultOption = None,
) -> None:
    """Look at what a pipeline run is asked for, before anything of it is written."""
    from tasks.pipeline_config.fine_tuning import StartingPoint
    from tasks.preflight import Evaluated, preflight
    from tasks.running.workspace import located

    start = StartingPoint(checkpoint=checkpoint, label_map=checkpoint_label_map)
    evaluated = None
    if evaluate_into is not None:
        of_model = (predictor_config, predictor_label_map, predictor_checkpoint)
        evaluated = Evaluated(ModelDir(evaluate_into), predictor, results, *of_model, slices)
    elif predictor or results or slices:
        raise UserError("--predictor, --results and --slices are of an evaluation", "name its folder with --evaluate-into")
    answer(
        preflight(
            located(dataset),
            configs or (),
            assignments=assignments or (),
            start=start,
            shard_ranges=shard_ranges or (),
            evaluated=evaluated,
        ),
        result,
    )


@app.command("inspect")
def inspect_command(
    dataset: Annotated[
        DatasetDir, typer.Argument(parser=dataset_folder, metavar="FOLDER", help="Folder or URL of a materialized dataset.")
    ],
    against: Annotated[str | None, typer.Option(help="An earlier dataset, or its manifest: tells what has changed since.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Folder or URL that receives index.html; by default the dataset's."),
    ] = None,
    result: ResultOption = None,
) -> None:
    """Show what a dataset holds, what was found in it and how it has changed, with pictures."""
    from tasks.inspect import inspect
    from tasks.running.workspace import located

    answer(inspect(dataset, located(against) if against else None, output), result)


@app.command("check")
def check_command(
    dataset: Annotated[str, typer.Argument(help="Folder or URL of a materialized dataset, or a path or pattern of records.")],
    label_map: Annotated[str | None, typer.Option(help="Label map of records that are no materialized dataset.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    result: ResultOption = None,
) -> None:
    """Look for faults in records that are there; ends with code 1 when one of them is unfit to train on."""
    from tasks.check import check

    found = check(dataset, label_map, workers)
    answer(found, result)
    if found.summary["bad"]:
        raise typer.Exit(1)


@app.command("transcode")
def transcode_command(
    dataset: Annotated[str, typer.Argument(help="Folder or URL of a materialized dataset, or a path or pattern of records.")],
    mask_type: Annotated[str, typer.Option(help="How masks are to be stored: png or numerical.")],
    output: Annotated[Path, typer.Option(parser=new_folder, metavar="FOLDER", help="Folder or URL of the new records.")],
    label_map: Annotated[str | None, typer.Option(help="Label map to put beside records that have none.")] = None,
    result: ResultOption = None,
) -> None:
    """Store the masks of records in the other form, and leave all else as it is."""
    from tasks.transcode import transcode

    answer(transcode(dataset, mask_type, output, label_map), result)


@app.command("profile-input")
def profile_input_command(
    target: Annotated[
        str, typer.Argument(help="Folder of a converted model, folder or URL of a materialized dataset, or a path or pattern of records.")
    ],
    label_map: Annotated[str | None, typer.Option(help="Label map of records that are no materialized dataset.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step; by default the config's, or 1.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Short side of the resized image, pixels; by default the config's, or 800.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images that are looked at stage by stage.")] = 64,
    seconds: Annotated[float, typer.Option(parser=finite, metavar="NUMBER", help="How long the whole pipeline is run.")] = 10.0,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Measure where the time of a training's input goes, and say what to change first."""
    from tasks.running.tensorflow_log import tensorflow_log

    with tensorflow_log(None if verbose else Path(os.devnull)):
        from tasks.profile_input import profile_input
        from tasks.training.overrides import Overrides

        overrides = Overrides(batch_size=batch_size, image_size=image_size)
        answer(profile_input(target, label_map, overrides, images, seconds), result)


@app.command("train")
@_takes_overrides
def train_command(
    model: Annotated[Path, typer.Argument(help="Folder of a converted model.")],
    overrides: Mapping[str, Any],
    strategy: Annotated[
        str | None,
        typer.Option(help="one_device, mirrored (all GPUs of the machine) or multi_worker_mirrored; by default as there are devices."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of this machine, the first ones; by default all.")] = None,
    worker_hosts: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,...", help="Address of every worker; each runs this command, with a --task-index of its own."),
    ] = None,
    task_index: Annotated[int | None, typer.Option(help="Which of them this one is, from 0, the chief. TF_CONFIG says both, too.")] = None,
    all_reduce_alg: Annotated[
        str | None, typer.Option(help="How gradients are summed: nccl; hierarchical_copy on one machine, ring on several.")
    ] = None,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Train a converted model, or go on with it."""
    from tasks.training.cluster import configured_cluster

    cluster = configured_cluster(worker_hosts, task_index)
    with _trained_in(model, verbose, cluster.index if cluster else 0) as folder:
        from tasks.train import train
        from tasks.training.devices import Devices
        from tasks.training.overrides import Overrides

        devices = Devices(strategy, gpus, all_reduce_alg)
        answer(train(folder, Overrides(**overrides), devices, cluster), result)


@app.command("plan")
@_takes_overrides
def plan_command(
    model: Annotated[Path, typer.Argument(help="Folder of a converted model; with --output, a config as `convert` takes it.")],
    overrides: Mapping[str, Any],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=new_folder,
            metavar="FOLDER",
            help="Folder that the config's model will have: receives plan.json; nothing is converted.",
        ),
    ] = None,
    dataset: ConvertedDatasetOption = None,
    assignments: AssignmentsOption = None,
    checkpoint: StartOption = None,
    checkpoint_label_map: StartLabelMapOption = None,
    device: Annotated[
        str | None, typer.Option(envvar="MASKLINE_PLAN_DEVICE", help="Where it will run, such as h100 or a100; by default this machine.")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(parser=finite, metavar="NUMBER", help="Peak of products of another device, TFLOP/s.")
    ] = None,
    memory: Annotated[float | None, typer.Option(parser=finite, metavar="NUMBER", help="Memory of one device, GB.")] = None,
    devices: Annotated[int | None, typer.Option(help="Such devices, over which a batch is split; by default those here, or one.")] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(parser=finite, metavar="NUMBER", envvar="MASKLINE_PRICE_PER_HOUR", help="Of all devices together, in any currency."),
    ] = None,
    count_only: Annotated[bool, typer.Option("--count-only", help="Run nothing: count what a step computes, moves and holds.")] = False,
    time_limit: Annotated[float, typer.Option(parser=finite, metavar="NUMBER", help="Seconds for running a few steps here.")] = 180,
    memory_limit: Annotated[
        float | None, typer.Option(parser=finite, metavar="NUMBER", help="GB that they may take; by default 80 percent of what is free.")
    ] = None,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Tell memory, time and cost of a training before it takes a machine."""
    conversion = {"--dataset": dataset, "--set": assignments, "--checkpoint": checkpoint, "--checkpoint-label-map": checkpoint_label_map}
    if output is None and (given := [name for name, value in conversion.items() if value]):
        raise UserError(
            f"{given[0]} is for a config, and without --output {model} is a model", "name the folder that the model will have with --output"
        )
    with ExitStack() as block:
        experiment = None
        if output is not None:
            from tasks.convert import would_be_experiment
            from tasks.pipeline_config.fine_tuning import StartingPoint

            start = StartingPoint(checkpoint, label_map=checkpoint_label_map)
            experiment = block.enter_context(would_be_experiment(str(model), dataset, assignments or (), start))
            output.mkdir(parents=True, exist_ok=True)
        folder = block.enter_context(_trained_in(output or model, verbose))
        from tasks.plan import plan
        from tasks.planning.devices import Machine
        from tasks.planning.measured_step import Limits
        from tasks.training.overrides import Overrides

        limits = None if count_only else Limits(time_limit, memory_limit)
        machine = Machine(device, flops, memory, devices)
        answer(plan(folder, Overrides(**overrides), machine, price_per_hour, limits, experiment_file=experiment), result)


@app.command("replay")
def replay_command(
    model: Annotated[Path, typer.Argument(help="Folder of a model that was trained, or whose training was stopped.")],
    step: Annotated[int, typer.Argument(help="Of the training, counted from 1: one that was skipped, or any other.")],
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Take one step of a training again, and tell which image, loss or gradient is no number."""
    with _trained_in(model, verbose) as folder:
        from tasks.replay import replay

        answer(replay(folder, step), result)


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model; with --results or --predictor, a new folder.")],
    split: Annotated[
        str, typer.Option(help="val, by which models are compared, or test, which is kept for the end and has a folder of its own.")
    ] = "val",
    workers: Annotated[
        int | None, typer.Option(help="Processes beside the network's; by default one for each two processors, up to eight.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at once, by default the config's eval_config.batch_size, and on a GPU eight at least.")
    ] = None,
    shard_range: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Evaluate these of the split's files of records alone; a run without it joins all."),
    ] = None,
    checkpoint: CheckpointOption = "",
    slices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file with attributes of images, by which all figures are told apart.")
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            metavar="best-f1|precision=P",
            help="How each category's score is chosen from which detections are taken: best-f1 (the default), or the lowest with a "
            "precision of at least P.",
        ),
    ] = None,
    from_matches: Annotated[
        bool, typer.Option("--from-matches", help="Derive the figures again from what an evaluation has stored, without the model.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Evaluate the detections in this file, in COCO's results format, on --dataset.")
    ] = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Evaluate this model on --dataset: a trained or exported one, a SavedModel, an ONNX file, or the original's checkpoint.",
        ),
    ] = None,
    config: OriginalConfigOption = "",
    label_map: Annotated[
        str | None, typer.Option(help="Label map with the --predictor's classes, or `coco`; by default the model's own.")
    ] = None,
    dataset: Annotated[
        DatasetDir | None,
        typer.Option(parser=local_dataset, metavar="FOLDER", help="Folder of the materialized dataset for --results or --predictor."),
    ] = None,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Export the model into MLflow's registry, whose versions can be promoted.")
    ] = True,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Measure COCO mask, box and boundary AP of a model, or of detections in a file, and show where they fail."""
    from tasks.annotations.record_choice import parse_range
    from tasks.annotations.split_names import TEST, split_meaning
    from tasks.evaluation.thresholds import parse_rule

    rule = parse_rule(operating_point) if operating_point else None
    if rule is not None and split_meaning(split) == TEST:
        raise UserError("--operating-point chooses on the validation records, and --split test chooses nothing", "leave one of them out")
    if predictor is None and (config or label_map):
        raise UserError("--config and --label-map are a --predictor's", "name the model with --predictor, or leave them out")
    if results is not None and predictor is not None:
        raise UserError("--results and --predictor are two things to evaluate", "give one of them")
    if (results is None and predictor is None) != (dataset is None):
        raise UserError("--results or --predictor and --dataset go together", "give what is to be evaluated, and the dataset that it is of")
    if dataset is not None:
        from tasks.evaluate import Effort, evaluate_predictor, evaluate_results

        folder, effort = ModelDir(new_folder(str(model)).absolute()), Effort(workers, batch_size, slices=slices, rule=rule)
        if results is not None:
            answer(evaluate_results(folder, results, dataset, split, effort), result)
        elif predictor is not None:
            how = {"checkpoint": checkpoint, "config": config, "label_map": label_map or ""}
            answer(evaluate_predictor(folder, predictor, dataset, split, effort, **how), result)
        return
    with _trained_in(model, verbose) as folder:
        from tasks.evaluate import Effort, evaluate, evaluate_from_matches

        if from_matches:
            answer(evaluate_from_matches(folder, split, slices, rule), result)
            return
        effort = Effort(workers, batch_size, parse_range(shard_range) if shard_range else None, slices, rule)
        answer(evaluate(folder, split, effort, checkpoint, register=register), result)


@app.command("reproduce")
def reproduce_command(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model, or of a run of several.")],
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Run folder of what is trained again; by default RUN-reproduced beside it."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Take only so many again, and compare no final metrics.")] = None,
    tolerance: Annotated[float, typer.Option(parser=finite, metavar="NUMBER", help="Of a loss, over the step's total loss.")] = 1e-4,
    metric_tolerance: Annotated[float, typer.Option(parser=finite, metavar="NUMBER", help="Of a final metric.")] = 0.002,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what differs now from then, and train nothing.")] = False,
    result: ResultOption = None,
) -> None:
    """Train again what was trained, and tell how far it agrees; ends with code 1 where it does not."""
    from tasks.reproduce import Tolerance, reproduce

    found = reproduce(run, output, steps, Tolerance(tolerance, metric_tolerance), dry_run=dry_run)
    answer(found, result)
    if not found.summary["agrees"]:
        raise typer.Exit(1)


@app.command("export")
def export_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    input_type: Annotated[
        str, typer.Option(help="image_tensor, or of a SavedModel encoded_image_string_tensor or tf_example.")
    ] = "image_tensor",
    file_format: Annotated[
        str, typer.Option("--format", help="saved_model, onnx or mlflow; tflite is refused, with the reason.")
    ] = "saved_model",
    signature: Annotated[str, typer.Option(help="What the input is called: tf1, `inputs`, or tf2, `input_tensor`.")] = "tf1",
    image_size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="The one size of the images of an ONNX file, one at a time; by default any.")
    ] = None,
    checkpoint: CheckpointOption = "",
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Write a trained model as others load it: a SavedModel, an ONNX file, or a model that MLflow serves."""
    with _trained_in(model, verbose) as folder:
        from tasks.export import Choice, export, parse_size

        choice = Choice(input_type, file_format, signature, parse_size(image_size) if image_size else None)
        answer(export(folder, choice, checkpoint), result)


@app.command("predict")
def predict_command(
    model: Annotated[
        Path, typer.Argument(help="Folder of a trained or exported model, of a SavedModel, an ONNX file, or the original's checkpoint.")
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Image files, folders, patterns, and .txt files with a path in each line.")
    ],
    output: Annotated[Path, typer.Option(parser=new_folder, metavar="FOLDER", help="Folder that receives pictures and results.")],
    min_score: Annotated[
        float | None,
        typer.Option(parser=finite, metavar="NUMBER", help="Detections of a lower score are left out; 0 keeps all. By default 0.5."),
    ] = None,
    thresholds: Annotated[
        str | None,
        typer.Option(
            metavar="own|FILE",
            help="Leave out what scores less than its category's operating threshold instead: own, those that the model's evaluation has "
            "chosen or its export brings, or those in a thresholds.json.",
        ),
    ] = None,
    label_map: Annotated[Path | None, typer.Option(help="Label map with the classes' names; by default the model's own.")] = None,
    checkpoint: CheckpointOption = "",
    config: OriginalConfigOption = "",
    polygons: Annotated[bool, typer.Option("--polygons", help="Write masks as polygons instead of run-length codes.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw what was found.")] = True,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Show what a model finds on pictures: drawn, and as a COCO results file."""
    with tensorflow_log(None if verbose else Path(os.devnull)):
        from tasks.predict import Options, predict

        if thresholds is not None and min_score is not None:
            raise UserError("--min-score and --thresholds both say what is left out", "give one of them")
        options = Options(Options.min_score if min_score is None else min_score, polygons, pictures, thresholds)
        answer(predict(model, images, output, options, label_map, checkpoint, config), result)


@app.command("adopt")
def adopt_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of an Object Detection API project; nothing is written there.")],
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Run folder; by default the workspace's, by the project's name."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="The pipeline.config to take where there are several, or none: a path, or a zoo config's name.")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure the old model on its own records at once.")] = False,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Make a run of an old project's folder: what is there, what is missing, and how the work goes on."""
    from tasks.running.tensorflow_log import tensorflow_log

    with tensorflow_log(None if verbose else Path(os.devnull)):
        from tasks.adopt import adopt

        adopted = adopt(folder, output, config, evaluate=evaluate)
    answer(adopted, result)
    print("go on with\n  " + "\n  ".join(adopted.summary["commands"]))


CandidateArgument = Annotated[
    Path, typer.Argument(metavar="RUN|MODEL", help="Folder of a model, or of a pipeline run, whose best model it is.")
]
PolicyOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Rules that have to hold; by default configs/promotion.yaml.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it is kept with the decision.")]
ApproverOption = Annotated[str, typer.Option(metavar="NAME", help="Who decides; by default the user who runs this.")]


@app.command("nominate")
def nominate_command(target: CandidateArgument, policy: PolicyOption = None, result: ResultOption = None) -> None:
    """Find which model a promotion is about, and on which split the policy wants it measured."""
    from tasks.nominate import nominate
    from tasks.promotion.policy import read_policy, shipped_policy

    answer(nominate(target, read_policy(policy or shipped_policy())), result)


@app.command("promote")
def promote_command(
    target: CandidateArgument,
    reason: ReasonOption = "",
    approved_by: ApproverOption = "",
    policy: PolicyOption = None,
    name: Annotated[str, typer.Option(help="The registered model in MLflow; by default the dataset's name.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the rules say, and decide nothing.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Refuse where a rule fails; where all hold, leave the decision to a person.")
    ] = False,
    decline: Annotated[bool, typer.Option("--decline", help="Record that a person keeps the champion.")] = False,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Make an evaluated model the champion, if it shows what the policy asks for; ends with code 3 when it does not."""
    if dry_run + gate + decline > 1:
        raise UserError("--dry-run, --gate and --decline are different things to do", "give one of them")
    with tensorflow_log(None if verbose else Path(os.devnull)):
        from tasks.promote import Approval, promote
        from tasks.promotion.ledger import confirm_reason, user
        from tasks.promotion.policy import read_policy, shipped_policy

        if not dry_run:
            confirm_reason(reason)
        approval = None if dry_run else Approval(approved_by or user(), reason, decline, gate)
        promoted = promote(target, read_policy(policy or shipped_policy()), approval, name)
    answer(promoted, result)
    if promoted.status == "refused" and not decline:
        raise typer.Exit(_REFUSED)


@app.command("reassess")
def reassess_command(
    dataset: Annotated[
        DatasetDir, typer.Argument(parser=local_dataset, metavar="FOLDER", help="Folder of the dataset, materialized anew.")
    ],
    name: Annotated[str, typer.Option(help="The registered model in MLflow; by default the dataset's name.")] = "",
    split: Annotated[str, typer.Option(help="test, or val where the dataset has no other.")] = "test",
    allowed_fall: Annotated[
        float, typer.Option(parser=finite, metavar="NUMBER", help="By how much its AP may be lower than at its promotion.")
    ] = 0.02,
    verbose: VerboseOption = False,
    result: ResultOption = None,
) -> None:
    """Measure the champion again on the newest records, and tell whether it has fallen and how the data has drifted."""
    with tensorflow_log(None if verbose else Path(os.devnull)):
        from tasks.reassess import reassess

        answer(reassess(DatasetDir(dataset.root.absolute()), name, split, allowed_fall), result)


@app.command("rollback")
def rollback_command(
    name: Annotated[str, typer.Argument(help="The registered model in MLflow: the dataset's name.")],
    reason: ReasonOption = "",
    approved_by: ApproverOption = "",
    result: ResultOption = None,
) -> None:
    """Give the champion's place back to the version before it."""
    from tasks.promotion.ledger import confirm_reason, user
    from tasks.rollback import rollback

    confirm_reason(reason)
    answer(rollback(name, approved_by or user(), reason), result)


@app.command("open-run")
def open_run_command(
    run: Annotated[Path, typer.Argument(parser=new_folder, metavar="FOLDER", help="Folder of the pipeline run.")],
    dataset: Annotated[DatasetDir, typer.Option(parser=local_dataset, metavar="FOLDER", help="Folder of a materialized dataset.")],
    result: ResultOption = None,
) -> None:
    """Open a pipeline run: the parent of its models in MLflow."""
    from tasks.open_run import open_run
    from tasks.running.workspace import RunDir

    answer(open_run(RunDir(run.absolute()), DatasetDir(dataset.root.absolute())), result)


@app.command("recall")
def recall_command(
    schedule: Annotated[str, typer.Argument(help="Name of the schedule.")],
    run: Annotated[Path, typer.Argument(parser=new_folder, metavar="FOLDER", help="Folder of the pipeline run that would be next.")],
    dataset: Annotated[DatasetDir, typer.Option(parser=local_dataset, metavar="FOLDER", help="Folder of a materialized dataset.")],
    configs: Annotated[list[str], typer.Option("--config", help="Name of a zoo config, or path of a pipeline.config; repeatable.")],
    settings: Annotated[
        list[str] | None, typer.Option("--setting", metavar="NAME=VALUE", help="A field of the run, as the form calls it; repeatable.")
    ] = None,
    from_last_good_run: Annotated[bool, typer.Option("--from-last-good-run", help="Start from its weights.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Train though nothing has changed.")] = False,
    result: ResultOption = None,
) -> None:
    """Ask whether a scheduled run would train anything new, and where it would start from."""
    from tasks.recall import recall
    from tasks.running.workspace import RunDir

    for setting in settings or ():
        if "=" not in setting:
            raise UserError(f"--setting is {setting!r}", "write NAME=VALUE")
    values = dict(setting.split("=", 1) for setting in settings or ())
    answer(
        recall(schedule, RunDir(run.absolute()), dataset, configs, values, from_last_good_run=from_last_good_run, force=force),
        result,
    )


@app.command("remember")
def remember_command(
    schedule: Annotated[str, typer.Argument(help="Name of the schedule.")],
    run: Annotated[Path, typer.Argument(help="Folder of the pipeline run that ended well.")],
    result: ResultOption = None,
) -> None:
    """Make a finished run the last good one of its schedule."""
    from tasks.remember import remember
    from tasks.running.workspace import RunDir

    answer(remember(schedule, RunDir(run.absolute())), result)


@app.command("compare")
def compare_command(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_MODEL...", help="Folder of a pipeline run; or several, of runs or of evaluated models.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(parser=new_folder, metavar="FOLDER", help="Folder of the comparison of several; a run keeps its own in compare/."),
    ] = None,
    before: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder of an earlier run, of other data: says what these gained by the new labels.")
    ] = None,
    result: ResultOption = None,
) -> None:
    """Set models side by side: which differences in accuracy are real, size and speed."""
    from tasks.compare import compare, compare_models
    from tasks.running.workspace import RunDir

    if len(run) > 1 or output is not None:
        if before is not None:
            raise UserError("--before is for the comparison of one run", "compare that run alone, or use `maskline regrade` on two models")
        answer(compare_models([folder.absolute() for folder in run], output and output.absolute()), result)
        return
    answer(compare(RunDir(run[0].absolute()), RunDir(before.absolute()) if before else None), result)


@app.command("review")
def review_command(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_MODEL...", help="Folders of pipeline runs or of evaluated models, two models at least.")
    ],
    output: Annotated[Path, typer.Option(parser=new_folder, metavar="FOLDER", help="Folder that receives the page and the files.")],
    split: Annotated[str, typer.Option(help="val or test: which the models were evaluated on.")] = "val",
    dataset_yaml: Annotated[
        str | None,
        typer.Option(metavar="DATASET.yaml", help="What was materialized: its COCO JSON's annotations stay as they are, with their ids."),
    ] = None,
    min_score: Annotated[
        float, typer.Option(parser=finite, metavar="NUMBER", help="The score from which a model is sure of a detection.")
    ] = 0.5,
    doubts: Annotated[int, typer.Option(help="Labels in doubt that the queue has at most, the surest.")] = 50,
    images: Annotated[int, typer.Option(help="Images that would teach most, at most.")] = 12,
    result: ResultOption = None,
) -> None:
    """Say what to do next with the data: labels that all models contradict, and images that would teach most."""
    from tasks.review import Options, review
    from tasks.running.workspace import located

    described = located(dataset_yaml) if dataset_yaml is not None else None
    answer(review([one.absolute() for one in run], output.absolute(), split, Options(min_score, doubts, images), described), result)


@app.command("regrade")
def regrade_command(
    before: Annotated[Path, typer.Argument(help="Folder of a model, or a run, from before the labels were corrected.")],
    after: Annotated[Path, typer.Argument(help="Folder of a model, or a run, from after it.")],
    split: Annotated[str, typer.Option(help="val or test: which both were evaluated on.")] = "val",
    output: Annotated[
        Path | None, typer.Option(parser=new_folder, metavar="FOLDER", help="Folder that receives the same as regraded.json.")
    ] = None,
    result: ResultOption = None,
) -> None:
    """Say what corrected labels gained: both models on the same images, by the labels of the second."""
    from tasks.regrade import regrade

    answer(regrade(before.absolute(), after.absolute(), split, output and output.absolute()), result)


@app.command("sync")
def sync_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a pipeline run, or of a model.")],
    result: ResultOption = None,
) -> None:
    """Give MLflow what it has missed of a run; ends with code 1 when it refuses some of it."""
    from tasks.sync import sync

    sent = sync(folder.absolute())
    answer(sent, result)
    if sent.summary["refused"]:
        raise typer.Exit(1)


@app.command("gc")
def gc_command(
    older_than: Annotated[str, typer.Option(metavar="TIME", help="What was written to later stays: 36h, 30d, 4w.")] = "30d",
    keep: Annotated[list[str] | None, typer.Option(metavar="RUN", help="Name of a run that stays; repeatable.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without, it is only told.")] = False,
    result: ResultOption = None,
) -> None:
    """Tell, or remove, what of the workspace nothing refers to: runs, checkpoints, data sets, logs."""
    from tasks.gc import gc

    answer(gc(workspace_root(), older_than, keep or (), delete=delete), result)


@app.command("doctor")
def doctor_command(result: ResultOption = None) -> None:
    """Check Python, disk, TensorFlow, MLflow and Airflow; ends with code 1 when something is missing."""
    from tasks.doctor import doctor

    found = doctor()
    answer(found, result)
    if found.summary["failed"]:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command line: an error that a person can mend ends with code 2, its message and its fix; any other with code 1.

    A traceback is for those who mend the program: it goes to a file, and the file is named.
    """
    try:
        with _errors_told(), workspace_session(sys.argv), _errors_told():
            app()
    except SystemExit as ended:
        if ended.code == os.EX_TEMPFAIL:
            # A worker that another one has left: at an ordinary end TensorFlow would look for it for a while.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(os.EX_TEMPFAIL)
        raise


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        _end(2, str(error))
    except Exception as error:
        if mendable := as_user_error(error):
            _end(2, str(mendable))
        # Before it is cut: half a secret would not be known for one.
        said = without_secrets(" ".join(str(error).split()))
        said = said if len(said) <= _LONGEST_MESSAGE else f"{said[:_LONGEST_MESSAGE]} ..."
        folder = workspace_root() / "tracebacks"
        with suppress(UserError):
            opened(folder)
        file = keep_traceback(error, folder)
        _end(1, f"{type(error).__name__}: {said}\n  traceback: {file or 'it could not be written anywhere'}")


def _end(code: int, message: str) -> NoReturn:
    print(f"error: {without_secrets(message)}", file=sys.stderr)
    sys.exit(code)
