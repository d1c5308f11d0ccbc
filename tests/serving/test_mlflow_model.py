"""A network as MLflow's model: loaded in this process, and served by `mlflow models serve`."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as pycoco

from tasks.coco.paste import image_detections
from tasks.evaluation.thresholds import OWN, Rule, Threshold, Thresholds, write_thresholds
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.workspace import read_json
from tasks.serving.mlflow_model import save_for_mlflow
from tasks.serving.signatures import resized_images, served_outputs

NAMES = {1: "date", 2: "fig", 3: "hazelnut"}
EXAMPLE = np.random.default_rng(1).integers(0, 256, (40, 700, 3), np.uint8)
PICTURES = (EXAMPLE[:, :60], EXAMPLE[:, 100:150])


@pytest.fixture(scope="module")
def network() -> MaskRCNN:
    tf.keras.utils.set_random_seed(0)
    network = MaskRCNN(
        config.MaskRCNN(
            num_classes=3,
            image_resizer=config.ImageResizer(min_dimension=64, max_dimension=100),
            feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2"),
            anchors=config.GridAnchorGenerator(height=64, width=64),
            first_stage=config.FirstStage(max_proposals=6),
            second_stage=config.SecondStage(max_total_detections=4),
            mask_head=config.MaskHead(height=7, width=7, conv_depth=8),
        )
    )
    # Untrained masks are near a half everywhere; these fill their boxes.
    network.mask_head.convs[-1].bias.assign_add(tf.ones([3]))
    return network


@pytest.fixture(scope="module")
def model(network: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    # A threshold that parts the detections of one class, and leaves out all others.
    found = [one for picture in PICTURES for one in own_detections(network, picture, 0)]
    (name, _), *_ = Counter(one["name"] for one in found).most_common(1)
    parted = [one["score"] for one in found if one["name"] == name]
    scores = {number: (min(parted) + max(parted)) / 2 if one == name else 1.0 for number, one in NAMES.items()}
    chosen = Thresholds(Rule(), tuple(Threshold(number, NAMES[number], score, 20, OWN) for number, score in scores.items()), {})
    write_thresholds(folder.with_name("thresholds.json"), chosen)
    save_for_mlflow(network, folder, NAMES, EXAMPLE, folder.with_name("thresholds.json"))
    return folder


def own_detections(network: MaskRCNN, pixels: np.ndarray, min_score: float) -> list[dict[str, Any]]:
    images = tf.constant(pixels[np.newaxis])
    served = served_outputs(network, *resized_images(images, "image_tensor", network.config.image_resizer))
    found = image_detections({name: value.numpy()[0] for name, value in served.items()}, *pixels.shape[:2], min_score=min_score)
    return [detection | {"name": NAMES[detection["category_id"]]} for detection in found]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert {name: one[name] for name in ("category_id", "name")} == {name: other[name] for name in ("category_id", "name")}
        np.testing.assert_allclose([one["score"], *one["bbox"]], [other["score"], *other["bbox"]], rtol=1e-3, atol=1e-3)
        masks = [{**each["segmentation"], "counts": each["segmentation"]["counts"].encode()} for each in (one, other)]
        assert masks[0]["size"] == masks[1]["size"]
        assert pycoco.iou(masks[:1], masks[1:], [False])[0, 0] > 0.99


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_loaded_model_answers_with_detections(network: MaskRCNN, model: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(model))
    table = pd.DataFrame({"image": [png(picture) for picture in PICTURES]})
    answer = loaded.predict(table, {"min_score": 0.0})
    for row, picture in zip(answer, PICTURES, strict=True):
        assert_same(row["detections"], own_detections(network, picture, 0))
    # None is surer than a half: the weights are untrained.
    assert loaded.predict(pd.DataFrame({"image": [png(EXAMPLE)]})) == [{"detections": own_detections(network, EXAMPLE, 0.5)}]
    # By the operating thresholds when they are asked for.
    least = {one["id"]: one["score"] for one in read_json(model.with_name("thresholds.json"))["categories"]}
    chosen = loaded.predict(table, {"operating_thresholds": True})
    expected = [[one for one in row["detections"] if one["score"] >= least[one["category_id"]]] for row in answer]
    assert [row["detections"] for row in chosen] == expected
    assert 0 < sum(map(len, expected)) < sum(len(row["detections"]) for row in answer)


def test_model_says_what_it_takes_and_needs(model: Path) -> None:
    described = mlflow.models.Model.load(str(model))
    assert described.signature.inputs.to_dict() == [{"name": "image", "type": "binary", "required": True}]
    assert [parameter.name for parameter in described.signature.params] == ["min_score", "operating_thresholds"]
    example = described.load_input_example(str(model))
    with Image.open(io.BytesIO(example["image"][0])) as image:
        assert image.size == (320, 18)
    requirements = (model / "requirements.txt").read_text().splitlines()
    assert f"tensorflow=={tf.__version__}" in requirements
    assert not any(line.startswith("maskline") for line in requirements)
    # Nor is the project taken for the model's whose folder the program happens to run in.
    assert not (model / "uv.lock").exists()
    # The code is a file, not a pickle.
    assert not list(model.rglob("*.pkl"))
    assert (model / "code" / "paste.py").is_file()


@pytest.fixture
def served(model: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of `mlflow models serve` on this model; its process knows nothing of this project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--workers", "1"],
            cwd=tmp_path,
            env=environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(f"{url}/ping", server, tmp_path / "log")
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_mlflow_serves_a_photograph(network: MaskRCNN, served: str, shared_data: Path) -> None:
    photo = min((shared_data / "fruits_nuts" / "data" / "images").iterdir())
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(photo.read_bytes()).decode()]]},
        "params": {"min_score": 0.0},
    }
    request = urllib.request.Request(f"{served}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        (row,) = json.loads(response.read())["predictions"]
    with Image.open(photo) as image:
        assert_same(row["detections"], own_detections(network, np.asarray(image.convert("RGB")), 0))


def test_what_is_no_picture_is_the_clients_mistake(model: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(model))
    with pytest.raises(mlflow.MlflowException, match="row 1: `image` is no image file that Pillow reads") as error:
        loaded.predict(pd.DataFrame({"image": [png(EXAMPLE), b"no picture"]}))
    assert error.value.get_http_status_code() == 400
