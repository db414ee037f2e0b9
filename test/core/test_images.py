"""clkd_core.data.language.files.images: where images lie, what is wrong with them, links."""

from pathlib import Path

import pytest
from annotation_files import write_image

from clkd_core.data.language.files.images import (
    ImageLinks,
    find_coda_image,
    find_nuscenes_image,
    image_faults,
    read_image_size,
)
from clkd_core.errors import DataError


def test_nuscenes_images_are_found_below_the_first_root_that_has_them(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    place = write_image(two / "samples" / "CAM_BACK" / "a.jpg")
    assert find_nuscenes_image([one, two], "CAM_BACK", "a.jpg") == place
    nearer = write_image(one / "nuscenes" / "samples" / "CAM_BACK" / "a.jpg")
    assert find_nuscenes_image([one, two], "CAM_BACK", "a.jpg") == nearer
    absent = one / "nuscenes" / "samples" / "CAM_BACK" / "b.jpg"
    assert find_nuscenes_image([one, two], "CAM_BACK", "b.jpg") == absent


def test_coda_images_are_found_by_split_or_flat(tmp_path: Path) -> None:
    val = write_image(tmp_path / "val" / "images" / "0001.jpg")
    assert find_coda_image([tmp_path / "x", tmp_path], "val", "0001") == val
    assert find_coda_image([tmp_path / "x", tmp_path / "val"], None, "0001") == val
    assert find_coda_image([tmp_path / "val" / "images"], None, "0001") == val
    assert not find_coda_image([tmp_path], "test", "0001").exists()


def test_no_root_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no root came"):
        find_coda_image([], "val", "0001")


def test_faults_name_missing_and_empty_files_and_folders(tmp_path: Path) -> None:
    good, empty = write_image(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    empty.write_bytes(b"")
    (tmp_path / "c.jpg").mkdir()
    faults = image_faults([good, empty, tmp_path / "c.jpg", tmp_path / "d.jpg", empty])
    assert faults == {
        empty: "is empty",
        tmp_path / "c.jpg": "is missing",
        tmp_path / "d.jpg": "is missing",
    }


def test_size_is_read_of_whole_images_only(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", height=20, width=30)
    size = read_image_size(path)
    assert not isinstance(size, str) and (size.height, size.width) == (20, 30)
    path.write_bytes(path.read_bytes()[:-4])
    fault = read_image_size(path)
    assert isinstance(fault, str) and fault.startswith("is damaged (a JPEG cut off")


def test_links_lead_to_the_images_and_have_different_names(tmp_path: Path) -> None:
    one = write_image(tmp_path / "one" / "samples" / "CAM_BACK" / "a.jpg", height=10)
    two = write_image(tmp_path / "two" / "samples" / "CAM_BACK" / "a.jpg", height=11)
    links = ImageLinks()
    placed = [links.place(path, tmp_path / "set" / "images") for path in (one, two, one)]
    assert placed[0] == tmp_path / "set" / "images" / "samples-CAM_BACK" / "a.jpg"
    assert placed[1] == tmp_path / "set" / "images" / "samples-CAM_BACK-2" / "a.jpg"
    assert placed[2] == placed[0]
    links.make(tmp_path / "set" / "images")
    assert [path.resolve() for path in placed[:2]] == [one, two]
    with pytest.raises(DataError, match="cannot link image folders"):
        links.make(tmp_path / "set" / "images")


def test_links_of_folders_with_odd_names_are_plain(tmp_path: Path) -> None:
    path = write_image(tmp_path / "my set" / ".images" / "a.jpg")
    place = ImageLinks().place(path, tmp_path / "links")
    assert place.parent.name == "my_set-.images"
