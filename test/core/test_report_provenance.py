"""Where a run comes from: collected, written, read back, refused when damaged."""

import json
import os
from pathlib import Path

import pytest

from clkd_core.errors import DataError
from clkd_core.report.provenance import (
    PROVENANCE_FILE,
    Provenance,
    collect_provenance,
    describe_device,
    read_provenance,
    write_provenance,
)


def test_what_was_collected_comes_back(tmp_path: Path) -> None:
    provenance = collect_provenance(
        mode="live",
        checkpoint=Path("student"),
        bag=Path("val"),
        device="cpu",
        counters={"late": 3},
        notes=["no odometry"],
    )
    assert provenance.versions["python"]
    assert provenance.notes == ("no odometry",)
    write_provenance(tmp_path, provenance)
    assert read_provenance(tmp_path) == provenance


def test_the_processor_is_named_with_the_cores_it_may_use() -> None:
    assert describe_device("cpu").startswith("CPU ")
    assert f"{len(os.sched_getaffinity(0))} cores" in describe_device("cpu")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"mode": "live"}',
        '{"mode": "dream", "checkpoint": "", "bag": "", "device": ""}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "deadline_ms": 0}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "colour": 1}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "nodes": ["/vlm"]}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "nodes": {"/vlm": 3}}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "nodes": {"a": {"b": 3}}}',
        '{"mode": "live", "checkpoint": "", "bag": "", "device": "", "not_built": "blank"}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PROVENANCE_FILE).write_text(text)
    with pytest.raises(DataError, match=PROVENANCE_FILE):
        read_provenance(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=PROVENANCE_FILE):
        read_provenance(tmp_path)


def test_a_file_of_the_first_format_without_optional_fields_is_read(tmp_path: Path) -> None:
    words = {"mode": "direct", "checkpoint": "c", "bag": "b", "device": "d"}
    (tmp_path / PROVENANCE_FILE).write_text(json.dumps(words))
    assert read_provenance(tmp_path) == Provenance(**words)
