"""A pointer to a large file is called so wherever the file itself is expected, with the command that fetches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.annotations.folder import listed_words
from tasks.annotations.json_file import read_json_object
from tasks.annotations.mask_file import read_mask
from tasks.annotations.voc_xml import read_voc_xml
from tasks.checkpoints.files import checkpoint_prefix, find_checkpoint
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.records.image_file import encode_image
from tasks.records.label_map import read_label_map
from tasks.records.tfrecord import read_shard, record_at, record_offsets
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_at, pointer_in
from tests.annotations.files import LFS_POINTER

ANNEX_POINTER = "/annex/objects/SHA256E-s12345--0000.jpg\n"


def prefix(path: Path) -> None:
    with checkpoint_prefix(path.with_name("model.ckpt")):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "a.jpg": lambda path: encode_image(str(path), path.read_bytes(), None),
    "a.png": lambda path: read_mask(path, (4, 4)),
    "a.xml": read_voc_xml,
    "a.json": lambda path: read_json_object(path, "LabelMe"),
    "list.txt": lambda path: listed_words(path, "image_set"),
    "labels.pbtxt": read_label_map,
    "pipeline.config": read_pipeline_config,
    "a.record": lambda path: list(read_shard(path)),
    "b.record": record_offsets,
    "c.record": lambda path: record_at(path, 0),
    "zoo.tar.gz": lambda path: find_checkpoint(path, "zoo"),
    "model.ckpt.data-00000-of-00001": prefix,
    "model.ckpt.index": prefix,
    "model.ckpt": prefix,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("text", "command"), [(LFS_POINTER, "git lfs pull"), (ANNEX_POINTER, "git annex get")], ids=["LFS", "annex"])
def test_a_pointer_is_called_so_and_the_way_to_the_file_is_told(tmp_path, name, text, command):
    path = tmp_path / name
    if name.endswith("00001"):
        (tmp_path / "model.ckpt.index").write_bytes(b"")
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}: it is a .* pointer, and the file itself was not fetched\n.*{command}"):
        READERS[name](path)


def test_what_only_mentions_one_is_none(tmp_path):
    assert pointer_in(b"A " + LFS_POINTER.encode()) is None
    assert pointer_in(b"") is None
    assert pointer_at(tmp_path / "absent") is None
    assert pointer_at(tmp_path) is None
