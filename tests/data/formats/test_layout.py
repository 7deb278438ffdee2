"""Files below a folder, links among them, and texts whatever wrote them."""

from pathlib import Path

import pytest

from xray_det.data.formats.layout import Links, loose, read_text, same_name, similar, walk
from xray_det.errors import InputError


def walked(root: Path, **how: object) -> list[str]:
    return [file.relative_to(root).as_posix() for file in walk(root, frozenset({".xml"}), **how)]  # type: ignore[arg-type]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_walk_takes_suffixes_in_any_case_and_no_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.XML", "a/1.xml", "0.xml", ".git/x.xml", "a/._1.xml", "a/1.txt", "a/deep/3.xml", "big/4.xml")
    assert walked(tmp_path) == ["0.xml", "a/1.xml", "a/deep/3.xml", "b/2.XML", "big/4.xml"]
    assert walked(tmp_path, depth=1, without=frozenset({"big"})) == ["0.xml", "a/1.xml", "b/2.XML"]


def test_walk_follows_links_and_enters_each_folder_once(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    touch(store, "xml/1.xml", "2.xml")
    touch(root, "real/3.xml", "real/sub/4.xml")
    (root / "outside").symlink_to("../store/xml")
    (root / "zz").symlink_to("real/sub")  # outermost: before real/sub
    (root / "real/up").symlink_to("..")
    (root / "real/5.xml").symlink_to(store / "2.xml")
    (root / "real/nothing").symlink_to("gone")
    (root / "self").symlink_to("self")
    assert walked(root) == ["outside/1.xml", "real/3.xml", "real/5.xml", "zz/4.xml"]
    (tmp_path / "name").symlink_to("root")  # the dataset's folder itself may be a link
    assert walked(tmp_path / "name") == walked(root)


def test_what_links_lead_outside(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    touch(store, "xml/1.xml", "2.xml")
    touch(root, "3.xml")
    (root / "folder").symlink_to("../store/xml")
    (root / "file.xml").symlink_to(store / "2.xml")
    (root / "inner.xml").symlink_to("3.xml")
    (tmp_path / "name").symlink_to("root")
    for top in (root, tmp_path / "name"):
        found = {name: Links(top).outside(top / name) for name in ("folder/1.xml", "file.xml", "inner.xml", "3.xml")}
        assert found == {
            "folder/1.xml": str(store / "xml/1.xml"),
            "file.xml": str(store / "2.xml"),
            "inner.xml": None,
            "3.xml": None,
        }


def test_a_list_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("gone.txt")
    with pytest.raises(InputError, match=r"a\.txt: is a link to gone\.txt: no such file"):
        read_text(tmp_path / "a.txt")


def test_names_that_are_the_same_and_like_each_other() -> None:
    assert same_name("images/café.jpg", "cafe\u0301.jpg")
    assert same_name("images\\a.jpg", "x/a.jpg")
    assert not same_name("a.jpg", "A.jpg")
    assert loose("A%20b.JPG") == loose("a b.jpg")
    assert similar("IMG_0001.jpg", ["IMG_9876.png", "IMG_0002.png", "photo.jpg"]) == "IMG_0002.png"
    assert similar("gone.jpg", ["alone.jpg"]) is None
    assert similar("a", []) is None
