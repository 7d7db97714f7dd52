"""Images in NumPy files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinotrain.data.sources.arrays import ArraySource
from dinotrain.errors import UserError

_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)


def test_npz_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    labels = np.array([0, 1, 0, 1, 0, 1], np.uint8)
    np.savez(file, images=_IMAGES, labels=labels, test_images=_IMAGES[:2], test_labels=labels[:2], classes=["a", "b"])
    source = ArraySource(root=file)
    assert len(source) == 6
    assert source.classes == ("a", "b")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    picture = source.image(4)
    assert (picture == _IMAGES[4]).all()
    picture[:] = 0
    assert (source.image(4) == _IMAGES[4]).all()
    test = source.test()
    assert test is not None
    assert len(test) == 2
    assert test.test() is None
    assert test.labels is not None
    assert test.fingerprint() != source.fingerprint()
    assert source.name(4) != source.name(3)
    with pytest.raises(IndexError):
        source.image(6)


def test_npz_grey_and_unlabelled(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "grey.npz", images=_IMAGES[..., 0])
    source = ArraySource(root=str(tmp_path / "grey.npz"))
    assert source.labels is None
    assert source.test() is None
    assert (source.image(3) == _IMAGES[3, :, :, :1]).all()


def test_npy_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", _IMAGES)
    source = ArraySource(root=tmp_path / "set.npy")
    assert (source.image(5) == _IMAGES[5]).all()
    assert source.image(5).flags.writeable
    assert len(pickle.dumps(source)) < 2000
    assert (pickle.loads(pickle.dumps(source)).image(5) == _IMAGES[5]).all()


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    for save, ending in ((np.save, "npy"), (lambda file, images: np.savez(file, images=images), "npz")):
        save(tmp_path / f"a.{ending}", _IMAGES)
        save(tmp_path / f"b.{ending}", _IMAGES)
        save(tmp_path / f"c.{ending}", 255 - _IMAGES)
        prints = [ArraySource(root=tmp_path / f"{name}.{ending}").fingerprint() for name in "abc"]
        assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": _IMAGES}, "got the arrays pictures, expected 'images'"),
        ({"images": _IMAGES.astype(np.float32)}, "float32 .6, 9, 8, 3., expected uint8"),
        ({"images": _IMAGES[..., :2]}, r"\[6, 9, 8, 2\], expected uint8"),
        ({"images": _IMAGES[:0]}, r"\[0, 9, 8, 3\]"),
        ({"images": np.array([None])}, "object"),
        ({"images": _IMAGES, "labels": np.zeros(5, int)}, r"labels is int64 \[5\], expected whole numbers \[6\]"),
        ({"images": _IMAGES, "labels": np.zeros(6)}, r"labels is float64 \[6\]"),
        ({"images": _IMAGES, "labels": np.full(6, -1)}, "labels has -1"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=words) as caught:
        ArraySource(root=tmp_path / "set.npz")
    assert str(caught.value).startswith("data.root: ")
    assert "set.npz" in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("nothing")
    np.save(tmp_path / "cut.npy", _IMAGES)
    data = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:50])
    for name, words in (("none.npz", "does not exist"), ("text.npz", "can't be read"), ("cut.npy", "can't be read")):
        with pytest.raises(UserError, match=words):
            ArraySource(root=tmp_path / name)
    (tmp_path / "cut.npy").write_bytes(data[:-5])
    with pytest.raises(UserError, match="can't read images"):
        ArraySource(root=tmp_path / "cut.npy").image(0)
    with pytest.raises(UserError, match="can't be read"):
        ArraySource(root=tmp_path)
    with pytest.raises(ValueError, match="split"):
        ArraySource(root=tmp_path / "cut.npy", split="val")
