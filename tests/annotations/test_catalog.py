"""Images of a store are asked for many at a time, and still come in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from tasks.annotations.catalog import Catalog, read_ahead
from tasks.annotations.coco import CocoSource
from tasks.annotations.source import ListedImage
from tasks.running.workers import Workers
from tests.annotations.files import write


@pytest.fixture
def wait_for_the_last(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From each call on, the store hands out 0.png when it has been asked for 2.png too."""
    asked = threading.Event()
    cat_file = MemoryFileSystem.cat_file

    def slow(store: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> bytes:
        if path.endswith("2.png"):
            asked.set()
        assert not path.endswith("0.png") or asked.wait(60), "2.png was not asked for meanwhile"
        return cat_file(store, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", slow)
    return asked.clear


def test_a_store_is_asked_for_many_images_at_once(tmp_path: Path, wait_for_the_last: Callable[[], None]) -> None:
    folder = UPath(f"memory:/{tmp_path}")
    source = CocoSource(folder, folder / "all.json")
    for index in range(3):
        write(folder / f"{index}.png", b"image %d" % index)
    images = [ListedImage(str(index), f"{index}.png", folder / f"{index}.png", None, None) for index in range(3)]
    catalog = Catalog(tmp_path / "catalog.sqlite")
    wait_for_the_last()
    assert len(list(catalog.fill("all", source, iter(images), lambda _: "train", Workers(1, "tasks.annotations.shard")))) == 3
    assert catalog.arrange(None) == {"train": 3}
    wait_for_the_last()
    read = [(entry.image.source_id, content()) for entry, content in read_ahead(catalog.part("train", 0, 1), {"all": source})]
    assert read == [("0", b"image 0"), ("1", b"image 1"), ("2", b"image 2")]
