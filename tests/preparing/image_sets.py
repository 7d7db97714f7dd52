"""Pictures to convert, drawn from a seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 120, height: int = 90) -> np.ndarray:
    """Soft patches of colour, unlike those of other seeds; [height, width, 3]."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    fine = generator.integers(-6, 7, (height, width, 1))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(soft + fine, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, format: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def write_folder(root: Path, count: int = 24, classes: int = 3) -> Path:
    """JPEG and PNG files of several sizes in folders of classes, the first of each class larger than the others."""
    for index in range(count):
        folder = root / f"class_{index % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = picture(index, *((300, 200) if index < classes else (120, 90)))
        format = "PNG" if index % 5 == 4 else "JPEG"
        (folder / f"{index:03d}.{format.lower()}").write_bytes(encoded(pixels, format))
    return root
