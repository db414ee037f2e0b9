"""A long JSON list object by object: what a whole parse reads, nothing worse than DataError."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkd_core.data.senna import json_list
from clkd_core.data.senna.json_list import read_objects
from clkd_core.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)
per_test = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[1, 7, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much is read at a time."""
    monkeypatch.setattr(json_list, "_CHUNK", request.param)
    return int(request.param)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


@per_test
@given(records=objects, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_any_list_of_objects_is_read_as_a_whole_parse_reads_it(
    tmp_path: Path, chunk: int, records: list[dict[str, object]], indent: int, ascii_only: bool
) -> None:
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert list(read_objects(written(tmp_path, text))) == records


@per_test
@given(records=objects, data=st.data())
def test_file_cut_anywhere_is_a_data_error_with_the_whole_objects_before_it(
    tmp_path: Path, chunk: int, records: list[dict[str, object]], data: st.DataObject
) -> None:
    text = json.dumps(records)
    cut = data.draw(st.integers(0, len(text) - 1))
    found = []
    with pytest.raises(DataError, match=r"list\.json: after \d+ records"):
        for record in read_objects(written(tmp_path, text[:cut])):
            found.append(record)
    assert found == records[: len(found)]


@per_test
@given(text=st.binary(max_size=60) | st.text(alphabet='[]{}",:1.e-\\utrfalsn \n', max_size=60))
def test_any_bytes_are_objects_or_a_data_error(
    tmp_path: Path, chunk: int, text: str | bytes
) -> None:
    try:
        found = list(read_objects(written(tmp_path, text)))
    except DataError:
        return
    assert all(isinstance(record, dict) for record in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with '\\['"),
        ("{}", "begins with '\\['"),
        ("[1]", "begins with '{'"),
        ("[{} {}]", "expected ',' or '\\]'"),
        ("[{}", "truncated"),
        ("[{},", "begins with '{'"),
        ("[{}] x", "goes on after the list"),
        ('[{"a": }]', "no JSON"),
        pytest.param('[{}, {"a": ' + "[" * 100_000, "after 1 .* nested too deeply", id="deep"),
        pytest.param('[{"a": ' + "1" * 5000 + "}]", "after 0 records", id="digits"),
        (b'[{"a": "\xff"}]', "cannot be read"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(read_objects(written(tmp_path, text)))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: cannot be read"):
        list(read_objects(tmp_path / "nothing.json"))


def test_mistake_at_the_beginning_is_seen_without_reading_on(tmp_path: Path) -> None:
    path = written(tmp_path, "[{a: 1}" + " " * (40 << 20))
    start_s = time.perf_counter()
    with pytest.raises(DataError, match="no JSON"):
        list(read_objects(path))
    assert time.perf_counter() - start_s < 1.0


def test_text_of_many_chunks_takes_time_by_its_length(tmp_path: Path) -> None:
    path = written(tmp_path, '[{"a": "' + "x" * (30 << 20) + '"}]')
    start_s = time.perf_counter()
    (record,) = read_objects(path)
    assert len(record["a"]) == 30 << 20
    assert time.perf_counter() - start_s < 5.0
