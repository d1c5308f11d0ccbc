"""Checkpoints on the disk: what stays, what is seen to be damaged, and a disk that is full."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.running.errors import UserError
from tasks.training.retention import Checkpoints, newest_whole


class Kept:
    """A training of one variable, 4 MB, in a folder whose name is a pattern."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.value = tf.Variable(tf.zeros([1_000_000]))
        self.folder = folder / "set [1]"
        self.folder.mkdir(exist_ok=True)
        self.checkpoints = Checkpoints(tf.train.Checkpoint(value=self.value), [self.value], self.folder, keep)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.value.assign(tf.fill([1_000_000], float(step)))
            self.checkpoints.save(step)

    def names(self) -> list[str]:
        return [prefix.name for prefix in written_checkpoints(self.folder)]

    def files(self) -> set[str]:
        return {file.name for file in self.folder.iterdir()}


def files_of(*steps: int) -> set[str]:
    return {"checkpoint"} | {f"ckpt-{step}.{part}" for step in steps for part in ("index", "data-00000-of-00001")}


def test_the_newest_stay_and_one_more_that_is_told_to(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save(8, 9, 10)
    assert kept.files() == files_of(9, 10)
    kept.checkpoints.stay(kept.folder / "ckpt-9")
    kept.save(11, 12, 100)
    assert kept.files() == files_of(9, 12, 100)
    kept.checkpoints.stay(kept.folder / "ckpt-100")
    assert kept.files() == files_of(12, 100)
    kept.save(101)
    assert kept.files() == files_of(100, 101)
    state = tf.train.get_checkpoint_state(str(kept.folder))
    assert state.model_checkpoint_path == str(kept.folder / "ckpt-101")
    assert list(state.all_model_checkpoint_paths) == [str(kept.folder / "ckpt-100"), str(kept.folder / "ckpt-101")]
    # A step's checkpoint is not written twice.
    before = (kept.folder / "ckpt-101.index").stat().st_mtime_ns
    kept.save(101)
    assert (kept.folder / "ckpt-101.index").stat().st_mtime_ns == before


def test_a_checkpoint_comes_back_with_all_it_had(tmp_path: Path) -> None:
    Kept(tmp_path).save(5)
    again = Kept(tmp_path)
    last = newest_whole(again.folder)
    assert last is not None
    again.checkpoints.restore(last)
    np.testing.assert_array_equal(again.value, np.full(1_000_000, 5.0))
    wider = Checkpoints(tf.train.Checkpoint(value=tf.Variable(1.0), more=tf.Variable(2.0)), [], again.folder, 2)
    with pytest.raises(UserError, match="ckpt-5 is not one of this training"):
        wider.restore(last)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_training_goes_on_from_the_checkpoint_before_one_that_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: object, part: str
) -> None:
    kept = Kept(tmp_path)
    kept.save(5, 10)
    harm(kept.folder / f"ckpt-10.{part}")  # type: ignore[operator]
    assert newest_whole(kept.folder) == kept.folder / "ckpt-5"
    said = capsys.readouterr().out
    if (harm, part) == (Path.unlink, "index"):
        # Without its index it is what a killed writing leaves.
        assert said == ""
    else:
        assert said.startswith("ckpt-10 is damaged (")
        assert said.endswith("training goes on from ckpt-5\n")
        assert said.count("\n") == 1
    # The next ones take its place.
    again = Kept(tmp_path)
    again.checkpoints.remove_leftovers()
    again.save(7)
    assert again.files() == files_of(5, 7)


def test_nothing_begins_anew_where_all_are_damaged(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert newest_whole(kept.folder) is None
    assert newest_whole(tmp_path / "nothing") is None
    kept.save(5, 10)
    for file in kept.folder.glob("*.data-*"):
        truncate(file)
    with pytest.raises(UserError, match=r"no checkpoint that is whole: ckpt-10 is damaged .*ckpt-5 is damaged"):
        newest_whole(kept.folder)


def test_leftovers_of_a_killed_writing_are_removed_and_a_wrong_state_file_is_not_believed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save(5)
    (kept.folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-77"\nall_model_checkpoint_paths: "ckpt-77"\n')
    (kept.folder / "ckpt-10_temp").mkdir()
    (kept.folder / "ckpt-10_temp" / "part-00000-of-00001.data-00000-of-00001.tempstate1").write_bytes(b"half")
    (kept.folder / "ckpt-10.data-00000-of-00001").write_bytes(b"without an index")
    (kept.folder / ".checkpoint.tmp0b1c").write_text("half")
    (kept.folder / "metrics.jsonl").write_text("")
    assert newest_whole(kept.folder) == kept.folder / "ckpt-5"
    kept.checkpoints.remove_leftovers()
    assert kept.files() == files_of(5) | {"metrics.jsonl"}


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can grow beyond a megabyte, which a write is told as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_writing_that_fails_loses_no_earlier_checkpoint(tmp_path: Path, small_files: None) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    kept = Kept(tmp_path)
    kept.save(5, 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(UserError, match=r"ckpt-15: the checkpoint cannot be written: .*File too large.*; ckpt-10 is kept") as error:
        kept.save(15)
    assert "make room on the disk, then run the same command" in error.value.fix
    assert kept.files() == files_of(5, 10)
    # After room was made.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    kept.save(15)
    assert kept.files() == files_of(10, 15)


Usage = namedtuple("Usage", "total used free")


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)
    # Two of 4 MB, the best, and one that is being written.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 15_900_000))
    kept.checkpoints.confirm_room(one_stays=False)
    with pytest.raises(UserError, match=r"will take 16\.0 MB \(3 of 4\.0 MB each.*the disk has 15\.9 MB") as error:
        kept.checkpoints.confirm_room(one_stays=True)
    assert "--keep" in error.value.fix
    # What is there already will be replaced.
    kept.save(5)
    kept.checkpoints.confirm_room(one_stays=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 3_000_000))
    with pytest.raises(UserError, match=r"the disk has 3\.0 MB left, and it takes 4\.0 MB; ckpt-5 is kept"):
        kept.save(6)
    assert kept.files() == files_of(5)
