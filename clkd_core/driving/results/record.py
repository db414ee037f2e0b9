"""A drive on disk: ``drive.json`` with all of it, ``steps.csv`` with its steps as a table.

Nothing in it depends on how fast the machine was: the same inputs give the same bytes.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd_core.driving.loop import Driven
from clkd_core.driving.results.comfort import compute_comfort, felt_on
from clkd_core.driving.results.judge import Contact, Ending
from clkd_core.driving.results.steps import Step
from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic

FORMAT_VERSION = 1
DRIVE_FILE = "drive.json"
STEPS_FILE = "steps.csv"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A drive with its name, and all it was made from."""

    name: str
    scenario: str
    case_name: str
    """``regular``, or the corner case."""
    made_from: Mapping[str, Any]
    """Driver, checkpoint, latencies, config, recipe: a drive made from the same is the same."""
    driven: Driven


def write_record(record: Record, folder: Path) -> None:
    """Write both files.

    Raises:
        DataError: the folder cannot be written.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "name": record.name,
        "scenario": record.scenario,
        "case_name": record.case_name,
        "made_from": record.made_from,
        "comfort": dataclasses.asdict(compute_comfort([felt_on(record.driven.steps)])),
        **_plain(record.driven),
    }
    write_text_atomic(folder / DRIVE_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text_atomic(folder / STEPS_FILE, steps_csv(record.driven.steps))


def read_record(folder: Path) -> Record:
    """Read what :func:`write_record` wrote.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    path = folder / DRIVE_FILE
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read as JSON: {err}") from err
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
    try:
        return Record(
            name=content["name"],
            scenario=content["scenario"],
            case_name=content["case_name"],
            made_from=content["made_from"],
            driven=_driven(content),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: is no drive as we write it: {err!r}") from err


def steps_csv(steps: tuple[Step, ...]) -> str:
    """One line a step; points and notes are joined, as spreadsheets want it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [knob.name for knob in dataclasses.fields(Step)]
    writer.writerow(names)
    for step in steps:
        writer.writerow([_cell(getattr(step, name)) for name in names])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return "; ".join(" ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)


def _plain(driven: Driven) -> dict[str, Any]:
    plain = dataclasses.asdict(driven)
    contacts = [{**dataclasses.asdict(c), "at_fault": c.at_fault} for c in driven.contacts]
    return {**plain, "ending": driven.ending.value, "contacts": contacts}


def _driven(content: Mapping[str, Any]) -> Driven:
    values = {knob.name: content[knob.name] for knob in dataclasses.fields(Driven)}
    values["ending"] = Ending(values["ending"])
    values["red_run_s"] = tuple(values["red_run_s"])
    values["contacts"] = tuple(
        Contact(**{k: v for k, v in contact.items() if k != "at_fault"})
        for contact in values["contacts"]
    )
    values["steps"] = tuple(_step(step) for step in values["steps"])
    return Driven(**values)


def _step(content: Mapping[str, Any]) -> Step:
    values = dict(content)
    values["plan_xy_m"] = tuple((x, y) for x, y in values["plan_xy_m"])
    for name in ("notes", "events"):
        values[name] = tuple(values[name])
    return Step(**values)
