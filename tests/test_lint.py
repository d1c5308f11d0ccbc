"""The lint step on files: what it prints, where it points, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.convert import convert
from tasks.lint import lint_config
from tasks.pipeline_config.fine_tuning import StartingPoint
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir
from tests.checkpoints.tf1_checkpoint import write_checkpoint

ZOO = "mask_rcnn_resnet50_atrous_coco"


def test_what_convert_wrote_has_no_error(scenes: DatasetDir, tmp_path: Path) -> None:
    model = ModelDir(tmp_path / ZOO)
    convert(ZOO, scenes, model)
    assert lint_config(str(model.pipeline_config)).summary == {"config": "pipeline", "errors": [], "warnings": ["ML014", "ML014"]}


def test_a_dataset_stands_for_the_config_s_own(scenes: DatasetDir, capsys: pytest.CaptureFixture[str]) -> None:
    # The zoo's config is made for COCO's 90 classes, and reports boxes only.
    assert lint_config(ZOO, scenes).summary == {"config": ZOO, "errors": [], "warnings": ["ML002", "ML008", "ML014", "ML014"]}
    text = Path(__file__).resolve().parents[1].joinpath("configs", "zoo", f"{ZOO}.config").read_text()
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "num_classes: 90" in line)
    assert f"{ZOO}.config:{line}:5: model.faster_rcnn.num_classes: 90, but the label map's ids end at 4\n" in capsys.readouterr().out


def test_records_called_otherwise_are_offered(scenes: DatasetDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelDir(tmp_path / ZOO)
    convert(ZOO, scenes, model)
    model.pipeline_config.write_text(model.pipeline_config.read_text().replace("/train.record", "/trains.record"))
    assert lint_config(str(model.pipeline_config)).summary["errors"] == ["ML004"]
    assert f"fix: is it {scenes.root}/train.record-00000-of-00001?" in capsys.readouterr().out


def test_records_are_looked_into(scenes: DatasetDir, tmp_path: Path) -> None:
    model = ModelDir(tmp_path / ZOO)
    convert(ZOO, scenes, model)
    model.pipeline_config.write_text(model.pipeline_config.read_text().replace("PNG_MASKS", "NUMERICAL_MASKS"))
    assert lint_config(str(model.pipeline_config)).summary["errors"] == ["ML005", "ML005"]


def test_checkpoints_are_looked_into(scenes: DatasetDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelDir(tmp_path / ZOO)
    checkpoint = write_checkpoint(tmp_path / "mask_rcnn_resnet50" / "model.ckpt", {"InceptionV2/Conv2d_1a_7x7/weights": np.zeros((1, 1))})
    convert(ZOO, scenes, model, start=StartingPoint(checkpoint, "classification"))
    assert lint_config(str(model.pipeline_config)).summary["errors"] == ["ML013"]
    assert "the checkpoint has nothing for resnet_v1_50" in capsys.readouterr().out
    objects = tf.train.Checkpoint(kernel=tf.Variable([1.0])).write(str(tmp_path / "objects.ckpt"))
    model.pipeline_config.write_text(model.pipeline_config.read_text().replace(str(checkpoint), objects))
    assert lint_config(str(model.pipeline_config)).summary["errors"] == ["ML013"]
    assert "the checkpoint has nothing for resnet_v1_50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "options", "code", "words"),
    [
        ("good", [], 0, "lint: done"),
        ("good", ["--strict"], 1, "warning ML014"),
        ("bad", [], 1, "error ML010"),
        ("broken", [], 2, "error: ML022 broken.config:1:1: modell: the top level has no field modell"),
    ],
)
def test_how_the_command_ends(scenes: DatasetDir, tmp_path: Path, config: str, options: list[str], code: int, words: str) -> None:
    convert(ZOO, scenes, ModelDir(tmp_path))
    good = (tmp_path / "pipeline.config").read_text()
    (tmp_path / "good.config").write_text(good)
    (tmp_path / "bad.config").write_text(good.replace("maxpool_kernel_size: 2", "maxpool_kernel_size: 20"))
    (tmp_path / "broken.config").write_text("modell {}")
    answer = tmp_path / "answer.json"
    arguments = ["lint", str(tmp_path / f"{config}.config"), *options, "--result", str(answer)]
    program = f"import sys, atexit; sys.argv = {['maskline', *arguments]!r}\nfrom tasks.cli import main\n"
    program += "atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert words in (done.stdout + done.stderr).replace(f"{tmp_path}/", "")
    assert done.stderr.split()[-1] == "False"
    if code < 2:
        assert json.loads(answer.read_text())["step"] == "lint"


REFUSED = {
    "unreadable": (lambda text: text.replace("model {", "modell {"), ["ML022"]),
    "ssd": (lambda text: "model { ssd { num_classes: 3 } }", ["ML023"]),
    "nas": (lambda text: text.replace("faster_rcnn_resnet50", "faster_rcnn_nas"), ["ML023"]),
    "range": (lambda text: text.replace("batch_size: 1", "batch_size: 0"), ["ML024"]),
    "context": (lambda text: text.replace("number_of_stages: 3", "number_of_stages: 3 context_config {}"), ["ML023"]),
    "field": (lambda text: text.replace("number_of_stages: 3", "number_of_stages: 3 inplace_batchnorm_update: true"), ["ML025"]),
    "several": (
        lambda text: (
            text.replace("faster_rcnn_resnet50", "faster_rcnn_resnet50_fpn_keras")
            .replace("number_of_stages: 3", "number_of_stages: 3 inplace_batchnorm_update: true")
            .replace("batch_size: 1", "batch_size: 0")
        ),
        ["ML023", "ML024", "ML025"],
    ),
    "good": (lambda text: text, []),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_lint_reports_what_convert_refuses(scenes: DatasetDir, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    convert(ZOO, scenes, ModelDir(tmp_path / "good"))
    change, codes = REFUSED[kind]
    config = tmp_path / "a.config"
    config.write_text(change((tmp_path / "good" / "pipeline.config").read_text()))
    capsys.readouterr()
    try:
        errors = lint_config(str(config)).summary["errors"]
    except UserError as error:
        errors = [error.message.split()[0]]
        print(error)
    assert errors == codes
    printed = capsys.readouterr().out
    if errors:
        with pytest.raises(UserError) as caught:
            convert(str(config), scenes, None)
        places = re.findall(r"a\.config:\d+:\d+: [\w.]+", str(caught.value))
        assert len(places) == len(errors)
        assert all(place in printed for place in places)
    else:
        convert(str(config), scenes, None)
