"""Many drives, each once: a drive that is finished is not driven again."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clkd_core.config import config_to_dict
from clkd_core.data.world.scene.script import DriveSpec
from clkd_core.driving.config import DriveConfig
from clkd_core.driving.drivers import Driver
from clkd_core.driving.loop import drive
from clkd_core.driving.results.film import FILM_FILE, Film
from clkd_core.driving.results.record import DRIVE_FILE, Record, read_record, write_record
from clkd_core.driving.results.table import Row, build_rows, markdown, plain_rows
from clkd_core.driving.stage.scenarios import scenario_of
from clkd_core.driving.stage.scene import Stage
from clkd_core.driving.timing.latencies import Latencies, LatencyStream
from clkd_core.errors import DataError
from clkd_core.files import replace_folder, sha256_of, write_text_atomic
from clkd_core.progress import progress

SUMMARY_JSON = "summary.json"
SUMMARY_MD = "summary.md"
FORMAT_VERSION = 1
_LOOP_VERSION = 1
"""Raised when a change to the loop, the judge or the world makes earlier drives others."""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is driven, how, and where it goes."""

    specs: Sequence[DriveSpec]
    config: DriveConfig
    out: Path
    films: bool = True
    """Write a film of each drive."""


def drive_all(
    campaign: Campaign, driver: Driver, latencies: Latencies, *, checkpoint: str
) -> list[Record]:
    """Drive every scene with one driver; each drive's folder appears when it is complete.

    Args:
        campaign: what.
        driver: who.
        latencies: what answers take.
        checkpoint: identity of what the driver computes with; see :func:`identity_of`.

    Raises:
        DataError: a folder cannot be written.
    """
    drives = progress(
        campaign.specs, total=len(campaign.specs), desc=f"drive, {driver.name}", unit="drives"
    )
    return [_drive_one(campaign, spec, driver, latencies, checkpoint) for spec in drives]


def identity_of(student: Path) -> str:
    """The hash of what a student's and its planner's manifests say of their files.

    Raises:
        DataError: a manifest is missing.
    """
    return f"{sha256_of(student / 'manifest.json')}+{sha256_of(_planner_manifest(student))}"


def _planner_manifest(student: Path) -> Path:
    return student / "planner" / "manifest.json"


def _drive_one(
    campaign: Campaign, spec: DriveSpec, driver: Driver, latencies: Latencies, checkpoint: str
) -> Record:
    folder = campaign.out / driver.name / spec.name
    made_from = _made_from(campaign.config, spec, driver, latencies, checkpoint)
    found = _finished(folder, made_from, film=campaign.films)
    if found is not None:
        return found
    stage = Stage(spec, campaign.config)
    stream = LatencyStream.drawn(latencies, spec.seed)
    with replace_folder(folder) as part:
        title = f"{driver.name}: {spec.name}"
        film = Film(part / FILM_FILE, stage, title) if campaign.films else None
        with film or nullcontext():
            watch = film.add if film else None
            driven = drive(stage, driver, stream, film=campaign.films, watch=watch)
        record = Record(
            name=spec.name,
            scenario=scenario_of(spec),
            case_name=spec.case_name,
            made_from=made_from,
            driven=driven,
        )
        write_record(record, part)
    return record


def _made_from(
    config: DriveConfig, spec: DriveSpec, driver: Driver, latencies: Latencies, checkpoint: str
) -> dict[str, Any]:
    content = {
        "loop_version": _LOOP_VERSION,
        "driver": driver.name,
        "checkpoint": checkpoint,
        "latencies": latencies.digest(),
        "config": config_to_dict(config),
        "drive": asdict(spec),
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))  # as it is read back
    return plain


def _finished(folder: Path, made_from: dict[str, Any], *, film: bool) -> Record | None:
    """The drive as an earlier run left it, if that was the same."""
    if not (folder / DRIVE_FILE).is_file() or (film and not (folder / FILM_FILE).is_file()):
        return None
    try:
        record = read_record(folder)
    except DataError:  # of another version, or damaged: it is driven again
        return None
    return record if record.made_from == made_from else None


def write_summary(
    out: Path, records: dict[str, list[Record]], notes: Sequence[str]
) -> dict[str, list[Row]]:
    """Write the tables of all drivers as JSON and Markdown, and return them.

    Raises:
        DataError: the folder cannot be written.
    """
    tables = {name: build_rows(some) for name, some in records.items()}
    content = {
        "format_version": FORMAT_VERSION,
        "notes": list(notes),
        "drivers": {name: plain_rows(rows) for name, rows in tables.items()},
    }
    write_text_atomic(out / SUMMARY_JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text_atomic(out / SUMMARY_MD, markdown(tables, notes))
    return tables
