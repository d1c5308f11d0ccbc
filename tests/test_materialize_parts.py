"""Parts of a dataset, written apart and in any order, are joined to what a single run writes, byte for byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.annotations.shard import ShardReport
from tasks.materialize import Effort, materialize
from tasks.records.staging import Staging
from tasks.records.tfrecord import index_path, read_shard, write_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, StepResult
from tests.small_dataset import change_annotations, files_of, write_source

SHARDS = 3  # of each of two splits


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "in")
    return tmp_path / "in"


def run(source: Path, out: Path, part: tuple[int, int] | None = None, max_bad: int = 0, shards: int = SHARDS) -> StepResult:
    return materialize(source / "dataset.yaml", out, effort=Effort(shards=shards, max_bad=max_bad, shard_range=part))


def written(out: Path) -> list[str]:
    """The shards that are whole and wait to be joined."""
    return sorted(path.stem for path in out.glob(".incoming/*/*.record-*.json"))


@pytest.mark.parametrize("parts", [[(0, 6)], [(4, 6), (0, 1), (1, 4)], [(0, 4), (2, 6)], [(1, 2)]], ids=str)
def test_parts_in_any_order_are_joined_to_the_bytes_of_a_single_run(source, tmp_path, parts):
    for part in parts:
        result = run(source, tmp_path / "parts", part)
        assert result.status == "part"
        assert len(result.summary["shards"]) == part[1] - part[0]
        assert not (tmp_path / "parts" / "manifest.json").exists()
    joined, single = run(source, tmp_path / "parts"), run(source, tmp_path / "single")
    assert joined.summary == single.summary
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "single")


def test_parts_are_written_at_the_same_time(source, tmp_path):
    command = [sys.executable, "-m", "tasks", "materialize", source / "dataset.yaml", "--output", tmp_path / "parts", "--shards", "3"]
    running = [
        subprocess.Popen([*map(str, command), "--shard-range", part], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for part in ("0:3", "3:6", "2:4")
    ]
    for process in running:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert len(written(tmp_path / "parts")) == 6
    run(source, tmp_path / "parts")
    run(source, tmp_path / "single")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "single")


def test_generated_scenes_come_in_parts_too(tmp_path):
    (tmp_path / "dataset.yaml").write_text("name: scenes\nshapes: {train: 3, val: 2, height: 32, width: 40}\n")
    run(tmp_path, tmp_path / "parts", (0, 2), shards=2)
    run(tmp_path, tmp_path / "parts", (2, 4), shards=2)
    assert len(written(tmp_path / "parts")) == 4
    run(tmp_path, tmp_path / "parts", shards=2)
    run(tmp_path, tmp_path / "single", shards=2)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "single")


@pytest.mark.parametrize("part", [(0, 7), (6, 7), (2, 2), (3, 2)], ids=str)
def test_a_range_out_of_bounds_is_refused_before_anything_is_written(source, tmp_path, part):
    with pytest.raises(UserError, match=f"--shard-range is {part[0]}:{part[1]}\n.*there are 6 shards"):
        run(source, tmp_path / "out", part)
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_run_again_writes_nothing(source, tmp_path, capsys):
    out = tmp_path / "out"
    first = run(source, out, (1, 4))
    shards = {path: path.stat().st_mtime_ns for path in out.glob(".incoming/*/*.record-*")}
    assert len(shards) == 6  # each with its report
    capsys.readouterr()
    assert run(source, out, (1, 4)) == first
    assert "3 of 3 shards are there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_a_part_of_a_complete_dataset_is_skipped(source, tmp_path):
    run(source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    assert run(source, tmp_path / "out", (0, 2)).status == "skipped"
    assert files_of(tmp_path / "out") == before


def test_what_was_written_before_the_input_changed_is_not_joined(source, tmp_path, capsys):
    run(source, tmp_path / "parts", (0, 3))
    change_annotations(source, lambda content: content["annotations"][0].update(area=99))
    run(source, tmp_path / "parts", (3, 6))
    assert "are left aside" in capsys.readouterr().out
    assert len(written(tmp_path / "parts")) == 6  # the earlier ones may be of a run that is still at work
    run(source, tmp_path / "parts")
    assert "3 of 6 shards are there already" in capsys.readouterr().out
    run(source, tmp_path / "single")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "single")


def test_a_bad_image_fails_its_part_and_leaves_the_others(source, tmp_path):
    (source / "images" / "4.png").write_bytes(b"no image")
    out, failed = tmp_path / "out", []
    for index in range(6):
        try:
            run(source, out, (index, index + 1))
        except UserError as error:
            assert "4.png" in error.message
            failed.append(index)
    assert len(failed) == 1
    assert len(written(out)) == 5
    with pytest.raises(UserError, match=r"4\.png"):
        run(source, out)
    assert len(written(out)) == 5

    result = run(source, out, (failed[0], failed[0] + 1), max_bad=1)
    assert result.status == "part"
    with pytest.raises(UserError, match=r"more than 0 images .*\n.*--max-bad"):
        run(source, out)
    assert run(source, out, max_bad=1).summary["quarantined"] == {"image-unreadable": 1}
    run(source, tmp_path / "single", max_bad=1)
    assert files_of(out) == files_of(tmp_path / "single")


def test_bad_images_are_counted_over_all_parts(source, tmp_path):
    for index in range(12):
        (source / "images" / f"{index}.png").write_bytes(b"no image %d" % index)
    run(source, tmp_path / "out", (0, 3), max_bad=10)
    run(source, tmp_path / "out", (3, 6), max_bad=10)
    with pytest.raises(UserError, match="more than 10 images"):
        run(source, tmp_path / "out", max_bad=10)
    assert len(written(tmp_path / "out")) == 6


def test_a_shard_without_a_report_is_not_there(tmp_path):
    plan = {"digest": "1"}
    staging = Staging(DatasetDir(tmp_path), plan)
    write_shard(staging.shard("a"), [b"a record"])
    assert Staging(DatasetDir(tmp_path), plan).report("a") is None
    staging.finish("a", ShardReport().to_json())
    assert Staging(DatasetDir(tmp_path), plan).report("a") == json.loads(json.dumps(ShardReport().to_json()))
    index_path(staging.shard("a")).unlink()
    assert Staging(DatasetDir(tmp_path), plan).report("a") is None


def test_plans_keep_to_themselves(tmp_path):
    """A run that gives up while one of another plan is at work takes nothing from it."""
    dataset = DatasetDir(tmp_path / "out")
    mine, other = Staging(dataset, {"digest": "1"}), Staging(dataset, {"digest": "2"})
    write_shard(mine.shard("a"), [b"mine"])
    mine.finish("a", {})
    write_shard(other.shard("a"), [b"other"])
    other.give_up()
    assert mine.report("a") == {}
    assert list(read_shard(mine.shard("a"))) == [b"mine"]
    mine.give_up()
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_its_folder_is_for(source, tmp_path):
    run(source, tmp_path / "out", (0, 1))
    (plan,) = (tmp_path / "out").glob(".incoming/*/plan.json")
    content = json.loads(plan.read_text())
    assert re.fullmatch("[0-9a-f]{64}", content["digest"])
    assert content["shards"]["val"] == [f"val.record-0000{index}-of-00003" for index in range(3)]
