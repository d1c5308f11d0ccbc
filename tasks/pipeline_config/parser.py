"""pipeline.config files: text to message and back, and overrides, with errors that point at the field.

Parsing loses comments only; what is printed loads in the TensorFlow Object Detection API.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tasks.pipeline_config.fields import (
    Change,
    ConfigError,
    FieldError,
    OtherFamilyError,
    clear,
    descriptor_of,
    follow,
    is_message,
    text_of,
    together,
)
from tasks.pipeline_config.model_pb2 import DetectionModel
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.positions import Scan, positions
from tasks.pipeline_config.ranges import out_of_range
from tasks.pipeline_config.syntax_errors import PlacedError, explained, string_error, syntax_error
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded

ROOT = descriptor_of(TrainEvalPipelineConfig())

SUPPORTED = "use a Faster R-CNN or Mask R-CNN config"

LARGEST_FILE_BYTES = 2**19
"""A config has a few kilobytes, and one of the many that describe other models a few dozen."""

_BYTE_ORDER_MARK = "\ufeff"
_QUOTES = "\"'"
_MOST_TOLD = 8


def read_pipeline_config(path: Path) -> TrainEvalPipelineConfig:
    """The config in a text-format file; raises UserError with file, line, column, field and the nearest valid name."""
    return parse_pipeline_config(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A config file's text; raises UserError where there is none to read."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_FILE_BYTES else b""
        text = decoded(content).lstrip(_BYTE_ORDER_MARK)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "give the path of a pipeline.config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}", "give the path of a pipeline.config in text format") from error
    if size > LARGEST_FILE_BYTES:
        raise UserError(f"{path} has {size / 2**20:.1f} MB, and a pipeline.config a few kilobytes", "give the path of a pipeline.config")
    if pointer := pointer_in(content):
        raise UserError(f"{path}: {pointer.problem}", pointer.fix)
    if _is_utf16(content):
        raise UserError(f"{path} is written in UTF-16, without a byte order mark that says so", "save it as UTF-8")
    return text


def odd_encoding(path: Path) -> Iterator[UserError]:
    """What the original would say of the file's encoding, though it is read here."""
    with path.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            yield UserError(f"{path} is written in UTF-16, which the original does not read", "save it as UTF-8")


def parse_pipeline_config(text: str, source: str, refused: list[UserError] | None = None) -> TrainEvalPipelineConfig:
    """The config in `text`; `source` names it in errors. Checked: syntax, names, types, ranges, the model's family.

    What is given twice is merged as the original merges it; `tasks.pipeline_config.overwritten` tells of it. Where there is a list
    `refused`, it takes the errors of single fields, which have their defaults then; without it they are raised.
    """
    config = TrainEvalPipelineConfig()
    try:
        _confirm_strings(text)
        text_format.Merge(text, config)
    except (text_format.ParseError, FieldError) as error:
        found = _other_family(text) or (error if isinstance(error, FieldError) else syntax_error(error, text, ROOT))
        raise located(found, text, source) from found
    try:
        _refuse_other_models(config)
    except FieldError as error:
        raise located(error, text, source) from error
    faults = [*_other_kinds(config), *out_of_range(config)]
    if faults and refused is None:
        raise located(together(faults), text, source)
    for fault in faults:
        clear(config, fault.path)
    if refused is not None:
        refused += faults
    return config


def located(error: UserError, text: str, source: str) -> UserError:
    """The same error with `source`, line and column of the field, or of the closest message around it in the text.

    Of several errors, `ConfigError`, each; of one that is about no field it is left as it is.
    """
    places = {position.path: (position.line, position.column) for position in positions(text, ROOT)}
    if isinstance(error, ConfigError):
        shown = [_at_its_place(one, places, source) for one in error.errors[:_MOST_TOLD]]
        told = "".join(f"\n  {str(one).replace(chr(10), chr(10) + '  ')}" for one in shown)
        more = f"\n  and for {len(error.errors) - len(shown)} more" if len(shown) < len(error.errors) else ""
        message = f"{source} is refused for {len(error.errors)} reasons:{told}{more}"
        return UserError(message, "mend each of them; `maskline lint` lists all")
    return _at_its_place(error, places, source)


def _at_its_place(error: UserError, places: Mapping[str, tuple[int, int]], source: str) -> UserError:
    if not isinstance(error, FieldError):
        return error
    path = error.path
    while path and path not in places:
        path = path.rpartition(".")[0]
    place = (error.line, error.column) if isinstance(error, PlacedError) else places.get(path)
    where = f"{source}:{place[0]}:{place[1]}" if place else source
    return UserError(f"{where}: {error.message}", error.fix)


def print_pipeline_config(config: TrainEvalPipelineConfig) -> str:
    """Text that parses to an equal config, here and in the original."""
    return text_format.MessageToString(config, use_short_repeated_primitives=True, as_utf8=True)


def set_field(config: TrainEvalPipelineConfig, assignment: str) -> tuple[TrainEvalPipelineConfig, Change]:
    """A copy of `config` with `path=value` applied, and what it changed.

    The value is text format; a string needs no quotes, a list is `[1, 2]` and replaces the whole one, a message is
    `{...}`. Raises UserError as the parser does.
    """
    path, separator, value = assignment.partition("=")
    path, value = path.strip(), value.strip()
    if not separator or not path or not value:
        raise UserError(f"--set {assignment}: not of the form path=value", "for example --set model.faster_rcnn.num_classes=3")
    changed = TrainEvalPipelineConfig()
    changed.CopyFrom(config)
    try:
        owner, field, index = follow(changed, path)
        before = text_of(owner, field.name)
        _assign(owner, field, index, value, path)
        _refuse_other_models(changed)
        for fault in (*_other_kinds(changed), *out_of_range(changed)):
            raise fault
    except FieldError as error:
        raise UserError(f"--set {error.message}", error.fix) from error
    return changed, Change(path, before, text_of(owner, field.name), "set on the command line")


def _assign(owner: Message, field: FieldDescriptor, index: int | None, value: str, path: str) -> None:
    if field.type == FieldDescriptor.TYPE_STRING and value[0] not in f"{_QUOTES}[":
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    parsed: Message = type(owner)()
    try:
        text_format.Parse(f"{field.name}: {value}", parsed)
    except text_format.ParseError as error:
        raise (value[0] in _QUOTES and string_error(path, value)) or explained(str(error), field, path) from error
    target: Any = getattr(owner, field.name) if field.is_repeated or is_message(field) else None
    new: Any = getattr(parsed, field.name)
    if index is None:
        if field.containing_oneof is not None:
            owner.ClearField(field.containing_oneof.name)
        owner.ClearField(field.name)
        owner.MergeFrom(parsed)
    elif len(new) != 1:
        raise FieldError(path, f"takes one element, not {len(new)}", "write the element alone")
    elif is_message(field):
        target[index].CopyFrom(new[0])
    else:
        target[index] = new[0]


def _confirm_strings(text: str) -> None:
    """FieldError for the first string that stays open or that a backslash spoils."""
    for position, string in Scan(text, ROOT).values():
        if string is not None and (error := string_error(position.path or "the top level", string)):
            raise PlacedError(position.line, position.column, error)


def _refuse_other_models(config: TrainEvalPipelineConfig) -> None:
    """FieldError where there is no Faster or Mask R-CNN to speak of."""
    family = config.model.WhichOneof("model")
    if family is None:
        raise FieldError("model", "the config describes no model", SUPPORTED)
    if family != "faster_rcnn":
        raise _family(f"model.{family}", family)


def _other_kinds(config: TrainEvalPipelineConfig) -> Iterator[FieldError]:
    """Refusals of Faster R-CNNs that are other models within."""
    model = config.model.faster_rcnn
    if model.second_stage_box_predictor.HasField("rfcn_box_predictor"):
        yield _family("model.faster_rcnn.second_stage_box_predictor.rfcn_box_predictor", "R-FCN")
    if model.HasField("context_config"):
        yield _family("model.faster_rcnn.context_config", "Context R-CNN")


def _other_family(text: str) -> FieldError | None:
    """The refusal by family of a text that does not parse, where it names one: other models' fields are not spelled out here."""
    names = [one.name for one in descriptor_of(DetectionModel()).oneofs_by_name["model"].fields]
    others = {f"model.{name}": name for name in names if name != "faster_rcnn"}
    for position in positions(text, ROOT):
        if position.path in others:
            return _family(position.path, others[position.path])
    return None


def _family(path: str, name: str) -> OtherFamilyError:
    return OtherFamilyError(path, f"models of the {name} family are not supported", SUPPORTED)


def _is_utf16(content: bytes) -> bool:
    """Whether every other byte is zero, as in UTF-16 of Latin letters; text in UTF-8 has none."""
    start = content[:64]
    return len(start) > 1 and (not any(start[0::2]) or not any(start[1::2]))
