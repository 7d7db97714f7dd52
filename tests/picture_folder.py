"""A small folder of images of many kinds, some of them broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
BROKEN = {"cat/cut.jpg", "cat/empty.jpg", "dog/words.jpg", "dog/thin.png"}
GOOD = {"JPEG": 9, "PNG": 4, "WEBP": 2}


def scene(seed: int) -> Image.Image:
    """Something with smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def write_pictures(root: Path) -> None:
    """9 images of cats, 6 of dogs; and one file of each kind that can't be used."""
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
    for number in range(3):
        scene(number).save(root / "cat" / f"{number}.jpg")
        scene(10 + number).convert("CMYK").save(root / "cat" / f"cmyk{number}.jpg")
        scene(20 + number).convert("L").save(root / "cat" / f"grey{number}.jpg")
        scene(30 + number).save(root / "dog" / f"{number}.png")
    scene(40).convert("P").save(root / "dog" / "palette.png")
    for number in range(2):
        scene(50 + number).save(root / "dog" / f"{number}.webp")
    data = (root / "cat" / "0.jpg").read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(data[: len(data) * 4 // 5])
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "dog" / "words.jpg").write_bytes(b"these are words")
    scene(60).resize((8, 100)).save(root / "dog" / "thin.png")
