"""The shortened JPEG against the whole one: Pillow decodes both or refuses both, however the file is broken."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from tasks.records.jpeg import decoding_sample


def photograph(seed: int = 0, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=75, **options)
    return stream.getvalue()


def decodes(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def broken(content: bytes, chance: random.Random) -> bytes:
    """The file with its end, some bytes or a stretch of it lost or changed, its headers as often as its pixels."""
    at = chance.randrange(len(content) if chance.random() < 0.5 else 640)
    length = chance.randrange(1, 100)
    put = chance.choice([b"", bytes(length), chance.randbytes(length), chance.randbytes(1)])
    return content[:at] if chance.random() < 0.1 else content[:at] + put + content[at + chance.choice([0, len(put), length]) :]


def test_a_photographs_sample_is_short():
    content = photograph()
    sample = decoding_sample(content)
    assert sample is not None
    assert len(sample) < 4000 < len(content)
    with Image.open(io.BytesIO(sample)) as image:
        assert image.size == (128, 16)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}], ids=["progressive", "restarts"])
def test_an_unusual_file_has_none(options):
    assert decoding_sample(photograph(**options)) is None


def test_a_file_that_is_cut_off_anywhere_has_none():
    content = photograph()
    assert [decoding_sample(content[:end]) for end in range(0, len(content), 7)] == [None] * len(range(0, len(content), 7))


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_file_and_its_sample_decode_alike(seed):
    chance = random.Random(seed)
    content = photograph(seed, optimize=bool(seed % 2), subsampling=seed % 3)
    outcomes = set()
    for _ in range(500):
        changed = broken(content, chance)
        sample = decoding_sample(changed)
        if sample is not None:
            outcomes.add(decodes(sample))
            assert decodes(sample) == decodes(changed), (seed, changed.hex())
    assert outcomes == {True, False}
