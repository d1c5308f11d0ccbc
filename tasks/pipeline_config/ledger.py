"""What becomes of every field of a config in translation: honoured, ignored for a reason, or refused; none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from tasks.pipeline_config.fields import (
    FieldError,
    descriptor_of,
    is_map,
    is_message,
    joined,
    set_values,
    shortest,
    text_of,
    together,
)

NOT_SUPPORTED = "remove the field, or train this config with the original"


_Translated = TypeVar("_Translated")


@dataclass
class Ledger:
    """Paths of the fields that were read, the reasons of those that were passed over, and the refusals."""

    honoured: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    refused: list[FieldError] = field(default_factory=list)
    abandoned: set[str] = field(default_factory=set)
    """Messages whose translation ended early: nothing more is said of what they hold"""

    def settle(self, config: Message) -> None:
        """Raises the refusals, all at once, and with them one for every field that is set and that nobody accounted for."""
        told = self.ignored.keys() | self.abandoned | {error.path for error in self.refused}
        for path, _, descriptor, value in set_values(config):
            if is_message(descriptor) and not is_map(descriptor) and value.ListFields():
                continue
            if path not in self.honoured and told.isdisjoint(_around(path)):
                self.refused.append(FieldError(path, "is not supported", NOT_SUPPORTED))
        if self.refused:
            raise together(self.refused)

    def to_json(self, config: Message) -> dict[str, Any]:
        """The fields that are set: `honoured` paths, and `ignored` ones with value and reason."""
        honoured, ignored = [], []
        for path, owner, descriptor, value in set_values(config):
            reason = self._reason(path)
            if path in self.ignored:
                ignored.append({"path": path, "value": text_of(owner, descriptor.name), "reason": reason})
            elif reason is None and not (is_message(descriptor) and value.ListFields()):
                honoured.append(path)
        return {"honoured": honoured, "ignored": ignored}

    def _reason(self, path: str) -> str | None:
        """Why the field, or a message around it, is ignored."""
        return next((self.ignored[around] for around in _around(path) if around in self.ignored), None)


def _around(path: str) -> Iterator[str]:
    """The path, and those of the messages around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]


class Reading:
    """A message in translation: whoever takes a value from it has accounted for the field.

    What cannot be honoured is noted in the ledger, and the translation goes on, so that all refusals come together.
    """

    def __init__(self, message: Message, ledger: Ledger, path: str = "") -> None:
        self.message = message
        self.ledger = ledger
        self.path = path

    def has(self, name: str) -> bool:
        """Whether a message, or a scalar with presence, is set; accounts for nothing."""
        return self.message.HasField(name)

    def value(self, name: str) -> Any:
        """A scalar, its default where absent: enums by name, floats in their fewest digits, repeated ones as a list."""
        descriptor = descriptor_of(self.message).fields_by_name[name]
        self.ledger.honoured.add(joined(self.path, name))
        value = getattr(self.message, name)
        if descriptor.is_repeated:
            return [shortest(one) if isinstance(one, float) else one for one in value]
        if descriptor.enum_type is not None:
            return descriptor.enum_type.values_by_number[value].name
        return shortest(value) if isinstance(value, float) else value

    def inside(self, name: str) -> Reading:
        path = joined(self.path, name)
        self.ledger.honoured.add(path)
        return Reading(getattr(self.message, name), self.ledger, path)

    def each(self, name: str) -> list[Reading]:
        paths = [f"{joined(self.path, name)}[{index}]" for index in range(len(getattr(self.message, name)))]
        self.ledger.honoured.update(paths)
        return [Reading(one, self.ledger, path) for one, path in zip(getattr(self.message, name), paths, strict=True)]

    def choice(self, oneof: str) -> str | None:
        """The name of the member that is set."""
        chosen: str | None = self.message.WhichOneof(oneof)
        return chosen

    def ignore(self, reason: str, *names: str) -> None:
        for name in names:
            self._check(name)
            for path in self._paths(name):
                self.ledger.ignored[path] = reason

    def require(self, name: str, wanted: Any, reason: str) -> None:
        """Accounts for a field that may only have one value, and refuses another."""
        value = self.value(name)
        if value != wanted:
            shown = str(wanted).lower() if isinstance(wanted, bool) else wanted
            self.reject(name, reason, f"--set {joined(self.path, name)}={shown}, if that is what you want")

    def refuse(self, reason: str, *names: str) -> None:
        """Refuses the fields that are set."""
        for name in names:
            self._check(name)
            if text_of(self.message, name) is not None:
                self.reject(name, reason, NOT_SUPPORTED)

    def reject(self, name: str, message: str, fix: str) -> None:
        """Notes a refusal of the field."""
        self.ledger.honoured.add(joined(self.path, name))
        self.ledger.refused.append(self.error(name, message, fix))

    def attempt(self, translate: Callable[[Reading], _Translated]) -> _Translated | None:
        """What the function makes of this message; a FieldError that it raises is noted, and ends the message's part alone."""
        try:
            return translate(self)
        except FieldError as error:
            self.ledger.refused.append(error)
            self.ledger.abandoned.add(self.path)
            return None

    def choose(self, oneof: str, supported: Iterable[str], what: str) -> str:
        """The member that is set; raises FieldError, for `attempt` to note, for none and for one that is not supported."""
        chosen = self.choice(oneof)
        names = ", ".join(sorted(supported))
        if chosen is None:
            raise FieldError(self.path or oneof, f"names no {what}", f"supported: {names}")
        if chosen not in supported:
            raise self.error(chosen, f"this {what} is not supported", f"supported: {names}")
        return chosen

    def error(self, name: str, message: str, fix: str) -> FieldError:
        return FieldError(joined(self.path, name), message, fix)

    def _paths(self, name: str) -> list[str]:
        path = joined(self.path, name)
        descriptor = descriptor_of(self.message).fields_by_name[name]
        if descriptor.is_repeated and is_message(descriptor) and not is_map(descriptor):
            return [f"{path}[{index}]" for index in range(len(getattr(self.message, name)))]
        return [path]

    def _check(self, name: str) -> None:
        if name not in descriptor_of(self.message).fields_by_name:
            raise KeyError(f"{descriptor_of(self.message).name} has no field {name}")
