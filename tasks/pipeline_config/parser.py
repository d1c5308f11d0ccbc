"""pipeline.config files: text to message and back, and overrides, with errors that point at the field.

Parsing loses comments only; what is printed loads in the TensorFlow Object Detection API.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tasks.pipeline_config.fields import (
    INTEGER_RANGES,
    Change,
    FieldError,
    descriptor_of,
    follow,
    is_message,
    nearest,
    text_of,
    unknown_field,
)
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.positions import positions
from tasks.pipeline_config.ranges import bounds_of, bounds_text, check_ranges
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded

ROOT = descriptor_of(TrainEvalPipelineConfig())

SUPPORTED = "use a Faster R-CNN or Mask R-CNN config"

_NO_FIELD = re.compile(r'has no field named "([^"]+)"')
_NO_VALUE = re.compile(r"has no value (?:named|with number) (\S+?)\.?$")
_BAD_VALUE = re.compile(r"(?:Value out of range|Couldn't parse (?:integer|float)): '?([^']*)'?$")
_QUOTED_LINE = re.compile(r"^\d+:\d+ : (?:'.*': (?=[A-Z]))?", re.DOTALL)


def read_pipeline_config(path: Path) -> TrainEvalPipelineConfig:
    """The config in a text-format file; raises UserError with file, line, column, field and the nearest valid name."""
    return parse_pipeline_config(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A config file's text; raises UserError where there is none to read."""
    try:
        content = path.read_bytes()
        text = decoded(content)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "give the path of a pipeline.config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}", "give the path of a pipeline.config in text format") from error
    if pointer := pointer_in(content):
        raise UserError(f"{path}: {pointer.problem}", pointer.fix)
    return text


def parse_pipeline_config(text: str, source: str) -> TrainEvalPipelineConfig:
    """The config in `text`; `source` names it in errors. Checked: syntax, names, types, ranges, the model's family."""
    config = TrainEvalPipelineConfig()
    try:
        text_format.Parse(text, config)
        _refuse_other_families(config)
        check_ranges(config)
    except text_format.ParseError as error:
        other = _family_of_unparsable(text)
        if other is not None:
            raise located(other, text, source) from error
        raise _parse_error(error, text, source) from error
    except FieldError as error:
        raise located(error, text, source) from error
    return config


def located(error: FieldError, text: str, source: str) -> UserError:
    """The same error with `source`, line and column of the field, or of the closest message around it in the text."""
    places = {position.path: position for position in positions(text, ROOT)}
    path = error.path
    while path and path not in places:
        path = path.rpartition(".")[0]
    if not path:
        return UserError(f"{source}: {error.message}", error.fix)
    return UserError(f"{source}:{places[path].line}:{places[path].column}: {error.message}", error.fix)


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
        _refuse_other_families(changed)
        check_ranges(changed)
    except FieldError as error:
        raise UserError(f"--set {error.message}", error.fix) from error
    return changed, Change(path, before, text_of(owner, field.name), "set on the command line")


def _assign(owner: Message, field: FieldDescriptor, index: int | None, value: str, path: str) -> None:
    if field.type == FieldDescriptor.TYPE_STRING and value[0] not in "\"'[":
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    parsed: Message = type(owner)()
    try:
        text_format.Parse(f"{field.name}: {value}", parsed)
    except text_format.ParseError as error:
        raise _explained(str(error), field, path) from error
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


def _refuse_other_families(config: TrainEvalPipelineConfig) -> None:
    family = config.model.WhichOneof("model")
    if family is None:
        raise FieldError("model", "the config describes no model", SUPPORTED)
    if family != "faster_rcnn":
        raise FieldError(f"model.{family}", f"models of the {family} family are not supported", SUPPORTED)
    model = config.model.faster_rcnn
    if model.second_stage_box_predictor.HasField("rfcn_box_predictor"):
        path = "model.faster_rcnn.second_stage_box_predictor.rfcn_box_predictor"
        raise FieldError(path, "models of the R-FCN family are not supported", SUPPORTED)
    if model.HasField("context_config"):
        path = "model.faster_rcnn.context_config"
        raise FieldError(path, "models of the Context R-CNN family are not supported", SUPPORTED)


def _family_of_unparsable(text: str) -> FieldError | None:
    """The refusal by family of a text that does not parse, where the family is what is wrong with it."""
    config = TrainEvalPipelineConfig()
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError):  # the latter: unknown messages nested without end
        return None
    if config.model.WhichOneof("model") in (None, "faster_rcnn"):
        return None
    try:
        _refuse_other_families(config)
    except FieldError as error:
        return error
    return None


def _parse_error(error: text_format.ParseError, text: str, source: str) -> UserError:
    line, column = error.GetLine() or 1, error.GetColumn() or 1
    path = ""
    for position in positions(text, ROOT):
        if (position.line, position.column) > (line, column):
            break
        path = position.path
    owner, field = _describe(path)
    parent = path.rpartition(".")[0]
    unknown = _NO_FIELD.search(str(error))
    if unknown and owner is not None:
        explained = unknown_field(owner, parent, unknown[1])
    else:
        explained = _explained(str(error), field, (path if field else parent) or "the top level")
    return UserError(f"{source}:{line}:{column}: {explained.message}", explained.fix)


def _describe(path: str) -> tuple[Descriptor | None, FieldDescriptor | None]:
    """The message that should own the field at `path`, and the field; None where the schema has none."""
    owner: Descriptor | None = ROOT
    field: FieldDescriptor | None = None
    for part in path.split("."):
        if field is not None:
            owner = field.message_type
        if owner is None:
            return None, None
        field = owner.fields_by_name.get(part.partition("[")[0])
        if field is None:
            return owner, None
    return owner, field


def _explained(message: str, field: FieldDescriptor | None, path: str) -> FieldError:
    """What the text-format parser complains of, in terms of the field it was reading."""
    no_value = _NO_VALUE.search(message)
    if field is not None and field.enum_type is not None and no_value:
        return FieldError(path, f"{_cut(no_value[1])} is not a value of it", nearest(no_value[1], field.enum_type.values_by_name))
    bad = _BAD_VALUE.search(message)
    if field is not None and not is_message(field) and bad:
        return FieldError(path, f"{_cut(bad[1])} is out of range or of another type", f"write {_type_text(field)}")
    if 'Expected "true" or "false"' in message:
        return FieldError(path, "this is a switch", "write true or false")
    unknown = _NO_FIELD.search(message)
    if unknown and field is not None and field.message_type is not None:
        return FieldError(path, f"has no field {unknown[1]}", nearest(unknown[1], field.message_type.fields_by_name))
    if "should not have multiple" in message:
        return FieldError(path, "is given twice", "keep one of the two")
    if "another member of oneof" in message:
        return FieldError(path, "only one of its kind can be given", "keep one of them")
    plain = _cut(_QUOTED_LINE.sub("", message).rstrip("."))
    return FieldError(path, plain.replace("maskline.pipeline.", ""), "correct the text; the format is name: value and name { ... }")


def _cut(words: str) -> str:
    return words if len(words) <= 120 else f"{words[:117]}..."


def _type_text(field: FieldDescriptor) -> str:
    bounds = bounds_of(field.containing_type.name, field.name) if field.containing_type else None
    if field.cpp_type in INTEGER_RANGES:
        low, high = INTEGER_RANGES[field.cpp_type]
        return f"a whole number {bounds_text(*bounds) if bounds else f'from {low} to {high}'}"
    return f"a number {bounds_text(*bounds)}" if bounds else "a number"
