"""What one pass over records finds, wherever in them it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pipeline_config.evidence import gather
from tasks.pipeline_config.lint import lint
from tasks.pipeline_config.parser import read_pipeline_config, set_field
from tasks.pipeline_config.zoo import zoo_configs
from tasks.records.example_pb2 import Example
from tasks.records.label_map import parse_label_map
from tasks.records.survey import survey
from tasks.records.tfrecord import write_shard
from tasks.running.errors import UserError

LABELS = "item { id: 1 name: 'cat' }"


def record(kind: str = "", objects: int = 1, ymax: float = 0.5) -> bytes:
    """One image: without objects, or with objects whose masks are PNGs, numbers or not there."""
    example = Example()
    features = example.features.feature
    features["image/encoded"].bytes_list.value.append(b"JPEG")
    if kind != "empty":
        for side, value in {"ymin": 0.0, "xmin": 0.0, "ymax": ymax, "xmax": 0.5}.items():
            features[f"image/object/bbox/{side}"].float_list.value.extend([value] * objects)
        features["image/object/class/text"].bytes_list.value.extend([b"cat"] * objects)
    if kind == "png":
        features["image/object/mask"].bytes_list.value.extend([b"PNG"] * objects)
    if kind == "dense":
        features["image/object/mask"].float_list.value.extend([0, 1, 1, 0] * objects)
    return example.SerializeToString()


def write(folder: Path, shards: list[list[bytes]]) -> list[Path]:
    paths = [folder / f"x.record-{index:05d}-of-{len(shards):05d}" for index in range(len(shards))]
    for path, records in zip(paths, shards, strict=True):
        write_shard(path, records)
    return paths


@pytest.mark.parametrize(
    ("kinds", "types", "without"),
    [
        ([["png"]], ["PNG_MASKS"], None),
        ([["empty", "dense"]], ["NUMERICAL_MASKS"], None),
        ([["empty"] * 300, ["empty", "png"]], ["PNG_MASKS"], None),
        ([["png"] * 210 + ["boxes"]], ["PNG_MASKS"], "x.record-00000-of-00001: record 210"),
        ([["png"], ["png", "dense"]], ["PNG_MASKS", "NUMERICAL_MASKS"], None),
        ([["empty"]], [], None),
    ],
)
def test_masks_are_looked_for_in_all_records(tmp_path: Path, kinds: list[list[str]], types: list[str], without: str | None) -> None:
    found = survey(write(tmp_path, [list(map(record, shard)) for shard in kinds]), None)
    assert list(found.mask_types) == types
    assert found.without_masks == (without and f"{tmp_path}/{without}")
    assert found.records == sum(map(len, kinds))
    assert found.fault is None


def test_the_fullest_record_and_the_first_fault_are_named(tmp_path: Path) -> None:
    files = write(tmp_path, [[record("png", 3), record("png", 130)], [record("png", 130), record(ymax=2.0), record(ymax=-1.0)]])
    found = survey(files, parse_label_map(LABELS, "x"))
    assert (found.most_objects, found.fullest) == (130, f"{files[0]}: record 1")
    assert found.objects_per_image == {3: 1, 130: 2, 1: 2}
    assert found.fault is not None
    assert found.fault.message.startswith(f"{files[1]}: record 1: object 0: its box")


def test_a_record_that_is_none_is_a_fault_and_a_damaged_file_an_error(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [[record("png"), b"\xff\xff"]])
    fault = survey([path], None).fault
    assert fault is not None
    assert fault.message == f"{path}: record 1: not a tf.train.Example"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="record 1 is cut off or damaged"):
        survey([path], None)


def test_damaged_records_are_passed_by_up_to_a_number(tmp_path: Path) -> None:
    """Of three records in each of two files, the first one's header and the fifth one's content are damaged."""
    sound = [record("png", objects) for objects in (1, 2, 3)]
    paths = write(tmp_path, [sound, sound])
    for path, place in ((paths[0], 0), (paths[1], len(sound[0]) + 16 + 20)):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
    found = survey(paths, None, damaged=2)
    assert (found.records, found.unusable) == (6, 2)
    assert found.fault is not None
    assert found.fault.message == f"{paths[0]}: record 0 is cut off or damaged"
    assert found.objects_per_image == {1: 1, 2: 1, 3: 2}
    with pytest.raises(UserError, match=f"{paths[1]}: record 1 is cut off or damaged"):
        survey(paths, None, damaged=1)


def test_lint_reads_them_all(tmp_path: Path) -> None:
    """The 211th record has no mask, the 212th 101 objects, the 213th a box in pixels; one of two shards is missing for evaluation."""
    (training,) = write(tmp_path, [[*[record("png")] * 210, record(), record("png", 101), record("png", 1, 40.0)]])
    evaluation, gone = write(tmp_path, [[record("png")], []])
    gone.unlink()
    (tmp_path / "labels.pbtxt").write_text(LABELS)
    config = read_pipeline_config(zoo_configs()["mask_rcnn_resnet50_atrous_coco"])
    for reader, pattern in (("train_input_reader", training), ("eval_input_reader[0]", tmp_path / "x.record-?????-of-00002")):
        config, _ = set_field(config, f'{reader}.label_map_path="{tmp_path}/labels.pbtxt"')
        config, _ = set_field(config, f'{reader}.tf_record_input_reader.input_path=["{pattern}"]')
    errors = {finding.check.code: finding.error.message for finding in lint(gather(config, "zoo"))}
    assert f"{training}: record 210 has objects and no mask" in errors["ML006"]
    assert f"100, but {training}: record 211 has 101 objects" in errors["ML020"]
    assert f"{training}: record 212: object 0: its box" in errors["ML021"]
    assert f"{gone} is not there" in errors["ML019"]
    assert evaluation.is_file()
