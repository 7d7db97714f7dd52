"""The examples are what training starts with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_folder import BROKEN, write_pictures

from dinotrain.data.augment import Augment
from dinotrain.data.crops import MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.masks import MaskSampler
from dinotrain.data.sources.folder import FolderSource
from dinotrain.inspection.examples import Example, examples

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROPS = MultiCrop(global_size=32, local_size=16, num_local=3)
MASKS = MaskSampler(grid=4, group=8, seed=5)
PLAIN = Augment(
    flip=0, jitter_probability=0, grayscale=0, blur_global1=0, blur_global2=0, blur_local=0, solarize_global2=0
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    root: Path = tmp_path_factory.mktemp("images")
    write_pictures(root)
    return FolderSource(root=root, min_size=16)


def _examples(source: FolderSource, augment: Augment, count: int) -> list[Example]:
    return examples(source=source, crops=CROPS, augment=augment, masks=MASKS, mean=MEAN, std=STD, seed=5, count=count)


def test_they_are_the_first_of_the_training(source: FolderSource) -> None:
    loader = Loader(
        source=source, crops=CROPS, augment=Augment(), masks=MASKS, global_batch=8, micro_batch=8, seed=5, steps=1
    )
    batch = next(iter(loader))
    shown = _examples(source, Augment(), 6)
    assert tuple(example.name for example in shown) == batch.names[:6]
    for place, example in enumerate(shown):
        assert (example.masks == batch.masks[:, place].numpy()).all()
        levels = example.global_crops.astype(np.float32) / 255
        normal = (levels - np.array(MEAN)) / np.array(STD)
        assert np.abs(normal - batch.global_crops[:, place].movedim(1, -1).numpy()).max() < 1e-4


def test_the_boxes_are_where_the_crops_were_cut(source: FolderSource) -> None:
    for example in _examples(source, PLAIN, 5):
        crops = [*example.global_crops, *example.local_crops]
        for (top, left, high, wide), crop in zip(example.boxes, crops, strict=True):
            part = example.image[top : top + high, left : left + wide].astype(float)
            assert np.abs(part.mean((0, 1)) - crop.astype(float).mean((0, 1))).max() < 3


def test_broken_images_are_shown_by_what_replaces_them(source: FolderSource) -> None:
    shown = _examples(source, PLAIN, len(source))
    assert len(shown) == len(source)
    assert not {example.name for example in shown} & BROKEN
    assert all(example.image.shape == (40, 60, 3) for example in shown)


def test_there_are_no_more_than_there_are_images(source: FolderSource) -> None:
    assert len(_examples(source, PLAIN, 1000)) == len(source)
