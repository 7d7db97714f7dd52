"""Folders of images: what is found, in which order, with which labels, and what is refused."""

from __future__ import annotations

import errno
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.folder import FolderSource
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


def _reference(root: str, below: str = "") -> list[str]:
    """Paths in the order that the documentation gives: sorted by name, folder by folder."""
    paths = []
    for name in sorted(os.listdir(os.path.join(root, below)), key=os.fsencode):
        path = os.path.join(below, name)
        paths += _reference(root, path) if os.path.isdir(os.path.join(root, path)) else [path]
    return paths


def test_the_order_is_by_name_folder_by_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["a", "a-", "a.png", "b.png", "é", "B", "10", "9", "z.png", "a b"]
    for _ in range(300):
        parts = [str(rng.choice(names)) for _ in range(rng.integers(1, 6))]
        folder = tmp_path.joinpath(*(part.removesuffix(".png") for part in parts[:-1]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{parts[-1]}.jpg").touch()
    expected = _reference(str(tmp_path))
    assert len(expected) > 200
    source = FolderSource(root=tmp_path)
    assert _names(source) == expected
    (tmp_path / "new.txt").touch()
    assert _names(FolderSource(root=tmp_path)) == expected


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has not changed for a while."""
    _put(tmp_path, "cat/1.png", "cat/2.png", "cat/deep/3.png", "dog/1.png")
    monkeypatch.setattr("dinotrain.data.sources.tree.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10))
    return tmp_path


def _scans(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The folders that are listed from now on."""
    listed: list[bytes] = []
    scandir = os.scandir

    def spy(path: bytes) -> object:
        if isinstance(path, bytes):  # those of the cache itself are text
            listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    return listed


def test_a_folder_is_listed_once(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = _scans(monkeypatch)
    first = FolderSource(root=settled)
    assert len(listed) == 4
    again = FolderSource(root=f"{settled}/../{settled.name}/")
    assert len(listed) == 4
    assert _names(again) == _names(first) == ["cat/1.png", "cat/2.png", "cat/deep/3.png", "dog/1.png"]
    assert again.fingerprint() == first.fingerprint()
    assert again.labels is not None
    assert again.labels.tolist() == [0, 0, 0, 1]
    assert again.classes == ("cat", "dog")
    others = FolderSource(root=settled, classes=["dog", "bird"])
    assert len(listed) == 4
    assert others.classes == ("dog", "bird", "cat")
    assert others.labels is not None
    assert others.labels.tolist() == [2, 2, 2, 0]
    assert len(FolderSource(root=settled, extensions=[".png", ".jpg"])) == 4
    assert len(listed) == 8


@pytest.mark.parametrize("change", ["add", "add deep", "remove", "rename", "add folder", "remove folder", "replace"])
def test_a_changed_folder_is_listed_again(settled: Path, change: str) -> None:
    before = _names(FolderSource(root=settled))
    if change == "add":
        _put(settled, "dog/2.png")
    elif change == "add deep":
        _put(settled, "cat/deep/4.png")
    elif change == "remove":
        (settled / "cat" / "1.png").unlink()
    elif change == "rename":
        (settled / "cat" / "1.png").rename(settled / "cat" / "0.png")
    elif change == "add folder":
        _put(settled, "ant/1.png")
    elif change == "remove folder":
        (settled / "dog" / "1.png").unlink()
        (settled / "dog").rmdir()
    else:
        times = [os.stat(path).st_mtime_ns for path in (settled / "dog", settled / "cat" / "deep")]
        _put(settled, "dog/2.png")
        (settled / "cat" / "deep").rename(settled / "bird")
        for folder, at in zip((settled / "dog", settled / "bird"), times):
            os.utime(folder, ns=(at, at))  # as an archive does that is unpacked
    after = _names(FolderSource(root=settled))
    assert after == [name for name in _reference(str(settled)) if name.endswith(".png")]
    assert after != before


def test_a_folder_that_just_changed_is_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr("dinotrain.data.sources.tree.time", SimpleNamespace(time_ns=lambda: now))
    _put(tmp_path, "cat/1.png", "dog/1.png")
    listed = _scans(monkeypatch)
    for scans in (3, 6):
        assert len(FolderSource(root=tmp_path)) == 2
        assert len(listed) == scans


def test_folders_without_times_are_listed_each_time(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def timeless(path: bytes, **keys: bool) -> object:
        info = stat(path, **keys)
        if isinstance(path, bytes) and path.endswith(b"dog"):
            return SimpleNamespace(st_mode=info.st_mode, st_dev=info.st_dev, st_ino=info.st_ino, st_ctime_ns=0)
        return info

    monkeypatch.setattr(os, "stat", timeless)
    assert len(FolderSource(root=settled)) == 4
    _put(settled, "dog/2.png")
    assert len(FolderSource(root=settled)) == 5


def test_a_link_whose_target_appears_is_followed(settled: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "birds"
    (settled / "bird").symlink_to(elsewhere)
    assert len(FolderSource(root=settled)) == 4
    _put(elsewhere, "1.png")
    assert len(FolderSource(root=settled)) == 5


def _forbid(monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    """Folders of this name can't be listed (permissions would not keep root from it)."""
    scandir = os.scandir

    def forbidding(path: bytes) -> object:
        if isinstance(path, bytes) and os.path.basename(path.rstrip(b"/")) == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)


def test_a_folder_that_cant_be_listed_is_told_and_tried_again(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        _forbid(patched, b"deep")
        for _ in range(2):
            source = FolderSource(root=settled)
            assert source.left_out == (Skipped("cat/deep", "Permission denied"),)
            assert _names(source) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    source = FolderSource(root=settled)
    assert len(source) == 4
    assert source.left_out == ()


def test_a_root_that_cant_be_listed(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _forbid(monkeypatch, os.fsencode(settled.name))
    with pytest.raises(UserError, match=r"^data.root: can't list .*: Permission denied$"):
        FolderSource(root=settled)


def test_without_a_cache_folder_it_works_as_well(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOTRAIN_CACHE", str(settled / "cat" / "1.png"))
    with pytest.warns(UserWarning, match="can't keep"):
        assert len(FolderSource(root=settled)) == 4
