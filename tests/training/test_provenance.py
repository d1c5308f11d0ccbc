"""What is kept of a training's conditions, and what is told of their differences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tensorflow as tf

from tasks.records.label_map import LabelMap
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.provenance import PROVENANCE, Conditions, conditions, differences, flags, keep_conditions, kept_conditions

RECORDS = RecordSet("pets", "ab" * 32, Path("pets"), {}, LabelMap({1: "cat"}), Path("pets"), {})


def now(checkpoint: str = "") -> Conditions:
    experiment = mask_rcnn_zoo()
    experiment.task.init_checkpoint = checkpoint
    experiment.task.train_data.seed = 7
    return conditions(experiment, RECORDS)


def test_conditions_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    (tmp_path / "model.ckpt.index").write_bytes(b"index")
    found = now(str(tmp_path / "model.ckpt"))
    assert found["data"] == {"name": "pets", "digest": "ab" * 32}
    assert found["start"] == {"checkpoint": hashlib.sha256(b"index").hexdigest(), "seed": "7"}
    assert found["packages"]["numpy"]
    assert found["packages"]["tf_keras"]
    assert found["code"]["tensorflow"] == tf.__version__
    assert found["code"]["lock file"] == hashlib.sha256((Path(__file__).parents[2] / "uv.lock").read_bytes()).hexdigest()
    assert found["environment"]["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert int(found["hardware"]["cores"]) >= 1
    assert found["hardware"]["processor"]
    assert now()["start"]["checkpoint"] == "from scratch"
    assert "is not there" in now("/nowhere/model.ckpt")["start"]["checkpoint"]


def test_each_difference_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    then = now()
    assert differences(then, now()) == []
    then["packages"]["numpy"] = "1.0"
    then["packages"]["long-gone"] = "2.0"
    then["code"]["sources"] = "cd" * 32
    monkeypatch.setenv("XLA_FLAGS", "--x")
    later = now()
    assert sorted(differences(then, later)) == [
        f"code: sources: cdcdcdcdcdcd then, {later['code']['sources'][:12]} now",
        "environment: XLA_FLAGS: none then, --x now",
        "packages: long-gone: 2.0 then, none now",
        f"packages: numpy: 1.0 then, {later['packages']['numpy']} now",
    ]
    assert flags(then)["XLA_FLAGS"] is None
    assert flags(later)["XLA_FLAGS"] == "--x"


def test_sessions_of_a_training_that_was_resumed(tmp_path: Path) -> None:
    first, second = ({"data": {"digest": digest}} for digest in "ab")
    keep_conditions(tmp_path, first, 0)
    keep_conditions(tmp_path, second, 40)
    assert kept_conditions(tmp_path) == [(0, first), (40, second)]
    # Killed before another checkpoint, it goes on from the same step; from an earlier one, the later session was in vain.
    keep_conditions(tmp_path, first, 40)
    assert kept_conditions(tmp_path) == [(0, first), (40, first)]
    keep_conditions(tmp_path, second, 20)
    assert kept_conditions(tmp_path) == [(0, first), (20, second)]
    keep_conditions(tmp_path, second, 0)
    assert kept_conditions(tmp_path) == [(0, second)]


@pytest.mark.parametrize("content", ["[]", "{}", '{"sessions": [1]}', '{"sessions": [{"step": "x", "conditions": {}}]}'])
def test_file_of_somebody_else_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=f"holds no {PROVENANCE}"):
        kept_conditions(tmp_path)
    (tmp_path / PROVENANCE).write_text(content)
    with pytest.raises(UserError, match="is not what `maskline train` writes"):
        kept_conditions(tmp_path)
    assert json.loads(content) is not None
