"""A schedule trains where data, configs, settings or code are others than in its last good run, and only there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.materialize import materialize
from tasks.recall import recall
from tasks.remember import remember
from tasks.running import schedule_memory
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, RunDir, StepResult, schedule_file

CONFIG = "mask_rcnn_inception_v2_coco"
SETTINGS = {"steps": "100", "learning_rate": "0.001", "proposals": ""}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetDir:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    return drawn(tmp_path, seed=1)


def drawn(root: Path, seed: int) -> DatasetDir:
    source = root / "scenes.yaml"
    source.write_text(f"name: scenes\nshapes: {{train: 3, val: 3, height: 64, width: 80, seed: {seed}}}\n")
    materialize(source)
    return DatasetDir(root / "datasets" / "scenes")


def run(dataset: DatasetDir, name: str) -> RunDir:
    return RunDir(dataset.root.parents[1] / "runs" / name)


def ask(dataset: DatasetDir, name: str, settings: dict[str, str] = SETTINGS, **wishes: Any) -> StepResult:
    return recall("weekly", run(dataset, name), dataset, [CONFIG], settings, **wishes)


@pytest.fixture
def first(dataset: DatasetDir) -> RunDir:
    """A run that ended well."""
    assert ask(dataset, "first").summary["reason"] == "no run of this schedule ended well yet"
    remember("weekly", run(dataset, "first"))
    return run(dataset, "first")


def test_the_same_again_is_skipped_saying_why(dataset: DatasetDir, first: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    result = ask(dataset, "second")
    assert result.status == "skipped"
    assert result.summary["reason"] == "nothing has changed since first, the last good run: the same data, configs, settings and code"
    assert result.summary["reason"] in capsys.readouterr().out
    assert not run(dataset, "second").root.exists()


def test_a_run_that_failed_is_no_reason_to_skip(dataset: DatasetDir) -> None:
    ask(dataset, "failed")  # and is never remembered
    assert ask(dataset, "second").status == "done"


def test_other_data_is_told_by_its_digest(dataset: DatasetDir, first: RunDir, tmp_path: Path) -> None:
    before = json.loads(dataset.manifest.read_text())["digest"]
    drawn(tmp_path, seed=2)
    after = json.loads(dataset.manifest.read_text())["digest"]
    result = ask(dataset, "second")
    assert (result.status, result.summary["reason"]) == ("done", f"data digest: {before[:12]} -> {after[:12]}")
    # With which the comparison of this run says what the data gained.
    assert result.summary["before"] == str(first.root)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": "200"}, "settings steps: 100 -> 200"),
        ({"learning_rate": ""}, "settings learning_rate: 0.001 -> none"),
        ({"proposals": "50"}, "settings proposals: none -> 50"),
    ],
)
def test_other_settings_are_told(dataset: DatasetDir, first: RunDir, settings: dict[str, str], told: str) -> None:
    summary = ask(dataset, "second", SETTINGS | settings).summary
    assert (summary["reason"], summary["before"]) == (told, "")


def test_an_edited_config_is_another_one(dataset: DatasetDir, tmp_path: Path) -> None:
    config = tmp_path / "mine.config"
    config.write_text("model {}")
    recall("weekly", run(dataset, "first"), dataset, [str(config)], {})
    remember("weekly", run(dataset, "first"))
    config.write_text("model { }")
    assert recall("weekly", run(dataset, "second"), dataset, [str(config)], {}).summary["reason"].startswith("configs mine: ")


def test_another_program_is_told(dataset: DatasetDir, first: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.recall.code", lambda: schedule_memory.code() | {"maskline": "9.9"})
    assert ask(dataset, "second").summary["reason"] == f"code maskline: {schedule_memory.code()['maskline']} -> 9.9"


def test_a_person_may_insist(dataset: DatasetDir, first: RunDir) -> None:
    result = ask(dataset, "second", force=True)
    assert (result.status, result.summary["reason"]) == ("done", "forced")


def test_the_last_good_run_itself_may_be_run_again(dataset: DatasetDir, first: RunDir) -> None:
    assert ask(dataset, "first").status == "done"


def test_schedules_do_not_know_each_other(dataset: DatasetDir, first: RunDir) -> None:
    assert recall("nightly", run(dataset, "second"), dataset, [CONFIG], SETTINGS).status == "done"


def test_a_run_whose_folder_is_gone_is_none(dataset: DatasetDir, first: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(first.root)
    assert ask(dataset, "second").status == "done"
    assert f"the last good run was {first.root}, which is gone" in capsys.readouterr().out


def test_a_memory_that_is_none_is_told(dataset: DatasetDir, first: RunDir) -> None:
    schedule_file("weekly").write_text("{}")
    with pytest.raises(UserError, match="is not what `maskline remember` writes"):
        ask(dataset, "second")


def test_remembering_needs_what_recall_wrote(dataset: DatasetDir) -> None:
    with pytest.raises(UserError, match=r"ingredients\.json does not exist"):
        remember("weekly", run(dataset, "never asked"))


def trained(run: RunDir, config: str) -> Path:
    """The folder of a model with a checkpoint, as far as those who look for one can see."""
    folder = run.model(config).train
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").touch()
    (folder / "ckpt-7.index").touch()
    return folder.parent


def test_each_config_starts_from_the_weights_of_the_last_good_run_that_has_them(
    dataset: DatasetDir, first: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other, several = trained(first, CONFIG), "mask_rcnn_resnet50_atrous_coco", "mask_rcnn_resnet101_atrous_coco"
    seeds = [trained(first, f"{several}-seed{seed}") for seed in (1, 2)]
    settings = SETTINGS | {"checkpoint": "/zoo", "checkpoint_label_map": "coco"}
    result = recall("weekly", run(dataset, "second"), dataset, [CONFIG, other, several], settings, from_last_good_run=True)
    assert result.summary["starts"] == {
        several: {"checkpoint": str(seeds[0]), "label_map": ""},
        # Our own weights bring their classes.
        CONFIG: {"checkpoint": str(own), "label_map": ""},
        other: {"checkpoint": "/zoo", "label_map": "coco"},
    }
    told = capsys.readouterr().out
    assert f"{CONFIG} starts from the weights of the last good run, {own}" in told
    assert f"{other} starts from /zoo: the last good run did not train {other}" in told


def test_before_there_is_a_good_run_training_starts_elsewhere_saying_so(dataset: DatasetDir, capsys: pytest.CaptureFixture[str]) -> None:
    result = ask(dataset, "first", from_last_good_run=True)
    assert result.summary["starts"] == {CONFIG: {"checkpoint": "", "label_map": ""}}
    assert f"{CONFIG} starts from scratch: no run of this schedule ended well yet" in capsys.readouterr().out


def test_the_weights_of_the_last_run_alone_are_no_change(dataset: DatasetDir) -> None:
    ask(dataset, "first", from_last_good_run=True)
    remember("weekly", run(dataset, "first"))
    trained(run(dataset, "first"), CONFIG)
    assert ask(dataset, "second", from_last_good_run=True).status == "skipped"
