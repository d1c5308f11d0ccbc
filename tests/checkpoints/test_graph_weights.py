"""Weights of exported models are those of the checkpoint that was exported; a hostile graph costs neither time nor memory."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tasks.checkpoints import graph_weights
from tasks.checkpoints.files import checkpoint_digest, find_checkpoint
from tasks.checkpoints.importing import import_checkpoint
from tasks.checkpoints.reader import stored_variables
from tasks.running.errors import UserError
from tests.checkpoints.exported_model import write_frozen_graph, write_saved_model
from tests.checkpoints.test_importing import TinyModel, arbitrary_for, values_of
from tests.checkpoints.tf1_checkpoint import write_checkpoint

NETWORK = "faster_rcnn_resnet50"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TF1's exporter left, without a checkpoint: the frozen graph, and two kinds of SavedModels."""
    folder = tmp_path_factory.mktemp("exports") / "inference_graph"
    stored = arbitrary_for(TinyModel(3))
    write_frozen_graph(folder, stored)
    write_saved_model(folder / "saved_model", stored)
    write_saved_model(folder.parent / "with_variables" / "saved_model", stored, frozen=False)
    return folder


def packed(folder: Path, tarball: Path) -> Path:
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(folder, folder.name)
    return tarball


def test_every_exported_form_restores_a_whole_model(exported: Path, tmp_path: Path) -> None:
    variables = exported.parent / "with_variables"
    saved = packed(exported / "saved_model", tmp_path / "saved.tgz")
    places = [exported, exported / "frozen_inference_graph.pb", exported / "saved_model", exported / "saved_model" / "saved_model.pb"]
    places += [variables, variables / "saved_model", saved]
    places += [packed(exported, tmp_path / "all.tar.gz"), packed(variables, tmp_path / "variables.tar")]
    for place in places:
        model = TinyModel(3)
        stored = arbitrary_for(model)
        report = import_checkpoint(model, find_checkpoint(place, "any"), "full")
        assert (set(report.restored), report.missing) == (set(stored), ()), place
        for name, value in values_of(model).items():
            np.testing.assert_array_equal(value, stored[name], err_msg=f"{place}: {name}")


def test_only_weights_are_taken_for_weights(exported: Path) -> None:
    with stored_variables(exported / "frozen_inference_graph.pb", NETWORK) as stored:
        assert stored.shapes.keys() == arbitrary_for(TinyModel(3)).keys()
        assert not stored.of_objects


def test_a_checkpoint_comes_before_the_graph_beside_it(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(exported, folder)
    write_checkpoint(folder / "model.ckpt", {"Conv/weights": np.zeros(3, np.float32)})
    for place in (folder, packed(folder, tmp_path / "both.tar.gz")):
        with stored_variables(find_checkpoint(place, "any"), NETWORK) as stored:
            assert dict(stored.shapes) == {"Conv/weights": (3,)}


def test_halves_are_read_as_floats(tmp_path: Path) -> None:
    file = write_frozen_graph(tmp_path, {"Conv/weights": np.float16([1.5, 2.5]), "Conv/biases": np.float32([7, 7])})
    with stored_variables(file, NETWORK) as stored:
        assert stored.read("Conv/weights").dtype == np.float32
        np.testing.assert_array_equal(stored.read("Conv/weights"), [1.5, 2.5])


def test_a_digest_tells_one_checkpoint_from_another_wherever_it_lies(exported: Path, tmp_path: Path) -> None:
    graph = exported / "frozen_inference_graph.pb"
    variables = exported.parent / "with_variables" / "saved_model"
    index = variables / "variables" / "variables.index"
    expected = {graph: graph, exported: graph, variables: index, variables / "saved_model.pb": index}
    for place, file in expected.items():
        assert checkpoint_digest(place) == hashlib.sha256(file.read_bytes()).hexdigest(), place
    assert checkpoint_digest(tmp_path / "nowhere" / "model.ckpt") is None


def constant(name: str, shape: list[int], values: bytes = b"") -> graph_pb2.GraphDef:
    """A graph of one constant that says of itself whatever it likes."""
    graph = graph_pb2.GraphDef()
    node = graph.node.add(name=name, op="Const")
    tensor = node.attr["value"].tensor
    tensor.dtype = tf.float32.as_datatype_enum
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = values
    return graph


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a graph"),
        (b"\x0a\xff\xff\xff\xff\x0f", "longer than its message"),
        (b"\x80" * 100_000, "a number has no end"),
        (constant("Conv/weights", [2**40, 2**40]).SerializeToString(), "a constant has the shape"),
        (constant("Conv/weights", [-1]).SerializeToString(), "a constant has the shape"),
        (constant("Conv/kernel", [2]).SerializeToString(), "no weights under the original's names"),
        (b"\x0a\x00" * 20_000, "more than 10000 fields"),
        (graph_pb2.GraphDef(node=[{"name": "a", "op": "Const"}] * 4_000).SerializeToString(), "more than 10000 fields"),
    ],
)
def test_a_hostile_graph_is_refused(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_weights, "MOST_FIELDS", 10_000)
    file = tmp_path / "frozen_inference_graph.pb"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message), stored_variables(file, NETWORK):
        pass


def test_values_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "saved_model.pb"
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    model.meta_graphs.add().graph_def.CopyFrom(constant("Conv/weights", [4], bytes(12)))
    file.write_bytes(model.SerializeToString())
    with stored_variables(file, NETWORK) as stored, pytest.raises(UserError, match=r"the values of Conv/weights are damaged"):
        stored.read("Conv/weights")


def test_a_pointer_stands_for_a_graph_that_was_not_fetched(tmp_path: Path) -> None:
    file = tmp_path / "frozen_inference_graph.pb"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    for place in (file, tmp_path):
        with pytest.raises(UserError, match="git lfs pull"):
            find_checkpoint(place, "any")
