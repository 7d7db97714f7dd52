"""Fashion-MNIST's files, made small here."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dinotrain.data.sources.fashion_mnist import CLASSES, FashionMnistSource
from dinotrain.errors import UserError

_IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
_LABELS = np.arange(7, dtype=np.uint8)


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def _write(folder: Path, ending: str = ".gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, part in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        for kind, values in (("images-idx3", _IMAGES[part]), ("labels-idx1", _LABELS[part])):
            data = _idx(values)
            (folder / f"{prefix}-{kind}-ubyte{ending}").write_bytes(gzip.compress(data) if ending else data)


@pytest.mark.parametrize("ending", [".gz", ""])
@pytest.mark.parametrize("place", [".", "fashion-mnist", "usr/share/datasets/fashion-mnist"])
def test_layouts(tmp_path: Path, place: str, ending: str) -> None:
    _write(tmp_path / place, ending)
    source = FashionMnistSource(root=tmp_path)
    assert len(source) == 5
    assert source.classes == CLASSES
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    picture = source.image(4)
    assert picture.shape == (28, 28, 3)
    assert (picture == _IMAGES[4][:, :, None]).all()
    test = source.test()
    assert test is not None
    assert (test.image(0) == _IMAGES[5][:, :, None]).all()
    assert test.test() is None
    assert test.fingerprint() != source.fingerprint()
    assert source.name(4) == "fashion_mnist/train/000004"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Fashion-MNIST in .*t10k-labels-idx1-ubyte\.gz.*dataset-fashion-mnist"):
        FashionMnistSource(root=tmp_path)
    with pytest.raises(ValueError, match="split"):
        FashionMnistSource(root=tmp_path, split="val")


def test_damaged_files(tmp_path: Path) -> None:
    _write(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    good = images.read_bytes()
    for data, words in (
        (good[:1000], "can't read"),
        (b"nothing", "can't read"),
        (gzip.compress(_idx(_LABELS)), "no IDX file"),
        (gzip.compress(_idx(_IMAGES)[:-1]), "expected .7, 28, 28."),
        (gzip.compress(_idx(_IMAGES)), "7 images, expected 5"),
    ):
        images.write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            FashionMnistSource(root=tmp_path).image(0)
        assert "train-images" in str(caught.value)
    labels.write_bytes(gzip.compress(_idx(_LABELS + 9)))
    with pytest.raises(UserError, match="does not hold labels"):
        FashionMnistSource(root=tmp_path)
