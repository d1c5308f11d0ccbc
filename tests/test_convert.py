"""The convert step and its command: files, reruns, and bad input that leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.convert import convert
from tasks.pipeline_config.edits import MaskBranch
from tasks.pipeline_config.fine_tuning import StartingPoint
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.records.annotated_image import Category
from tasks.records.example_pb2 import Example
from tasks.records.manifest import Manifest, Split, read_manifest, write_manifest
from tasks.records.statistics import Statistics
from tasks.records.tfrecord import write_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json

ZOO = "mask_rcnn_resnet50_atrous_coco"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def split(name: str) -> Split:
    pattern = f"{name}.record-?????-of-00001"
    return Split((f"{name}.record-00000-of-00001",), pattern, 4, 1, 6, 0, {"hazelnut": 4, "date": 2}, {}, {}, Statistics())


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetDir:
    """A dataset of two categories with ids 1 and 3, so of three classes; its shards are empty."""
    folder = DatasetDir(tmp_path / "nuts")
    categories = (Category(1, "hazelnut"), Category(3, "date"))
    splits = {"train": split("train"), "val": split("val")}
    folder.root.mkdir()
    for one in splits.values():
        (folder.root / one.shards[0]).touch()
    write_manifest(folder.manifest, Manifest("nuts", "0" * 64, "PNG_MASKS", categories, splits))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> ModelDir:
    return ModelDir(tmp_path / "run" / ZOO)


def test_a_zoo_config_becomes_an_experiment_on_the_dataset(dataset: DatasetDir, model: ModelDir) -> None:
    result = convert(ZOO, dataset, model)
    assert result.status == "done"
    assert result.summary["config"] == ZOO
    assert result.outputs["experiment"] == str(model.experiment)
    config = read_pipeline_config(model.pipeline_config)
    assert config.model.faster_rcnn.num_classes == 3
    assert list(config.train_input_reader.tf_record_input_reader.input_path) == [str(dataset.root / "train.record-?????-of-00001")]
    task = yaml.safe_load(model.experiment.read_text())["task"]
    assert task["name"] == ZOO
    assert task["model"]["num_classes"] == 3
    assert task["validation_data"]["input_path"] == str(dataset.root / "val.record-?????-of-00001")
    assert task["train_data"]["label_map_path"] == str(dataset.label_map)
    assert task["init_checkpoint"] == ""
    report = read_json(model.conversion_report)
    assert report["dataset_digest"] == "0" * 64
    assert [edit["edit"][:2] for edit in report["edits"]][:6] == ["1.", "2.", "3.", "4.", "5.", "6."]
    ignored = {entry["path"]: entry["reason"] for entry in report["fields"]["ignored"]}
    assert ignored["train_config.fine_tune_checkpoint"] == ("no checkpoint is configured: training starts from scratch")


def test_a_shard_that_is_missing_is_named(dataset: DatasetDir, model: ModelDir) -> None:
    (dataset.root / "val.record-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"val\.record-00000-of-00001 is not there"):
        convert(ZOO, dataset, model)
    assert not model.root.exists()


def crowded(dataset: DatasetDir, objects: int) -> None:
    manifest = read_manifest(dataset.manifest)
    manifest.splits["train"].statistics.objects_per_image[objects] = 1
    write_manifest(dataset.manifest, manifest)


@pytest.mark.parametrize(("objects", "offers"), [(100, False), (101, True)])
def test_images_with_more_objects_than_are_read_are_told_and_the_way_out_with_them(
    dataset: DatasetDir, model: ModelDir, capsys: pytest.CaptureFixture[str], objects: int, offers: bool
) -> None:
    crowded(dataset, objects)
    convert(ZOO, dataset, model)
    option = "--set train_input_reader.max_number_of_boxes=101"
    assert (option in capsys.readouterr().out) == offers
    assert len(read_json(model.conversion_report)["offers"]) == offers
    convert(ZOO, dataset, model, assignments=[option.removeprefix("--set ")])
    assert "offer" not in capsys.readouterr().out
    assert yaml.safe_load(model.experiment.read_text())["task"]["train_data"]["max_number_of_boxes"] == 101


def test_what_it_writes_converts_to_itself(dataset: DatasetDir, model: ModelDir, tmp_path: Path) -> None:
    convert(ZOO, dataset, model)
    again = ModelDir(tmp_path / "again")
    convert(str(model.pipeline_config), dataset, again)
    assert again.pipeline_config.read_text() == model.pipeline_config.read_text()
    assert all(edit["changes"] == [] for edit in read_json(again.conversion_report)["edits"])


def test_the_same_inputs_are_skipped_and_other_ones_are_not(dataset: DatasetDir, model: ModelDir) -> None:
    convert(ZOO, dataset, model)
    written = model.experiment.stat().st_mtime_ns
    assert convert(ZOO, dataset, model).status == "skipped"
    assert model.experiment.stat().st_mtime_ns == written
    assert convert(ZOO, dataset, model, assignments=["train_config.num_steps=7"]).status == "done"
    assert yaml.safe_load(model.experiment.read_text())["trainer"]["train_steps"] == 7
    assert convert(ZOO, dataset, model).status == "done"
    model.experiment.unlink()
    assert convert(ZOO, dataset, model).status == "done"


def test_a_rerun_keeps_what_training_left(dataset: DatasetDir, model: ModelDir) -> None:
    convert(ZOO, dataset, model)
    checkpoint = model.train / "ckpt-5.index"
    checkpoint.parent.mkdir()
    checkpoint.write_text("weights")
    convert(ZOO, dataset, model, assignments=["train_config.num_steps=7"])
    assert checkpoint.read_text() == "weights"


def test_mask_branch_and_overrides_reach_the_experiment(dataset: DatasetDir, model: ModelDir) -> None:
    file = CONFIGS / "faster_rcnn" / "faster_rcnn_resnet101_coco.config"
    convert(
        str(file),
        dataset,
        model,
        assignments=["train_config.batch_size=2", "train_config.batch_size=3"],
        branch=MaskBranch(height=28, width=14, conv_depth=64, conv_layers=3),
    )
    task = yaml.safe_load(model.experiment.read_text())["task"]
    assert task["name"] == "faster_rcnn_resnet101_coco"
    head = task["model"]["mask_head"]
    assert (head["height"], head["width"], head["conv_depth"], head["num_conv_layers"]) == (28, 14, 64, 3)
    assert task["train_data"]["global_batch_size"] == 3
    overrides = read_json(model.conversion_report)["overrides"]
    assert [(change["before"], change["after"]) for change in overrides] == [("1", "2"), ("2", "3")]


def test_masks_of_padded_images_as_the_original_predicted_them_are_asked_for(dataset: DatasetDir, model: ModelDir) -> None:
    convert(ZOO, dataset, model)
    assert yaml.safe_load(model.experiment.read_text())["task"]["model"]["original_padded_masks"] is False
    assert convert(ZOO, dataset, model, original_padded_masks=True).status == "done"
    assert yaml.safe_load(model.experiment.read_text())["task"]["model"]["original_padded_masks"] is True
    assert convert(ZOO, dataset, model, original_padded_masks=True).status == "skipped"


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["model.faster_rcnn.num_classes=2"], "less than the 3 classes"),
        (["eval_config.use_moving_averages=true"], "no averages are kept"),
        (["model.faster_rcnn.num_clases=3"], "num_clases"),
    ],
)
def test_bad_overrides_leave_nothing_behind(dataset: DatasetDir, model: ModelDir, assignments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        convert(ZOO, dataset, model, assignments=assignments)
    assert not model.root.exists()


def test_a_refused_field_is_shown_where_it_stands(dataset: DatasetDir, model: ModelDir, tmp_path: Path) -> None:
    text = (CONFIGS / "zoo" / f"{ZOO}.config").read_text()
    file = tmp_path / "mine.config"
    file.write_text(text.replace("    initial_crop_size: 14\n", "    initial_crop_size: 14\n    inplace_batchnorm_update: true\n"))
    line = file.read_text().splitlines().index("    inplace_batchnorm_update: true") + 1
    with pytest.raises(UserError, match=rf"mine\.config:{line}:5: model\.faster_rcnn\.inplace_batchnorm_update: "):
        convert(str(file), dataset, model)


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ({"height": 0}, "mask height 0 is out of range\n  fix: give a value from 1 to 4096"),
        ({"conv_depth": -1}, "mask conv_depth -1 is out of range"),
    ],
)
def test_mask_branch_out_of_range(branch: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        MaskBranch(**branch)


def record(*, pngs: list[bytes] | None = None, floats: list[float] | None = None) -> bytes:
    example = Example()
    mask = example.features.feature["image/object/mask"]
    if floats is None:
        mask.bytes_list.value.extend(pngs or [])
    else:
        mask.float_list.value.extend(floats)
    return example.SerializeToString()


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A Faster R-CNN config whose records were written by others: PNG masks, or dense ones under another pattern."""
    (tmp_path / "theirs").mkdir()
    write_shard(tmp_path / "theirs" / "png.record-00000-of-00001", [record(), record(pngs=[b"PNG"])])
    write_shard(tmp_path / "theirs" / "dense.record-00000-of-00001", [record(floats=[0.0, 1.0])])
    write_shard(tmp_path / "theirs" / "boxes.record-00000-of-00001", [record()])
    text = (CONFIGS / "faster_rcnn" / "faster_rcnn_resnet50_coco.config").read_text()
    file = tmp_path / "theirs.config"
    file.write_text(text.replace("PATH_TO_BE_CONFIGURED/train.record-?????-of-00100", f"{tmp_path}/theirs/png.record-?????-of-00001"))
    return file


@pytest.mark.parametrize(("records", "wish", "mask_type"), [("png", "auto", 2), ("dense", "auto", 1), ("png", "numerical", 1)])
def test_without_a_dataset_the_config_keeps_its_records_and_they_decide_the_mask_type(
    foreign: Path, model: ModelDir, records: str, wish: str, mask_type: int
) -> None:
    foreign.write_text(foreign.read_text().replace("theirs/png", f"theirs/{records}"))
    convert(str(foreign), None, model, mask_type=wish)
    config = read_pipeline_config(model.pipeline_config)
    reader = config.train_input_reader
    assert list(reader.tf_record_input_reader.input_path) == [str(foreign.parent / "theirs" / f"{records}.record-?????-of-00001")]
    assert (reader.mask_type, config.eval_input_reader[0].mask_type) == (mask_type, mask_type)
    assert config.model.faster_rcnn.num_classes == 90
    assert read_json(model.conversion_report)["dataset_digest"] is None


@pytest.mark.parametrize(
    ("records", "wishes", "words"),
    [
        ("boxes", {}, "hold no mask\n  fix: .*--mask-type png"),
        ("gone", {}, r"theirs\.config:\d+:\d+: train_input_reader.*input_path: no file matches"),
        ("png", {"mask_type": "polygon"}, "--mask-type is 'polygon'\n  fix: use one of auto, png, numerical"),
        ("png", {"reverse": True, "mask_type": "png"}, "--reverse takes the masks away"),
        ("png", {"reverse": True, "branch": MaskBranch(height=7)}, "--reverse takes the masks away"),
    ],
)
def test_masks_that_cannot_be_found_out_are_refused(
    foreign: Path, model: ModelDir, records: str, wishes: dict[str, Any], words: str
) -> None:
    foreign.write_text(foreign.read_text().replace("theirs/png", f"theirs/{records}"))
    with pytest.raises(UserError, match=words):
        convert(str(foreign), None, model, **wishes)
    assert not model.root.exists()


def test_a_mask_type_that_contradicts_the_dataset_is_refused(dataset: DatasetDir, model: ModelDir) -> None:
    with pytest.raises(UserError, match="mask_type: the dataset holds PNG_MASKS"):
        convert(ZOO, dataset, model, mask_type="numerical")


def test_a_mask_rcnn_config_whose_records_are_elsewhere_comes_back_unchanged(foreign: Path, model: ModelDir, tmp_path: Path) -> None:
    convert(str(foreign), None, model)
    shutil.rmtree(foreign.parent / "theirs")
    again = ModelDir(tmp_path / "again")
    convert(str(model.pipeline_config), None, again)
    assert again.pipeline_config.read_text() == model.pipeline_config.read_text()


def test_reverse_is_a_box_experiment(dataset: DatasetDir, model: ModelDir) -> None:
    convert(ZOO, dataset, model, reverse=True)
    task = yaml.safe_load(model.experiment.read_text())["task"]
    assert task["model"]["number_of_stages"] == 2
    assert task["train_data"]["load_instance_masks"] is False
    assert task["train_data"]["input_path"] == str(dataset.root / "train.record-?????-of-00001")


def test_a_dry_run_tells_the_difference_and_writes_nothing(dataset: DatasetDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert convert("mask_rcnn_inception_v2_coco", dataset, None, assignments=["train_config.batch_size=2"]).outputs == {}
    told = capsys.readouterr().out
    assert told.count("\ntrain_config.batch_size: 1 -> 2\n") == 2  # From the file, and from the zoo: here they are the same.
    assert "mask_rcnn_inception_v2_coco of the zoo -> converted\n" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_what_differs_from_the_zoo_is_kept(dataset: DatasetDir, model: ModelDir) -> None:
    convert(str(CONFIGS / "faster_rcnn" / "faster_rcnn_inception_v2_coco.config"), dataset, model)
    zoo = read_json(model.conversion_report)["zoo"]
    assert zoo["config"] == "mask_rcnn_inception_v2_coco"
    # Depth, height, width and layers of the mask branch are the zoo's: by the edits, or by the language's defaults.
    model_fields = {entry["path"]: (entry["before"], entry["after"]) for entry in zoo["differences"] if entry["path"].startswith("model.")}
    assert model_fields == {
        "model.faster_rcnn.num_classes": ("90", "3"),
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension": ("800", "600"),
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension": ("1365", "1024"),
        "model.faster_rcnn.second_stage_mask_prediction_loss_weight": ("4.0", "1.0"),
    }
    assert "model.faster_rcnn.num_classes: 90 -> 3\n" in model.zoo_difference.read_text()


def test_training_without_end_gets_one(dataset: DatasetDir, model: ModelDir, tmp_path: Path) -> None:
    text = (CONFIGS / "zoo" / f"{ZOO}.config").read_text()
    (tmp_path / "endless.config").write_text(text.replace("num_steps: 200000", ""))
    convert(str(tmp_path / "endless.config"), dataset, model)
    (change,) = read_json(model.conversion_report)["edits"][-1]["changes"]
    assert (change["path"], change["before"], change["after"]) == ("train_config.num_steps", None, "200000")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder of checkpoints as far as convert looks at them: the zoo's tarball of ResNet-50, and one under a prefix."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / f"{ZOO}_2018_01_28.tar.gz").touch()
    (folder / "imagenet").mkdir()
    (folder / "imagenet" / "resnet.ckpt.index").touch()
    return folder


def start_of(model: ModelDir) -> dict[str, object]:
    task = yaml.safe_load(model.experiment.read_text())["task"]
    names = ("init_checkpoint", "fine_tune_checkpoint_type", "load_all_detection_checkpoint_vars", "checkpoint_label_map_path")
    return {name: task[name] for name in names if name in task}


def test_a_checkpoint_from_a_folder_of_several_is_written_as_the_original_writes_it(
    dataset: DatasetDir, model: ModelDir, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoints.parent)
    convert(ZOO, dataset, model, start=StartingPoint(Path("checkpoints")))
    tarball = str(checkpoints / f"{ZOO}_2018_01_28.tar.gz")
    train = read_pipeline_config(model.pipeline_config).train_config
    assert (train.fine_tune_checkpoint, train.from_detection_checkpoint, train.load_all_detection_checkpoint_vars) == (tarball, True, False)
    assert start_of(model) == {
        "init_checkpoint": tarball,
        "fine_tune_checkpoint_type": "detection",
        "load_all_detection_checkpoint_vars": False,
    }
    again = ModelDir(checkpoints.parent / "again")
    convert(str(model.pipeline_config), dataset, again)
    assert again.pipeline_config.read_text() == model.pipeline_config.read_text()
    assert start_of(again) == start_of(model)


@pytest.mark.parametrize(
    ("wishes", "kind", "heads"),
    [
        ({}, "detection", False),
        ({"all_variables": True}, "detection", True),
        ({"label_map": "nuts.pbtxt"}, "detection", True),
        ({"label_map": "nuts.pbtxt", "checkpoint_type": "full"}, "full", False),
        # The newer spelling wins over the zoo's `from_detection_checkpoint: true`.
        ({"checkpoint_type": "classification"}, "classification", False),
    ],
)
def test_what_is_restored_of_a_checkpoint(
    dataset: DatasetDir,
    model: ModelDir,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    wishes: dict[str, Any],
    kind: str,
    heads: bool,
) -> None:
    monkeypatch.chdir(checkpoints)
    label_map = checkpoints / "nuts.pbtxt"
    label_map.write_text('item { id: 1 name: "peanut" } item { id: 2 name: "date" }')
    convert(ZOO, dataset, model, start=StartingPoint(checkpoints / "imagenet" / "resnet.ckpt", **wishes))
    assert start_of(model) == {
        "init_checkpoint": str(checkpoints / "imagenet" / "resnet.ckpt"),
        "fine_tune_checkpoint_type": kind,
        "load_all_detection_checkpoint_vars": heads,
        **({"checkpoint_label_map_path": str(label_map)} if "label_map" in wishes else {}),
    }


@pytest.mark.parametrize(("asked", "depth"), [(None, 64), (48, 48)])
def test_mask_convolutions_are_as_deep_as_those_of_a_checkpoint_whose_heads_are_restored(
    dataset: DatasetDir, model: ModelDir, checkpoints: Path, asked: int | None, depth: int
) -> None:
    label_map = checkpoints / "nuts.pbtxt"
    label_map.write_text('item { id: 1 name: "peanut" } item { id: 8 name: "date" }')
    convert(ZOO, dataset, model, branch=MaskBranch(conv_depth=asked), start=StartingPoint(checkpoints, label_map=str(label_map)))
    # 0 in the zoo's config. Of 8 classes on 2048 channels: 2 to the power of (2 * 11 + 3 * 3) / 5 = 6.2. Of the dataset's 3 it were 5.
    predictor = read_pipeline_config(model.pipeline_config).model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    assert predictor.mask_prediction_conv_depth == depth


@pytest.mark.parametrize(
    ("wishes", "assignments", "words"),
    [
        ({"checkpoint": "gone"}, [], "gone does not exist"),
        ({"checkpoint": "imagenet/resnet.ckpt", "checkpoint_type": "fine_tune"}, [], "'fine_tune' is not a type"),
        ({"checkpoint": "imagenet/resnet.ckpt", "label_map": "coco"}, [], "no name in common"),
        ({"checkpoint": "imagenet/resnet.ckpt", "label_map": "cocoo"}, [], "did you mean coco"),
        ({"checkpoint": "imagenet/resnet.ckpt", "checkpoint_type": "classification", "all_variables": True}, [], "no heads"),
        ({"all_variables": True}, [], "--checkpoint"),
        ({}, ["train_config.fine_tune_checkpoint=gone"], r"""gone does not exist\n.* --set train_config.fine_tune_checkpoint='""'"""),
    ],
)
def test_a_checkpoint_that_cannot_be_used_leaves_nothing_behind(
    dataset: DatasetDir,
    model: ModelDir,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    wishes: dict[str, Any],
    assignments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(checkpoints)
    if "checkpoint" in wishes:
        wishes = {**wishes, "checkpoint": Path(wishes["checkpoint"])}
    with pytest.raises(UserError, match=words):
        convert(ZOO, dataset, model, assignments=assignments, start=StartingPoint(**wishes))
    assert not model.root.exists()


def maskline(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tasks", *arguments], capture_output=True, text=True, check=False)


def test_the_command_writes_its_result_and_needs_no_tensorflow(
    dataset: DatasetDir, model: ModelDir, checkpoints: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    arguments = ["convert", ZOO, "--dataset", str(dataset.root), "--output", str(model.root), "--result", str(result)]
    arguments += ["--set", "train_config.num_steps=7", "--mask-height", "21"]
    arguments += ["--checkpoint", str(checkpoints), "--checkpoint-type", "detection", "--all-checkpoint-variables"]
    code = f"import sys; sys.argv = {['maskline', *arguments]!r}\nfrom tasks.cli import main\nimport atexit\n"
    code += "atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["False"]
    answer = json.loads(result.read_text())
    assert (answer["step"], answer["status"], answer["outputs"]["model"]) == ("convert", "done", str(model.root))
    experiment = yaml.safe_load(model.experiment.read_text())
    assert experiment["trainer"]["train_steps"] == 7
    assert experiment["task"]["model"]["mask_head"]["height"] == 21
    assert experiment["task"]["load_all_detection_checkpoint_vars"] is True


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("mask_rcnn_resnet5_atrous_coco", "did you mean mask_rcnn_resnet50_atrous_coco?"),
        ("ssd", "models of the ssd family are not supported"),
        ("broken", "broken.config:2:3: model.faster_rcn: model has no field faster_rcn"),
    ],
)
def test_bad_input_ends_with_code_2_and_nothing_written(
    dataset: DatasetDir, model: ModelDir, tmp_path: Path, config: str, words: str
) -> None:
    (tmp_path / "ssd.config").write_text("model { ssd { num_classes: 90 matcher { argmax_matcher {} } } }")
    (tmp_path / "broken.config").write_text("model {\n  faster_rcn { num_classes: 3 }\n}")
    file = tmp_path / f"{config}.config"
    named = str(file) if file.exists() else config
    done = maskline("convert", named, "--dataset", str(dataset.root), "--output", str(model.root))
    assert done.returncode == 2
    assert words in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not model.root.exists()


def test_an_output_or_a_dry_run_is_asked_for(dataset: DatasetDir) -> None:
    done = maskline("convert", ZOO, "--dataset", str(dataset.root))
    assert done.returncode == 2
    assert "there is no --output" in done.stderr


def test_a_dataset_that_is_not_there_is_named(model: ModelDir, tmp_path: Path) -> None:
    done = maskline("convert", ZOO, "--dataset", str(tmp_path / "gone"), "--output", str(model.root))
    assert done.returncode == 2
    assert f"{tmp_path / 'gone'} does not exist" in done.stderr
