"""A serialized `tf.train.Example` by its keys, with errors that name the record and the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

from google.protobuf.message import DecodeError

from tasks.records.checks import BadImageError, Check
from tasks.records.example_pb2 import Example, Feature

_Value = TypeVar("_Value", int, float, bytes)


@dataclass(frozen=True)
class RecordFeatures:
    """The features of one record; `where` names it. What is not as it must be is a BadImageError, RECORD_MALFORMED."""

    example: Example
    where: str

    @classmethod
    def parse(cls, serialized: bytes, where: str) -> Self:
        try:
            return cls(Example.FromString(serialized), where)
        except DecodeError as error:
            raise BadImageError(
                Check.RECORD_MALFORMED, f"{where}: not a tf.train.Example", "name records of the Object Detection API"
            ) from error

    def feature(self, key: str) -> Feature:
        """The feature as it is, empty where the record has none."""
        by_key = self.example.features.feature
        return by_key[key] if key in by_key else Feature()

    def ints(self, key: str, count: int, default: int | None = None) -> list[int]:
        """`count` numbers; as many defaults where the record has none and a default is given."""
        return self._counted(key, list(self.feature(key).int64_list.value), count, default)

    def floats(self, key: str, count: int | None = None, default: float | None = None) -> list[float]:
        """The same; a `count` of None takes what there is."""
        return self._counted(key, list(self.feature(key).float_list.value), count, default)

    def byte_strings(self, key: str, count: int, default: bytes | None = None) -> list[bytes]:
        return self._counted(key, list(self.feature(key).bytes_list.value), count, default)

    def text(self, key: str, default: str = "") -> str:
        (value,) = self.byte_strings(key, 1, default.encode())
        return self.decoded(key, value)

    def decoded(self, key: str, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise self.malformed(f"{key} holds {value!r}, which is not UTF-8") from error

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        (height,), (width,) = self.ints("image/height", 1), self.ints("image/width", 1)
        if height < 1 or width < 1:
            raise self.malformed(f"the image is {height} x {width}")
        return height, width

    def _counted(self, key: str, values: list[_Value], count: int | None, default: _Value | None) -> list[_Value]:
        if not values and default is not None and count is not None:
            return [default] * count
        if count is not None and len(values) != count:
            raise self.malformed(f"{key} holds {len(values)} values, {count} expected")
        return values

    def malformed(self, message: str) -> BadImageError:
        return BadImageError(Check.RECORD_MALFORMED, f"{self.where}: {message}", "write the record again with the tool that made it")
