"""The set of emoji with exact masks that `benchmarks/emoji_scenes.py` makes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emoji_scenes import builder, emoji_set
from PIL import Image

from dinotrain.data.sources.mask_folder import MaskFolderSource


def picture(color: tuple[int, int, int], side: int = 256) -> bytes:
    """A square of one colour in the middle half of a transparent picture."""
    image = Image.new("RGBA", (side, side))
    image.paste((*color, 255), (side // 4, side // 4, side * 3 // 4, side * 3 // 4))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def test_masks_are_where_the_emoji_are() -> None:
    program: Any = builder()
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    emoji = program.Emoji(("red", "green", "blue"), tuple((picture(color),) for color in colors))
    grounds = [np.full((200, 300, 3), 128, np.uint8)]
    for key in range(20):
        image, mask = program.compose(np.random.Generator(np.random.Philox(key=key)), emoji, grounds, 96)
        assert (image.shape, mask.shape, mask.dtype) == ((96, 96, 3), (96, 96), np.uint8)
        for number, color in enumerate([(128, 128, 128), *colors]):
            here = mask == number
            assert np.abs(image[here].astype(int) - color).max(initial=0) <= 128
            assert np.median(np.abs(image[here].astype(int) - color).max(axis=1)) == 0 if here.any() else True
        assert (mask > 0).any()


def test_photographs_of_the_splits_differ(tmp_path: Path) -> None:
    program: Any = builder()
    for index in range(10):
        Image.new("RGB", (300, 200 + index), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "words.jpg").write_bytes(b"words")
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    train, val = (program.read_photographs(tmp_path, split, 100) for split in program.SPLITS)
    assert [sorted(int(part[0, 0, 0]) for part in found) for found in (train, val)] == [
        [1, 2, 3, 4, 6, 7, 8, 9],
        [0, 5],
    ]
    assert all(min(part.shape[:2]) == 100 for part in train)


@pytest.mark.slow
def test_a_set_of_real_emoji(tmp_path: Path) -> None:
    root = emoji_set(tmp_path / "set", images=30, val=10, size=96, drawn=True)
    source = MaskFolderSource(root=root)
    test = source.test()
    assert test is not None
    assert (len(source), len(test)) == (30, 10)
    assert source.classes[:3] == ("background", "activities", "animals_nature")
    assert len(source.classes) == 10
    masks = np.stack([source.pair(index, "masks")[1] for index in range(30)])
    shares = np.bincount(masks.reshape(-1), minlength=10) / masks.size
    assert 0.4 < shares[0] < 0.9
    assert (shares > 0).all()
    again = emoji_set(tmp_path / "again", images=3, val=1, size=96, drawn=True)
    assert (again / "masks/train/000002.png").read_bytes() == (root / "masks/train/000002.png").read_bytes()


@pytest.mark.slow
def test_a_set_with_one_class(tmp_path: Path) -> None:
    """The same pictures; whatever emoji is there counts as one."""
    several, one = (
        MaskFolderSource(root=emoji_set(tmp_path / str(alike), images=5, val=1, size=96, drawn=True, one_class=alike))
        for alike in (False, True)
    )
    assert one.classes == ("background", "emoji")
    for index in range(5):
        assert one.read(index) == several.read(index)
        assert np.array_equal(one.mask(index), several.mask(index) > 0)
