"""``results.json``: what a finished run came to, for programs to read."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.intervals import Interval

RESULTS_FILE = "results.json"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One row of the validation table: who answered, on which cases, how well."""

    name: str
    cases: str
    """``all``, ``regular`` or ``corner``."""
    frames: int
    """Keyframes judged."""
    accuracy: float
    """Share of them whose speed and path are both right; NaN where it is not known."""
    macro_f1: Interval
    """With its 95 % interval; NaN where a number is not known."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Of one run."""

    parameters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(total, active) by model name."""
    table: tuple[ResultRow, ...] = ()
    """Empty without validation data."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """What the run was made with."""


def write_results(path: Path, results: Results) -> None:
    """Write the file; a number that is not known becomes null.

    Raises:
        DataError: the folder cannot be written.
    """
    values = {
        "parameters": {name: list(sizes) for name, sizes in results.parameters.items()},
        "table": [_row_values(row) for row in results.table],
        "versions": dict(results.versions),
    }
    write_text_atomic(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> Results:
    """Read what :func:`write_results` wrote.

    Raises:
        DataError: the file is missing or damaged, or a value has the wrong type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Results(
            parameters={str(name): _sizes(pair) for name, pair in values["parameters"].items()},
            table=tuple(_row_from(row) for row in values["table"]),
            versions={str(name): str(text) for name, text in values["versions"].items()},
        )
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err
    except KeyError as err:
        raise DataError(f"{path} has no {err}, expected a run's results") from err
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as err:
        raise DataError(f"{path} does not hold a run's results: {err}") from err


def _row_values(row: ResultRow) -> dict[str, Any]:
    f1 = row.macro_f1
    return {
        "name": row.name,
        "cases": row.cases,
        "frames": row.frames,
        "accuracy": _known(row.accuracy),
        "macro_f1": _known(f1.value),
        "macro_f1_low": _known(f1.low),
        "macro_f1_high": _known(f1.high),
    }


def _row_from(values: Mapping[str, Any]) -> ResultRow:
    f1, low, high = (_number(values[f"macro_f1{end}"]) for end in ("", "_low", "_high"))
    return ResultRow(
        name=str(values["name"]),
        cases=str(values["cases"]),
        frames=int(values["frames"]),
        accuracy=_number(values["accuracy"]),
        macro_f1=Interval(value=f1, low=low, high=high),
    )


def _sizes(pair: Any) -> tuple[int, int]:
    total, active = pair
    return int(total), int(active)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
