"""Whatever becomes of a config's text, it parses, or is refused with a message; never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.pipeline_config.edits import MaskBranch, Records, to_mask_rcnn
from tasks.pipeline_config.evidence import gather
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.fields import joined
from tasks.pipeline_config.lint import lint
from tasks.pipeline_config.parser import ROOT, parse_pipeline_config, print_pipeline_config, read_pipeline_config, set_field
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import zoo_configs
from tasks.running.errors import UserError

# The same examples each time: a failure is one that everybody sees.
bounded = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TEXTS = {name: file.read_text() for name, file in zoo_configs().items()}
WORDS = sorted({word for text in TEXTS.values() for word in re.findall(r"\w+", text)})
TROUBLE = [
    "",
    "{",
    "}",
    ":",
    '"',
    "'",
    "-1",
    "nan",
    "inf",
    "1e400",
    "9" * 40,
    "ssd",
    "\\",
    "\\0",
    "\x00",
    "[",
    "]",
    "<",
    "0x",
    "é",
    "#",
    "\n",
]

pieces = st.one_of(st.sampled_from(TROUBLE), st.sampled_from(WORDS), st.text(max_size=5))
mutations = st.lists(
    st.tuples(st.sampled_from(["drop", "double", "insert", "replace"]), st.integers(0, 10**6), pieces), min_size=1, max_size=4
)


def mutated(parts: list[str], changes: list[tuple[str, int, str]]) -> str:
    """The parts joined after each change at its place, which counts around."""
    parts = list(parts)
    for kind, place, piece in changes:
        at = place % (len(parts) or 1)
        parts[at : at + (kind != "insert")] = {"drop": [], "double": parts[at : at + 1] * 2}.get(kind, [piece])
    return "".join(parts)


def use_or_refuse(parse: Callable[[], TrainEvalPipelineConfig], records: Records) -> None:
    """All that is done with a config, until somebody refuses it."""
    try:
        config = parse()
        assert parse_pipeline_config(print_pipeline_config(config), "printed") == config
        lint(gather(config, "x"))
        translate(to_mask_rcnn(config, records, MaskBranch())[0], name="x")
    except UserError as error:
        assert error.message
        assert error.fix


@bounded
@given(st.sampled_from(sorted(TEXTS)), mutations)
def test_tokens(records: Records, name: str, changes: list[tuple[str, int, str]]) -> None:
    text = mutated(re.findall(r"\s+|\w+|.", TEXTS[name]), changes)
    use_or_refuse(lambda: parse_pipeline_config(text, "x.config"), records)


@bounded
@given(st.sampled_from(sorted(TEXTS)), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=4))
def test_bytes(records: Records, tmp_path: Path, name: str, changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(TEXTS[name].encode())
    for place, piece in changes:
        at = place % len(content)
        content[at : at + 1] = piece
    file = tmp_path / "x.config"
    file.write_bytes(content)
    use_or_refuse(lambda: read_pipeline_config(file), records)


def field_paths(message: Descriptor, path: str = "") -> Iterator[str]:
    """Paths of all fields of the schema down to its fourth level, which is where most of the zoo's values are."""
    for field in message.fields:
        yield joined(path, field.name)
        if field.message_type is not None and path.count(".") < 3:
            yield from field_paths(field.message_type, joined(path, field.name))


@bounded
@given(st.sampled_from(sorted(field_paths(ROOT))), st.sampled_from(["", "[0]", "[9]", ".x"]), st.lists(pieces, min_size=1, max_size=3))
def test_overrides(records: Records, path: str, more: str, value: list[str]) -> None:
    config = read_pipeline_config(zoo_configs()["mask_rcnn_resnet50_atrous_coco"])
    use_or_refuse(lambda: set_field(config, f"{path}{more}={''.join(value)}")[0], records)
