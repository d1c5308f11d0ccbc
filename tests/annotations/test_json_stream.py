"""Lists that are read piece by piece, against the standard library's reading of the whole text."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tasks.annotations import json_stream
from tasks.annotations.json_stream import top_level_lists

CONTENT = {
    "info": {"year": 2017, "lists": [1, 2]},
    "images": [{"id": 1, "name": "Größe ☃ 🥨", "empty": {}}, {"id": 2.5e-3}],
    "empty": [],
    "mixed": [12, -3.25, "12", True, None, [[1, 2], []], {"a": [{"b": 1}]}],
    "note": 'a \\ "quoted" ] } text',
    "number": 1234,
}


def lists_of(content: str | bytes) -> dict[str, Any]:
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    found = {}
    for key, elements in top_level_lists(stream):
        both = list(elements)
        found[key] = [value for value, _ in both]
        assert [json.loads(text) for _, text in both] == found[key]
    return found


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":"), "ensure_ascii": False}], ids=str)
def test_lists_are_what_the_standard_library_reads(monkeypatch, chunk, options):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    assert lists_of(json.dumps(CONTENT, **options)) == {key: value for key, value in CONTENT.items() if isinstance(value, list)}


def test_a_list_that_is_not_taken_is_passed_over():
    assert [key for key, _ in top_level_lists(io.BytesIO(json.dumps(CONTENT).encode()))] == ["images", "empty", "mixed"]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_text_cut_off_anywhere_is_refused(monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    content = json.dumps(CONTENT, ensure_ascii=False).encode()
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"character|unexpected end of data"):
            lists_of(content[:end])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "1", "{} {}", '{"a": [1,]}', '{"a": [1 2]}', '{"a": [1], }', '{"a" [1]}', "{1: [2]}", '{"a": [NaN]}', '{"a": [-Infinity]}',
     '{"a": ' + "[" * 100_000, b'{"a": ["\xff"]}', '{"a": [}]'],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(content):
    with pytest.raises(ValueError, match=r"character|invalid start byte"):
        lists_of(content)


def test_the_place_of_a_fault_is_told_within_the_whole_text(monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 4)
    with pytest.raises(ValueError, match=r"character 23$"):
        lists_of('{"a": [1, 22, 333, "b" 4]}')
