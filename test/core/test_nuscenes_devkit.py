"""Opening tables: the devkit's own object, or a line that names table and token."""

import builtins
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_nuscenes import VERSION, Tables, add_scene, fixed_tables, straight, write_tables

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.nuscenes import devkit as devkit_module
from clkd_core.data.nuscenes.devkit import has_tables, open_nuscenes
from clkd_core.data.nuscenes.scenes import read_scene
from clkd_core.errors import ConfigError, DataError

needs_devkit = pytest.mark.usefixtures("devkit")


@pytest.fixture(scope="session")
def devkit() -> None:
    pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit (extra `nuscenes`)")


def two_scenes() -> Tables:
    tables = fixed_tables()
    add_scene(tables, "a", 3, straight(8.0), sweeps=1, agents=[lambda t: (9.0, 3.0, 0.0)])
    add_scene(tables, "b", 2, straight(2.0))
    return tables


@needs_devkit
def test_tables_open_as_the_devkits_object(tmp_path: Path) -> None:
    write_tables(tmp_path, two_scenes())
    opened = open_nuscenes(tmp_path, VERSION)
    assert [scene["name"] for scene in opened.scene] == ["a", "b"]
    assert len(opened.get("sample", "a-00")["anns"]) == 1
    assert opened.get("sample_data", "a-00-CAM_FRONT-0")["channel"] == "CAM_FRONT"


def test_folder_with_a_scene_table_looks_like_nuscenes(tmp_path: Path) -> None:
    assert not has_tables(tmp_path, VERSION)
    write_tables(tmp_path, two_scenes())
    assert has_tables(tmp_path, VERSION)


def test_missing_devkit_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *args: Any, **words: Any) -> Any:
        if name.startswith("nuscenes"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **words)

    devkit_module._checked_class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"extra `nuscenes`: pip install 'clkd-drive\[nuscenes"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_missing_version_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v1.0-none: no such folder"):
        open_nuscenes(tmp_path, "v1.0-none")


@needs_devkit
@pytest.mark.parametrize("name", sorted(fixed_tables()))
def test_missing_and_truncated_tables_are_named(tmp_path: Path, name: str) -> None:
    path = write_tables(tmp_path, two_scenes()) / f"{name}.json"
    content = path.read_text()
    path.write_text(content[:-1])
    with pytest.raises(DataError, match=rf"{name}\.json: not JSON, the file may be truncated"):
        open_nuscenes(tmp_path, VERSION)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}\.json: no such file"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"token": "a"}', "is a dict, expected a list"),
        (b"[7]", "row 0 has no token"),
        (b'[{"name": "x"}]', "row 0 has no token"),
        (b'[{"token": ["x"]}]', "row 0 has no token"),
    ],
)
def test_table_of_another_shape_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (write_tables(tmp_path, two_scenes()) / "sample.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"sample\.json: {message}"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_token_that_is_there_twice_is_named(tmp_path: Path) -> None:
    tables = two_scenes()
    tables["ego_pose"].append(dict(tables["ego_pose"][4]))
    write_tables(tmp_path, tables)
    wanted = rf"ego_pose\.json: token '{tables['ego_pose'][4]['token']}' is there twice"
    with pytest.raises(DataError, match=wanted):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
@pytest.mark.parametrize(
    ("table", "column", "target"),
    [
        ("calibrated_sensor", "sensor_token", "sensor"),
        ("instance", "category_token", "category"),
        ("sample", "scene_token", "scene"),
        ("sample", "next", "sample"),
        ("sample_data", "ego_pose_token", "ego_pose"),
        ("sample_data", "prev", "sample_data"),
        ("sample_annotation", "instance_token", "instance"),
        ("scene", "first_sample_token", "sample"),
        ("scene", "log_token", "log"),
    ],
)
def test_token_that_nothing_answers_to_is_named(
    tmp_path: Path, table: str, column: str, target: str
) -> None:
    tables = two_scenes()
    row = tables[table][-1]
    row[column] = "nobody"
    write_tables(tmp_path, tables)
    wanted = rf"{table}\.json: row '{row['token']}': {column} is 'nobody', .* table {target}$"
    with pytest.raises(DataError, match=wanted):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
@pytest.mark.parametrize("value", [[], ["pose-a-00-LIDAR_TOP-0"], None, {}, 5])
def test_reference_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    tables = two_scenes()
    tables["sample_data"][-1]["ego_pose_token"] = value
    write_tables(tmp_path, tables)
    with pytest.raises(DataError, match=r"ego_pose_token is .*, which is no token in the table"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("ego_pose", "translation", [1.0, 2.0]),
        ("ego_pose", "translation", [1.0, 2.0, float("nan")]),
        ("ego_pose", "rotation", [0, 0, 0, 0]),
        ("ego_pose", "rotation", None),
        ("sample", "timestamp", "now"),
        ("sample", "timestamp", -1),
        ("sample", "timestamp", 10**30),
        ("sample_data", "filename", None),
        ("sample_data", "is_key_frame", 1),
        ("sample_annotation", "size", [1, -1, 1]),
        ("scene", "name", 7),
        ("scene", "nbr_samples", None),
        ("category", "name", ["x"]),
    ],
)
def test_column_that_cannot_be_is_named(
    tmp_path: Path, table: str, column: str, value: Any
) -> None:
    tables = two_scenes()
    tables[table][-1][column] = value
    write_tables(tmp_path, tables)
    with pytest.raises(DataError, match=rf"{table}\.json: row '.*': {column} is .*, expected "):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_keyframe_with_two_images_of_one_camera_is_refused(tmp_path: Path) -> None:
    tables = two_scenes()
    tables["sample_data"].append({**tables["sample_data"][0], "token": "again"})
    write_tables(tmp_path, tables)
    with pytest.raises(DataError, match=r"row 'again': its sensor has another row"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_log_without_a_map_and_map_without_a_picture_are_named(tmp_path: Path) -> None:
    tables = two_scenes()
    write_tables(tmp_path, tables)
    (tmp_path / "maps" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file; the maps come with"):
        open_nuscenes(tmp_path, VERSION)
    tables["map"][0]["log_tokens"] = []
    write_tables(tmp_path, tables)
    with pytest.raises(DataError, match=r"map\.json: no map of log 'log'"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_what_the_devkit_itself_refuses_is_a_data_error(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, two_scenes())
    (folder / "lidarseg.json").write_text("[]")
    with pytest.raises(DataError, match=r"nuscenes-devkit cannot read these tables: Assertion"):
        open_nuscenes(tmp_path, VERSION)


@needs_devkit
def test_devkit_that_loads_in_another_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = devkit_module._checked_class()
    monkeypatch.setattr(checked, "__load_table__", checked.__mro__[1].__load_table__)
    write_tables(tmp_path, two_scenes())
    with pytest.raises(ConfigError, match="builds its indices in another way"):
        open_nuscenes(tmp_path, VERSION)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["", "a-00", "a-01", "b-00", "cs-LIDAR_TOP", "pose-a-00-LIDAR_TOP-0", ".."])
    | st.lists(st.floats(), max_size=5)
    | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
)


@needs_devkit
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_tables_are_refused_or_give_sound_keyframes(
    tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / VERSION
    if not folder.is_dir():
        write_tables(tmp_path, TABLES)
    name = data.draw(st.sampled_from(sorted(name for name, rows in TABLES.items() if rows)))
    rows = copy.deepcopy(TABLES[name])
    row = data.draw(st.sampled_from(rows))
    column = data.draw(st.sampled_from(sorted(row)))
    if data.draw(st.booleans()):
        row[column] = data.draw(VALUES)
    else:
        del row[column]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows))
    try:
        opened = open_nuscenes(tmp_path, VERSION)
        found = [read_scene(opened, scene) for scene in opened.scene]
    except DataError:
        return
    finally:
        path.write_text(json.dumps(TABLES[name]))
    assert all(isinstance(k, Keyframe) for keyframes in found for k in keyframes)
    for keyframe in (k for keyframes in found for k in keyframes):
        assert all(tmp_path in path.parents for path in keyframe.image_paths.values())


TABLES = two_scenes()
