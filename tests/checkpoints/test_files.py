"""Where a checkpoint may lie, and which tarballs are not unpacked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tensorflow.core.protobuf import saver_pb2

from tasks.checkpoints import files
from tasks.checkpoints.files import checkpoint_prefix, find_checkpoint
from tasks.checkpoints.keras_names import OBJECT_GRAPH
from tasks.checkpoints.own_checkpoint import own_checkpoint
from tasks.checkpoints.reader import open_checkpoint
from tasks.running.errors import UserError
from tests.checkpoints.keras_checkpoint import write_keras_checkpoint
from tests.checkpoints.tf1_checkpoint import write_checkpoint

VALUES = {"Conv/weights": np.float32([[1, 2], [3, 4]]), "global_step": np.int64(7)}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo model's folder as its tarball unpacks."""
    folder = tmp_path / "mask_rcnn_resnet50_atrous_coco_2018_01_28"
    write_checkpoint(folder / "model.ckpt", VALUES)
    (folder / "frozen_inference_graph.pb").write_bytes(b"graph")
    (folder / "saved_model").mkdir()
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"model")
    return folder


def packed(folder: Path, name: str = "zoo.tar.gz") -> Path:
    tarball = folder.parent / name
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(folder, folder.name)
    return tarball


def read(path: Path) -> dict[str, np.ndarray]:
    with checkpoint_prefix(path) as prefix:
        reader = open_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_values(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_prefix_a_folder_and_a_tarball_are_the_same_checkpoint(zoo: Path) -> None:
    for path in (zoo / "model.ckpt", zoo, packed(zoo)):
        assert_values(read(path))


def test_slims_one_file_format_as_file_and_in_its_tarball(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "slim" / "resnet_v1_50.ckpt", VALUES, saver_pb2.SaverDef.V1)
    assert path.is_file()
    assert_values(read(path))
    (path.parent / "checkpoint").unlink()
    assert_values(read(packed(path.parent, "resnet_v1_50_2016_08_28.tar.gz")))


def test_a_tarball_is_unpacked_for_as_long_as_it_is_read(zoo: Path) -> None:
    with checkpoint_prefix(packed(zoo)) as prefix:
        # Nothing but the checkpoint's own files, and a graph that came before them, whatever their folder was called.
        own = {"model.ckpt.index", "model.ckpt.data-00000-of-00001"}
        assert {entry.name for entry in Path(prefix).parent.iterdir()} - {"frozen_inference_graph.pb"} == own
    assert not Path(prefix).parent.exists()


def test_of_several_checkpoints_tensorflows_latest_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    for step in (5, 10):
        write_checkpoint(folder / f"model.ckpt-{step}", {"step": np.int64(step)})
    assert read(folder) == {"step": 10}
    # The Saver noted the absolute path.
    moved = folder.rename(tmp_path / "moved")
    assert read(moved) == {"step": 10}
    (moved / "checkpoint").unlink()
    with pytest.raises(UserError, match=r"2 checkpoints: model\.ckpt-10, model\.ckpt-5"):
        read(moved)


def test_what_is_no_checkpoint(zoo: Path, tmp_path: Path) -> None:
    (zoo / "assets").mkdir()
    for path, message in (
        (tmp_path / "nowhere" / "model.ckpt", "does not exist"),
        (zoo / "other.pb", "does not exist"),
        (zoo / "model.ckpt.index", "one file of several"),
        (zoo / "assets", "no TensorFlow checkpoint"),
        (packed(zoo / "assets"), "no TensorFlow checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            read(path)


def test_a_checkpoint_of_tensorflow_2_lies_where_its_exporter_and_the_zoo_put_it(tmp_path: Path) -> None:
    exported = tmp_path / "mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8"
    prefix = write_keras_checkpoint(exported / "checkpoint" / "ckpt-0", VALUES)
    (exported / "checkpoint" / "checkpoint").write_text('model_checkpoint_path: "ckpt-0"\n')
    (exported / "saved_model" / "variables").mkdir(parents=True)
    (exported / "saved_model" / "variables" / "variables.index").write_bytes(b"others")
    for place in (prefix, prefix.parent, exported, packed(exported), tmp_path):
        found = find_checkpoint(place, exported.name)
        assert read(found).keys() == VALUES.keys() | {OBJECT_GRAPH}


def test_of_several_checkpoints_of_a_training_the_latest_counts(tmp_path: Path) -> None:
    for number in (9, 10):
        write_keras_checkpoint(tmp_path / f"ckpt-{number}", VALUES | {"step": np.int64(number)})
    with pytest.raises(UserError, match="holds 2 checkpoints: ckpt-10, ckpt-9"):
        find_checkpoint(tmp_path, "x")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/other/ckpt-9"\n')
    assert read(find_checkpoint(tmp_path, "x"))["step"] == 9


def test_a_damaged_index_is_refused(zoo: Path) -> None:
    (zoo / "model.ckpt.index").write_bytes(b"not an index")
    with pytest.raises(UserError, match="cannot be read"):
        read(zoo)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("evil", "message"),
    [
        (member("../model.ckpt.index"), "leads outside"),
        (member("zoo/../../model.ckpt.index"), "leads outside"),
        (member("/tmp/model.ckpt.index"), "leads outside"),
        (member("zoo/model.ckpt.index", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (member("zoo/model.ckpt.index", tarfile.LNKTYPE, "../../secret"), "link"),
        (member("zoo/model.ckpt.index", tarfile.FIFOTYPE), "device"),
    ],
)
def test_an_evil_tarball_is_refused_and_writes_nothing(tmp_path: Path, evil: tarfile.TarInfo, message: str) -> None:
    tarball = tmp_path / "in" / "evil.tar.gz"
    tarball.parent.mkdir()
    with tarfile.open(tarball, "w:gz") as archive:
        archive.addfile(evil, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match=message):
        read(tarball)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "evil.tar.gz"]


def test_a_tarball_that_unpacks_to_too_much_is_refused(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that are not even wanted count: a reader has to unpack them to pass them by.
    (zoo / "aaa.bin").write_bytes(bytes(100_000))
    monkeypatch.setattr(files, "UNPACKED_LIMIT_BYTES", 50_000)
    with pytest.raises(UserError, match="more than 50000 bytes"):
        read(packed(zoo))


def test_a_tarball_that_was_cut_short_is_refused(zoo: Path) -> None:
    (zoo / "noise.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    tarball = packed(zoo)
    tarball.write_bytes(tarball.read_bytes()[:50_000])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(tarball)


def test_a_tarball_with_two_of_a_name_is_refused(zoo: Path) -> None:
    write_checkpoint(zoo / "older" / "model.ckpt", VALUES)
    with pytest.raises(UserError, match=r"twice"):
        read(packed(zoo))


NAME = "mask_rcnn_resnet50_atrous_coco"


def test_a_checkpoint_is_found_by_an_absolute_path(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball = packed(zoo)
    monkeypatch.chdir(zoo.parent)
    for path in (zoo / "model.ckpt", zoo, tarball):
        assert find_checkpoint(path.relative_to(zoo.parent), "any") == path


def test_of_several_the_configs_own_is_found_and_an_unpacked_folder_before_its_tarball(zoo: Path) -> None:
    tarball = packed(zoo, f"{NAME}_2018_01_28.tar.gz")
    write_checkpoint(zoo.parent / "mask_rcnn_inception_v2_coco" / "model.ckpt", VALUES)
    assert find_checkpoint(zoo.parent, NAME) == zoo
    zoo.rename(zoo.parent / "away")
    assert find_checkpoint(zoo.parent, NAME) == tarball
    assert find_checkpoint(zoo.parent, "mask_rcnn_inception_v2_coco") == zoo.parent / "mask_rcnn_inception_v2_coco"
    with pytest.raises(UserError, match="holds no checkpoint for mask_rcnn_resnet101_atrous_coco"):
        find_checkpoint(zoo.parent, "mask_rcnn_resnet101_atrous_coco")


def test_a_config_with_two_checkpoints_is_refused(zoo: Path) -> None:
    (zoo.parent / f"{NAME}.tar.gz").touch()
    with pytest.raises(UserError, match=f"2 checkpoints for {NAME}: {NAME}, {NAME}_2018_01_28"):
        find_checkpoint(zoo.parent, NAME)


def test_what_is_not_there_is_not_found(zoo: Path) -> None:
    (zoo / "assets").mkdir()
    for path, message in (
        (zoo.parent / "nowhere.tar.gz", "does not exist"),
        (zoo / "model.ckpt-5", "does not exist"),
        (zoo / "assets", "holds no checkpoint for"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoint(path, NAME)


def model_of_ours(folder: Path, *steps: int) -> Path:
    """A model's folder as far as those who look for a checkpoint can see: converted, and trained where there are steps."""
    (folder / "train").mkdir(parents=True)
    (folder / "experiment.yaml").touch()
    if steps:
        (folder / "train" / "experiment.yaml").touch()
    for step in steps:
        (folder / "train" / f"ckpt-{step}.index").touch()
        (folder / "train" / f"ckpt-{step}.data-00000-of-00001").touch()
    return folder


def test_of_a_model_that_was_trained_here_the_last_checkpoint_counts(tmp_path: Path) -> None:
    model = model_of_ours(tmp_path / "run" / NAME, 900, 1000, 200)
    for path in (tmp_path / "run", model, model / "train", model / "train" / "ckpt-1000"):
        assert find_checkpoint(path, NAME) == model / "train" / "ckpt-1000"
    assert find_checkpoint(model / "train" / "ckpt-200", NAME) == model / "train" / "ckpt-200"


def test_a_training_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    model = model_of_ours(tmp_path / NAME)
    (model / "train" / "experiment.yaml").touch()
    with pytest.raises(UserError, match="holds a training without a checkpoint"):
        find_checkpoint(model, NAME)


def test_a_model_that_was_only_converted_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"holds no checkpoint for {NAME}"):
        find_checkpoint(model_of_ours(tmp_path / NAME), NAME)


def test_an_experiment_that_is_none_is_told(tmp_path: Path) -> None:
    model = model_of_ours(tmp_path / NAME, 5)
    with pytest.raises(UserError, match=r"experiment\.yaml is not what `maskline train` writes"):
        own_checkpoint(model / "train" / "ckpt-5")
    (model / "train" / "experiment.yaml").write_text(
        "task: {model: {feature_extractor: {type: x}, mask_head: {conv_depth: 64}}}\ntrainer: {optimizer_config: {}}"
    )
    found = own_checkpoint(model / "train" / "ckpt-5")
    assert found is not None
    assert (found.feature_extractor, found.mask_conv_depth) == ("x", 64)


def test_a_checkpoint_of_somebody_else_is_not_ours(zoo: Path) -> None:
    assert own_checkpoint(zoo / "model.ckpt") is None
