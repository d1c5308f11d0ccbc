"""A schedule as a person writes it: a YAML file, checked strictly, that becomes the DAG `retrain_NAME`.

Files lie in `configs/schedules/` and in the folders that `MASKLINE_SCHEDULES` names, separated as in `PATH`; they end in `.yaml` or
`.yml`. Needs neither the trainer nor a database: a data set and a checkpoint are looked for, not read.
"""

from __future__ import annotations

import difflib
import os
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from airflow.exceptions import AirflowTimetableInvalid
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError
from airflow.timetables.trigger import CronTriggerTimetable

from maskline_airflow.form import CONFIGS, REPOSITORY, form, unknown_fields

FOLDERS_VARIABLE = "MASKLINE_SCHEDULES"
LAST_GOOD_RUN = "last_good_run"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CRON_FIELDS = 5
_OWN_FIELDS: dict[str, dict[str, Any]] = {
    "enabled": {"type": "boolean"},
    "description": {"type": "string"},
    "cron": {"type": "string"},
    "time_zone": {"type": "string"},
    "on_dataset_change": {"type": "boolean"},
    "start_from": {"type": "string", "enum": [LAST_GOOD_RUN]},
    "offer_for_promotion": {"type": "boolean"},
    "evaluate_champion": {"type": "string"},
}
"""Fields that are a schedule's and not the form's, and their JSON schemas."""


class ScheduleError(Exception):
    """All that a person has to mend in a schedule's file, a line each."""

    def __init__(self, file: Path, problems: Iterable[str]) -> None:
        super().__init__("".join((f"{file}", *(f"\n  {problem}" for problem in problems))))


@dataclass(frozen=True)
class Schedule:
    """When to retrain what. `values` are the form's fields that the file fills; the others mean: as the zoo config says."""

    name: str
    file: Path
    values: Mapping[str, Any]
    enabled: bool = True
    description: str = ""
    cron: str | None = None
    time_zone: str = "UTC"
    dataset_name: str | None = None
    """The data set to wait for, as its YAML calls it; None where the clock alone decides"""
    start_from: str | None = None
    offer_for_promotion: bool = False
    evaluate_champion: str | None = None
    """When the champion is measured again, as `cron`; None never"""


def schedule_files() -> list[Path]:
    """Every schedule's file, those of the repository first; a folder that is named and not there stands for one that cannot be read."""
    named = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    folders = [CONFIGS / "schedules", *(folder for folder in named if folder.is_dir())]
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in (".yaml", ".yml") and path.is_file()]
    return [path.absolute() for path in (*files, *(folder for folder in named if not folder.is_dir()))]


def read_schedule(file: Path) -> Schedule:
    """The schedule in a file; ScheduleError with everything that is wrong in it."""
    values = _read_yaml(file)
    problems = [f"there is no field {line}" for line in unknown_fields(values, _known_fields())]
    values = {name: _worded(name, value) for name, value in values.items() if name in _known_fields() and value is not None}
    problems += [*_name_problems(file), *_own_problems(values), *_form_problems(values), *_timing_problems(values), *_path_problems(values)]
    if problems:
        raise ScheduleError(file, problems)
    own = {name: values[name] for name in _OWN_FIELDS if name in values}
    waits = own.pop("on_dataset_change", False)
    return Schedule(
        name=file.stem,
        file=file,
        values={name: value for name, value in values.items() if name not in _OWN_FIELDS},
        dataset_name=_dataset_name(values["dataset"]) if waits else None,
        **own,
    )


def _known_fields() -> list[str]:
    # Two runs of one name would be one run.
    return [*_OWN_FIELDS, *(name for name in form({}) if name != "run_name")]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise ScheduleError(file, [f"cannot be read: {error.strerror}"]) from None
    except yaml.YAMLError as error:
        raise ScheduleError(file, [f"not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ScheduleError(file, ["it has to be `field: value` lines"])
    return values


def _worded(name: str, value: Any) -> Any:
    """The value, or where the form has words what YAML takes for others: `on` and `off` for booleans, lines for whole numbers."""
    fields = form({})
    schema = fields[name].schema if name in fields else {}
    if isinstance(value, bool) and "on" in schema.get("enum", ()):
        return ("off", "on")[value]
    if isinstance(value, list) and schema.get("items", {}).get("type") == "string":
        return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]
    return value


def _name_problems(file: Path) -> Iterator[str]:
    if not _NAME.fullmatch(file.stem):
        yield "the file's name becomes the DAG's: use letters, digits, '_', '-' and '.'"
    first = next((other for other in schedule_files() if other.stem == file.stem), file)
    if first != file:
        yield f"{first} has the same name: rename one of them"


def _own_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in _OWN_FIELDS.items():
        if name in values:
            yield from _refusal(name, Param(**schema), values[name])


def _form_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name, param in form({}).items():
        if name in values:
            yield from _refusal(name, param, values[name])
        elif "null" not in param.schema["type"]:
            yield f"{name} is missing"


def _refusal(name: str, param: Param, value: Any) -> Iterator[str]:
    """What the form would say to this value."""
    try:
        param.resolve(value)
    except ParamValidationError as error:
        hints = list(_misspelt(value, param.schema))
        if isinstance(value, str) and param.schema.get("maxLength") == 0:
            hints = [f"{value!r} is no {param.schema['type'][1]}"]
        yield from (f"{name}: {hint}" for hint in hints or [str(error).splitlines()[0]])


def _misspelt(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """For each word that is none of those allowed, the nearest that is."""
    allowed = [word for word in schema.get("items", schema).get("enum", ()) if word]
    for word in value if isinstance(value, list) else [value]:
        near = difflib.get_close_matches(word, allowed, n=1) if isinstance(word, str) and word not in allowed else ()
        yield from (f"there is no {word!r}; did you mean {one}?" for one in near)


def _timing_problems(values: Mapping[str, Any]) -> Iterator[str]:
    cron, zone, waits = values.get("cron"), values.get("time_zone"), values.get("on_dataset_change")
    if cron is None and not waits:
        yield "nothing says when: give cron, or on_dataset_change: true, or both"
    champion = values.get("evaluate_champion")
    if cron is None and champion is None and zone is not None:
        yield "time_zone: there is no cron that it could be the time zone of"
    if isinstance(zone, str):
        yield from _zone_problems(zone)
    for name, text in (("cron", cron), ("evaluate_champion", champion)):
        if isinstance(text, str):
            yield from (f"{name}: {problem}" for problem in _cron_problems(text))


def _zone_problems(zone: str) -> Iterator[str]:
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        nearest = difflib.get_close_matches(zone, zoneinfo.available_timezones(), n=1)
        yield f"time_zone: there is no {zone!r}; " + (f"did you mean {nearest[0]}?" if nearest else "use a name such as Europe/Vienna")


def _cron_problems(cron: str) -> Iterator[str]:
    if len(cron.split()) != _CRON_FIELDS and not cron.startswith("@"):
        yield f"{cron!r} has {len(cron.split())} fields; give five: minute, hour, day of the month, month, day of the week"
        return
    try:
        CronTriggerTimetable(cron, timezone="UTC").validate()
    except (AirflowTimetableInvalid, ValueError) as error:
        yield f"{cron!r}: {error}"


def _path_problems(values: Mapping[str, Any]) -> Iterator[str]:
    paths = {name: value for name in ("dataset", "checkpoint") if isinstance(value := values.get(name), str)}
    for name, text in paths.items():
        if text.strip() and "://" not in text and not (_on_disk(text).exists() or _on_disk(f"{text.strip()}.index").exists()):
            yield f"{name}: there is no {_on_disk(text)}"
    if values.get("checkpoint_label_map") and not values.get("checkpoint"):
        yield "checkpoint_label_map: there is no checkpoint that it could belong to"
    dataset = paths.get("dataset", "")
    if values.get("on_dataset_change") is True and ("://" in dataset or _on_disk(dataset).is_dir()):
        yield f"on_dataset_change: what {dataset} is called is not known before it is read; name the data set's YAML file on a disk"
    elif values.get("on_dataset_change") is True and _on_disk(dataset).is_file() and _dataset_name(dataset) is None:
        yield f"dataset: {_on_disk(dataset)} gives itself no name"


def _on_disk(text: str) -> Path:
    """As the steps see it, which run in the repository."""
    return REPOSITORY / text.strip()


def _dataset_name(dataset: str) -> str | None:
    try:
        content = yaml.safe_load(_on_disk(dataset).read_bytes())
    except (OSError, yaml.YAMLError):
        return None
    name = content.get("name") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None
