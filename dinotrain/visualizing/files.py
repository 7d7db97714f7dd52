"""The pictures of a visualization as PNG files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8

from dinotrain.evaluation.pictures import save_picture
from dinotrain.evaluation.tiles import sheet
from dinotrain.visualizing.maps import enlarged, heat, over, pca_map
from dinotrain.visualizing.page import Visualization
from dinotrain.visualizing.rows import sheet_of

Picture = UInt8[np.ndarray, "_ _ 3"]


def write_pictures(folder: Path, shown: Visualization, tiles: Sequence[Picture]) -> list[Path]:
    """Write the sheets of all images, and the maps of each in its own size.

    Args:
        tiles: of the images, for the sheet of neighbours.

    Returns:
        What was written, below the folder.
    """
    pictures = _sheets(shown, tiles)
    for number, (seen, colored) in enumerate(zip(shown.seen, shown.colored), start=1):
        stem = f"images/{number:02d}_{_plain(seen.name)}"
        shape = seen.pixels.shape
        pictures[f"{stem}_pca.png"] = enlarged(pca_map(colored), shape)
        pictures[f"{stem}_attention.png"] = over(seen.pixels, heat(seen.attention.mean(dim=0)))
        for head, values in enumerate(seen.attention, start=1):
            pictures[f"{stem}_attention_head{head:02d}.png"] = over(seen.pixels, heat(values))
    for name, picture in pictures.items():
        save_picture(picture, folder / name)
    return [Path(name) for name in pictures]


def _sheets(shown: Visualization, tiles: Sequence[Picture]) -> dict[str, Picture]:
    """Image, map, map over image; image, mean attention, heads; similarities; neighbours."""
    colors, attention, similar = [], [], []
    number, patch = shown.patch
    asked = F.normalize(shown.seen[number].patches[patch], dim=0)
    similarity = [F.normalize(seen.patches, dim=1) @ asked for seen in shown.seen]
    low = min(float(values.min()) for values in similarity)
    for seen, colored, values in zip(shown.seen, shown.colored, similarity):
        shape, small = seen.pixels.shape, pca_map(colored)
        colors.append([seen.pixels, enlarged(small, shape), over(seen.pixels, small)])
        maps = [heat(part) for part in (seen.attention.mean(dim=0), *seen.attention)]
        attention.append([seen.pixels, *(over(seen.pixels, part) for part in maps)])
        level = heat(values.unflatten(0, seen.grid), low, 1.0)
        similar.append([seen.pixels, enlarged(level, shape), over(seen.pixels, level)])
    similar[number][0] = _marked(similar[number][0], shown.seen[number].grid, patch)
    found = {"pca.png": colors, "attention.png": attention, "similarity.png": similar}
    sheets = {name: sheet_of(rows) for name, rows in found.items()}
    if any(shown.neighbours):
        rows = [[own, *(one.tile for one in near)] for own, near in zip(tiles, shown.neighbours)]
        sheets["neighbours.png"] = sheet(rows, apart=True)
    return sheets


def _marked(pixels: Picture, grid: tuple[int, int], patch: int) -> Picture:
    """A frame around a patch."""
    height, width = pixels.shape[0] // grid[0], pixels.shape[1] // grid[1]
    top, left = patch // grid[1] * height, patch % grid[1] * width
    framed = pixels.copy()
    for color, edge in ((0, 0), (255, 1)):
        part = framed[top + edge : top + height - edge, left + edge : left + width - edge]
        part[[0, -1]] = color
        part[:, [0, -1]] = color
    return framed


def _plain(name: str) -> str:
    """A short part of a file name, whatever the image is called."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", Path(name).stem).strip("_")[:40] or "image"
