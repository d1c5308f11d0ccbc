"""A checkpoint that is written as the original's TensorFlow 2 did gives its detections; the tools for it lie beside the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.checkpoints.files import find_checkpoint
from tasks.checkpoints.importing import import_checkpoint
from tasks.mask_rcnn.model import MaskRCNN
from tests.parity.inference import resized
from tests.parity.reference import REFERENCES, Reference

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "parity" / "tf2"


@pytest.mark.slow
def test_the_original_s_checkpoint_gives_the_original_s_detections(tmp_path: Path) -> None:
    if not TOOLS.is_dir():
        pytest.skip(f"what writes such checkpoints is not here: {TOOLS}")
    prefix = tmp_path / "exported" / "checkpoint" / "ckpt-0"
    prefix.parent.mkdir(parents=True)
    table = TOOLS / "keys" / "resnet50_mask_exported.json"
    subprocess.run([sys.executable, TOOLS / "make_tf2_ckpt.py", table, prefix, "--seed", "0"], check=True, cwd=tmp_path)
    reference = Reference(REFERENCES / "tf2" / "resnet50_mask_small.npz")
    settings = reference.model()
    model = MaskRCNN(settings)
    report = import_checkpoint(model, find_checkpoint(tmp_path / "exported", "any"), "full")
    assert (report.missing, report.reshaped) == ((), {})
    outputs = tf.function(model)(*resized(reference, settings.image_resizer))
    for name in ("boxes", "scores", "classes", "masks"):
        np.testing.assert_allclose(outputs[f"detection_{name}"], reference[f"infer/detection_{name}"], atol=1e-4, err_msg=name)
