"""What lies where, in folders of a few empty files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adoption import project_folder
from tasks.adoption.project_folder import look_through
from tasks.records.tfrecord import write_shard
from tasks.running.errors import UserError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_trainings_exports_and_pretrained_models_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, *(f"models/mine/{name}" for name in ("pipeline.config", "ckpt-9.index", "ckpt-10.index", "ckpt-10.data-00000-of-00001")))
    exported = "exported-models/mine"
    put(tmp_path, f"{exported}/checkpoint/ckpt-0.index", f"{exported}/saved_model/saved_model.pb", f"{exported}/pipeline.config")
    put(tmp_path, "pre-trained-models/resnet/checkpoint/ckpt-0.index", "old/model.ckpt-77.index", "old/frozen_inference_graph.pb")
    found = look_through(tmp_path)
    told = [(found.relative(one.path), found.relative(one.home), one.is_training, one.others) for one in found.weights]
    assert told == [
        (f"{exported}/checkpoint/ckpt-0", exported, False, ("saved_model.pb",)),
        ("models/mine/ckpt-10", "models/mine", True, ("ckpt-9",)),
        ("old/model.ckpt-77", "old", False, ("frozen_inference_graph.pb",)),
        ("pre-trained-models/resnet/checkpoint/ckpt-0", "pre-trained-models/resnet", False, ()),
    ]
    assert [found.is_pretrained(one.path) for one in found.weights] == [False, False, False, True]
    assert [found.relative(one) for one in found.configs] == [f"{exported}/pipeline.config", "models/mine/pipeline.config"]


def test_records_and_label_maps_are_known_by_what_they_hold(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tfrecord", [b"x"])
    write_shard(tmp_path / "b.record-00000-of-00001", [b"x"])
    write_shard(tmp_path / "events.out.tfevents.1.record", [b"x"])
    put(tmp_path, "c.record", "1.jpg", "sub/2.PNG")
    (tmp_path / "labels.txt").write_text('item { id: 1 name: "cat" }')
    (tmp_path / "graph.pbtxt").write_text('node { name: "item" }')
    (tmp_path / "d.record").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    found = look_through(tmp_path)
    assert [one.name for one in found.records] == ["a.tfrecord", "b.record-00000-of-00001"]
    assert {one.name: labels.names for one, labels in found.label_maps.items()} == {"labels.txt": {1: "cat"}}
    assert [one.name for one in found.not_fetched] == ["d.record"]
    assert found.images == {tmp_path: 1, tmp_path / "sub": 1}


def test_the_original_s_samples_environments_and_links_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "models/research/object_detection/protos/x.proto", "models/research/object_detection/samples/configs/a.config")
    put(tmp_path, "venv/pyvenv.cfg", "venv/lib/a.config", ".git/b.config", "mine.config")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = look_through(tmp_path)
    assert [one.name for one in found.configs] == ["mine.config"]
    assert found.links == [tmp_path / "loop"]


def test_a_whole_disk_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", "b", "c")
    monkeypatch.setattr(project_folder, "MOST_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        look_through(tmp_path)
