"""The picture of crops."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinotrain.inspection.examples import Example
from dinotrain.inspection.picture import crop_picture

ORANGE = (230, 97, 0)


def _example(**changes: Any) -> Example:
    """Light crops; the left half of the second global crop is masked."""
    masks = np.zeros((2, 16), bool)
    masks[1].reshape(4, 4)[:, :2] = True
    fields: dict[str, Any] = {
        "name": "folder/name.jpg",
        "image": np.full((60, 90, 3), 120, np.uint8),
        "boxes": [(5, 5, 50, 50), (0, 30, 60, 60), (10, 10, 20, 20), (30, 50, 20, 20)],
        "global_crops": np.full((2, 56, 56, 3), 200, np.uint8),
        "local_crops": np.full((2, 28, 28, 3), 160, np.uint8),
        "masks": masks,
    }
    return Example(**(fields | changes))


def _runs(line: np.ndarray, level: int) -> int:
    """Pixels of a line that have this level in all channels."""
    return int((line == level).all(-1).sum())


def test_every_example_has_a_row() -> None:
    one, three = (crop_picture([_example()] * rows, "a title") for rows in (1, 3))
    assert one.shape[1] == three.shape[1]
    assert three.shape[0] - one.shape[0] == 2 * (27 + 230 + 26)  # two local crops of 112 px and what is between them


def test_crops_have_one_scale_and_masked_patches_are_dark() -> None:
    picture = crop_picture([_example()], "a title")
    body = picture[24 + 62 + 27 :]
    line = body[30]  # between two lines of the grid
    assert _runs(line, 200) == 224 + 111  # 4 times 56 px, and half of it but for a line of the grid
    assert _runs(body[10], 160) == 112  # 4 times 28 px
    masked = body[10:50, 24 + 2 * 244 + 5 : 24 + 2 * 244 + 50]
    assert masked.mean() < 100
    assert (masked == masked[0, 0]).all()  # within a patch; at its border is a line
    assert body[20:70, 24 + 2 * 244 + 5 : 24 + 2 * 244 + 110].std((0, 1)).max() > 0


def test_the_boxes_are_drawn_on_the_image() -> None:
    picture = crop_picture([_example()], "a title")
    image = picture[24 + 62 + 27 :, 24 : 24 + 224]
    orange = np.argwhere((image == ORANGE).all(-1))
    factor = 224 / 90
    assert orange.min(0).tolist() == [round(5 * factor)] * 2
    assert np.abs(orange.max(0) - 55 * factor).max() <= 2


def test_there_may_be_neither_masks_nor_local_crops() -> None:
    without = _example(
        masks=np.zeros((2, 0), bool),
        local_crops=np.zeros((0, 28, 28, 3), np.uint8),
        boxes=[(5, 5, 50, 50), (0, 30, 60, 60)],
    )
    picture = crop_picture([without], "a title")
    assert picture.shape[1] == 24 + 3 * 244 - 20 + 24
    assert _runs(picture[24 + 62 + 27 + 30], 200) == 2 * 224


def test_large_crops_are_shrunk() -> None:
    crops = {"global_crops": np.full((2, 518, 518, 3), 200, np.uint8), "masks": np.zeros((2, 37 * 37), bool)}
    picture = crop_picture([_example(**crops)], "a title")
    assert _runs(picture[24 + 62 + 27 + 30], 200) == 2 * 320


def test_long_names_are_cut_at_their_start() -> None:
    short, long = (crop_picture([_example(name=name)], "t") for name in ("b.jpg", "a/" * 200 + "b.jpg"))
    assert short.shape == long.shape
    assert (short[:, 24 + 244 :] == long[:, 24 + 244 :]).all()
    assert (short != long).any()
