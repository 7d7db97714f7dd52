"""Folders of images: what is found, in which order, with which labels, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.folder import FolderSource
from dinotrain.errors import UserError


def _put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18), (number, 0, 0)).save(root / name)


def _names(source: FolderSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_flat_folder(tmp_path: Path) -> None:
    _put(tmp_path, "b.png", "a.JPG", "c.webp", ".hidden.png")
    (tmp_path / "notes.txt").write_text("x")
    source = FolderSource(root=tmp_path)
    assert _names(source) == ["a.JPG", "b.png", "c.webp"]
    assert source.labels is None
    assert source.classes is None
    assert source.test() is None
    assert source.image(1).shape == (18, 20, 3)
    with pytest.raises(IndexError):
        source.name(3)


def test_subfolders_are_labels_at_any_depth(tmp_path: Path) -> None:
    _put(tmp_path, "dog/1.png", "cat/x/y/z/1.png", "cat/2.png", "cat-2/1.png", ".git/1.png", "dog/.cache/1.png")
    (tmp_path / "nothing").mkdir()
    source = FolderSource(root=str(tmp_path))
    assert _names(source) == ["cat/2.png", "cat/x/y/z/1.png", "cat-2/1.png", "dog/1.png"]
    assert source.classes == ("cat", "cat-2", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 2]
    assert source.labels.dtype == np.int64


def test_no_labels_with_images_beside_the_subfolders_or_one_subfolder(tmp_path: Path) -> None:
    _put(tmp_path / "one", "all/1.png", "all/2.png")
    assert FolderSource(root=tmp_path / "one").labels is None
    _put(tmp_path / "two", "cat/1.png", "dog/1.png", "1.png")
    assert FolderSource(root=tmp_path / "two").labels is None


@pytest.mark.parametrize("other", ["val", "test"])
def test_splits(tmp_path: Path, other: str) -> None:
    _put(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{other}/dog/1.png", f"{other}/bird/1.png")
    source = FolderSource(root=tmp_path)
    assert _names(source) == ["train/cat/1.png", "train/dog/1.png"]
    assert source.classes == ("cat", "dog")
    test = source.test()
    assert test is not None
    assert test.classes == ("cat", "dog", "bird")
    assert test.labels is not None
    assert test.labels.tolist() == [2, 1]
    assert test.test() is None
    assert test.image(0).shape == (18, 20, 3)


def test_val_is_taken_before_test(tmp_path: Path) -> None:
    _put(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/1.png", "val/dog/1.png", "val/dog/2.png")
    test = FolderSource(root=tmp_path).test()
    assert test is not None
    assert len(test) == 2


def test_links_are_followed_without_going_round(tmp_path: Path) -> None:
    _put(tmp_path / "data", "cat/1.png", "dog/1.png")
    _put(tmp_path / "elsewhere", "1.png")
    (tmp_path / "data" / "bird").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to("self")
    (tmp_path / "data" / "dog" / "gone.png").symlink_to("nowhere")
    source = FolderSource(root=tmp_path / "data")
    assert _names(source) == ["bird/1.png", "cat/1.png", "dog/1.png", "dog/gone.png"]
    with pytest.raises(BrokenImage, match="No such file"):
        source.image(3)


def test_odd_names_and_things(tmp_path: Path) -> None:
    _put(tmp_path, "x.jpg/in a folder.png")
    for name in (b"caf\xe9.png", b"tab\there.png", b"line\nend.png", "größe.png".encode()):
        Image.new("RGB", (20, 20)).save(os.path.join(os.fsencode(tmp_path), name).decode("utf-8", "surrogateescape"))
    os.mkfifo(tmp_path / "pipe.png")
    source = FolderSource(root=tmp_path)
    names = _names(source)
    assert names == [
        r"caf\xe9.png",
        "größe.png",
        r"line\nend.png",
        "pipe.png",
        r"tab\there.png",
        "x.jpg/in a folder.png",
    ]
    for index, name in enumerate(names):
        if name != "pipe.png":
            assert source.image(index).shape[2] == 3


def test_extensions_and_size(tmp_path: Path) -> None:
    _put(tmp_path, "a.png", "b.jpg", "c.xyz.png")
    assert _names(FolderSource(root=tmp_path, extensions=["PNG"])) == ["a.png", "c.xyz.png"]
    assert _names(FolderSource(root=tmp_path, extensions=[".xyz.png"])) == ["c.xyz.png"]
    with pytest.raises(BrokenImage, match="20x18 px, smaller than a patch"):
        FolderSource(root=tmp_path, min_size=19).image(0)
    with pytest.raises(ValueError, match="min_size"):
        FolderSource(root=tmp_path, min_size=0)
    with pytest.raises(ValueError, match="extensions"):
        FolderSource(root=tmp_path, extensions=[])


def test_refusals_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "deep" / "a.txt").write_text("x")
    (tmp_path / "file.png").write_bytes(b"x")
    cases = {"missing": "does not exist", "file.png": "is a file", "empty": "no images", "texts": "1 other files"}
    for name, words in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            FolderSource(root=tmp_path / name)
        assert str(caught.value).startswith("data.root: ")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_fingerprint_follows_the_files_not_the_place(tmp_path: Path) -> None:
    _put(tmp_path / "a", "1.png", "2.png")
    _put(tmp_path / "b", "1.png", "2.png")
    _put(tmp_path / "c", "1.png", "3.png")
    prints = [FolderSource(root=tmp_path / name).fingerprint() for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_a_source_travels_small(tmp_path: Path) -> None:
    _put(tmp_path, "cat/1.png", "dog/1.png")
    again = pickle.loads(pickle.dumps(FolderSource(root=tmp_path)))
    assert _names(again) == ["cat/1.png", "dog/1.png"]
    assert again.image(0).shape == (18, 20, 3)
