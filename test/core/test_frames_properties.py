"""frames.csv for any rows and any text: what is written is read, what is not is refused."""

import math
import string
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.errors import DataError
from clkd_core.metrics.frames import COLUMNS, FrameRow, Outcome, read_frames, write_frames
from clkd_core.types import META_ACTIONS, RouteCommand, Trajectory

numbers = st.floats(allow_infinity=False)
latencies = st.just(math.nan) | st.floats(0, 1e6)
actions = st.none() | st.sampled_from(META_ACTIONS)
trajectories = st.none() | st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    min_size=6,
    max_size=6,
).map(lambda points: Trajectory(xy_m=np.array(points, dtype=np.float32)))
probabilities = st.none() | st.lists(
    st.integers(0, 1000).map(lambda number: number / 1000), min_size=20, max_size=20
).map(tuple)
rows = st.builds(
    FrameRow,
    scene=st.text(max_size=12),
    case_name=st.text(max_size=12),
    reason=st.text(max_size=12),
    stamp_ns=st.integers(-(2**63), 2**63 - 1),
    label=actions,
    answer=actions,
    outcome=st.sampled_from(Outcome),
    stale=st.booleans(),
    late=st.booleans(),
    degraded=st.booleans(),
    plan_with_decision=st.booleans(),
    probabilities=probabilities,
    inference_ms=latencies,
    node_response_ms=latencies,
    response_ms=latencies,
    plan_inference_ms=latencies,
    speed_mps=numbers,
    yaw_rate_radps=numbers,
    command=st.none() | st.sampled_from(RouteCommand),
    plan=trajectories,
    truth=trajectories,
)


def same(first: object, second: object) -> bool:
    if isinstance(first, Trajectory) and isinstance(second, Trajectory):
        return np.array_equal(first.xy_m, second.xy_m)
    if isinstance(first, float) and math.isnan(first):
        return isinstance(second, float) and math.isnan(second)
    return first == second


@settings(max_examples=150, deadline=None)
@given(written=st.lists(rows, max_size=4))
def test_any_rows_are_read_back_as_they_were(
    written: list[FrameRow], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("frames") / "frames.csv"
    write_frames(path, written)
    read = read_frames(path)
    assert len(read) == len(written)
    for one, other in zip(written, read, strict=True):
        unlike = [
            f.name for f in fields(one) if not same(getattr(one, f.name), getattr(other, f.name))
        ]
        assert unlike == []


@settings(max_examples=60, deadline=None)
@given(row=rows, data=st.data())
def test_a_damaged_table_is_read_or_refused_and_nothing_else(
    row: FrameRow, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("frames") / "frames.csv"
    write_frames(path, [row, row])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(bytes(content))
    try:
        assert all(isinstance(each, FrameRow) for each in read_frames(path))
    except DataError as err:
        assert str(path) in str(err)


@settings(max_examples=150, deadline=None)
@given(cell=st.text(alphabet=string.printable, max_size=20), column=st.sampled_from(COLUMNS))
def test_any_cell_is_read_or_refused_with_its_column(
    cell: str, column: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder / "frames.csv", [FrameRow(scene="a", case_name="", stamp_ns=1)])
    head, line = (folder / "frames.csv").read_text().splitlines()[:2]
    cells = line.split(",")
    cells[COLUMNS.index(column)] = '"' + cell.replace('"', '""') + '"'
    (folder / "frames.csv").write_text("\n".join([head, ",".join(cells)]), newline="")
    try:
        (read,) = read_frames(folder / "frames.csv")
        assert isinstance(read, FrameRow)
    except DataError as err:
        assert "frames.csv" in str(err)
