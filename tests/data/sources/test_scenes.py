"""The drawn scenes: the same everywhere, and masks and depth that are what was drawn."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dinotrain.data.sources.embedded import EmbeddedSource
from dinotrain.data.sources.scenes import ScenesSource


@pytest.fixture(scope="module")
def source() -> ScenesSource:
    return ScenesSource(length=400)


def stacked(source: ScenesSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = range(len(source))
    images, masks = zip(*(source.pair(row, "masks") for row in rows))
    return np.stack(images), np.stack(masks), np.stack([source.depth(row) for row in rows])


def test_what_it_is(source: ScenesSource) -> None:
    image, mask = source.pair(7, "masks")
    depth = source.pair(7, "depth")[1]
    assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((48, 48), np.int64)
    assert (depth.shape, depth.dtype) == ((48, 48), np.float32)
    assert source.targets == ("masks", "depth")
    assert source.classes == ("background", *EmbeddedSource(length=1).classes)
    assert source.labels is None
    assert source.evaluation_crop is None
    assert source.name(7) == "scenes/train/000007"
    assert source.target_name(7, "depth") == "scenes/train/000007 (depth)"
    with pytest.raises(IndexError, match=r"index: got 400, must be in 0\.\.399"):
        source.mask(400)
    with pytest.raises(IndexError, match=r"index: got -1, must be in 0\.\.399"):
        source.depth(-1)


def test_splits() -> None:
    source = ScenesSource()
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test()) == (10_000, 2_000, None)
    small = ScenesSource(length=60, size=32, seed=4)
    other = small.test()
    assert other is not None
    assert (len(other), other.image(0).shape) == (12, (32, 32, 3))
    assert not {part.tobytes() for part in stacked(small)[0]} & {part.tobytes() for part in stacked(other)[0]}


def test_an_image_depends_on_seed_split_and_number_only(source: ScenesSource) -> None:
    whole = stacked(source)
    for other in (ScenesSource(length=400), ScenesSource(length=130), pickle.loads(pickle.dumps(source))):
        for one, two in zip(stacked(other), whole, strict=True):
            assert (one == two[: len(one)]).all()
    for other in (ScenesSource(length=50, seed=1), ScenesSource(length=50, split="test")):
        for one, two in zip(stacked(other), whole, strict=True):
            assert (one != two[:50]).reshape(50, -1).any(axis=1).all()


def test_several_threads_draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = ScenesSource._draw
    monkeypatch.setattr(ScenesSource, "_draw", lambda *given: drawn.append(1) or draw(*given))
    source = ScenesSource(length=100)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: source.pair(row, "masks"), range(20)))
    assert drawn == [1]


def test_every_class_is_there(source: ScenesSource) -> None:
    _, masks, depth = stacked(source)
    shares = np.bincount(masks.reshape(-1), minlength=11) / masks.size
    assert len(shares) == 11
    assert 0.5 < shares[0] < 0.75
    assert (shares[1:] > 0.02).all()
    assert np.mean([len(np.unique(mask)) for mask in masks]) > 4
    assert depth.min() > 2
    assert depth.max() <= source.max_depth


def test_fewer_shapes_in_an_image() -> None:
    source = ScenesSource(length=200, kinds=1)
    _, masks, _ = stacked(source)
    assert all(len(np.unique(mask[mask > 0])) <= 1 for mask in masks)
    assert len(np.unique(masks)) == 11
    test = source.test()
    assert test is not None
    assert len(np.unique(test.mask(0))) == 2


def test_with_true_sizes_only_the_shape_tells_the_scale() -> None:
    """The same pictures; all lengths of a scene in one ratio, which its shape decides."""
    plain, sized = (ScenesSource(length=100, kinds=1, true_sizes=ratio) for ratio in (1.0, 10.0))
    factors: dict[int, set[float]] = {}
    for index in range(100):
        assert np.array_equal(plain.image(index), sized.image(index))
        ratio = sized.depth(index) / plain.depth(index)
        assert ratio.max() - ratio.min() < 1e-6
        factors.setdefault(int(plain.mask(index).max()), set()).add(round(float(ratio.mean()), 4))
    assert all(len(found) == 1 for found in factors.values())
    found = {plain.classes[shape]: min(values) for shape, values in factors.items()}
    assert (found["disc"], found["cross"]) == (1, 0.1)
    assert len(set(found.values())) == len(found) == 10


def test_masks_and_depth_are_of_one_drawing(source: ScenesSource) -> None:
    """An object has one class and one depth; the background has one depth in each row, nearer further down."""
    _, masks, depth = stacked(source)
    for mask, metres in zip(masks, depth, strict=True):
        for value in np.unique(metres[mask > 0]):
            assert len(np.unique(mask[(metres == value) & (mask > 0)])) == 1
        rows = [np.unique(line[found]) for line, found in zip(metres, mask == 0, strict=True) if found.any()]
        assert all(len(row) == 1 for row in rows)
        assert (np.diff(np.concatenate(rows)) <= 0).all()
        assert rows[0][0] >= 8


def test_edges_of_the_image_are_edges_of_the_mask() -> None:
    """Where the mask changes, so do the colours: they are of the same objects at the same pixels."""
    images, masks, _ = stacked(ScenesSource(length=100, size=96))
    change = np.abs(np.diff(images.astype(int), axis=2)).sum(3)
    edge = np.diff(masks, axis=2) != 0
    assert np.median(change[edge]) > 6 * np.median(change[~edge])


def test_size_shrinks_with_distance(source: ScenesSource) -> None:
    """The widest run of pixels of an object, against its depth: 0.5 m across the half."""
    _, masks, depth = stacked(source)
    near, far = [], []
    for mask, metres in zip(masks, depth, strict=True):
        for value in np.unique(metres[mask > 0]):
            area = ((metres == value) & (mask > 0)).sum()
            (near if value < 3 else far if value > 5 else []).append(area)
    # Near ones are cut by the border, far ones covered: both lose some.
    assert np.median(near) > 3 * np.median(far)
    assert np.percentile(far, 95) < 48**2 * np.pi * (0.5 * 1.07 / 5) ** 2 * 1.1


def test_haze_grows_with_distance(source: ScenesSource) -> None:
    images, masks, depth = stacked(source)
    objects = masks > 0
    spread = images.astype(float).std(axis=3)  # how colourful a pixel is
    assert spread[objects & (depth < 3)].mean() > 1.3 * spread[objects & (depth > 5.5)].mean()


def test_fingerprints_differ_with_the_images() -> None:
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"split": "test"},
        {"size": 32},
        {"length": 50},
        {"seed": 3},
        {"kinds": 2},
        {"kinds": 1},
        {"kinds": 1, "true_sizes": 4.0},
    )
    assert len({ScenesSource(**setting).fingerprint() for setting in settings}) == len(settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"split": "val"}, "split: got 'val', must be 'train' or 'test'"),
        ({"size": 8}, "size: got 8, must be a whole number at least 16"),
        ({"length": 0}, "length: got 0, must be a whole number at least 1"),
        ({"kinds": 11}, r"kinds: got 11, must be a whole number in 1\.\.10"),
        ({"true_sizes": 2.0}, "true_sizes: got 2.0 with kinds=None, must be with kinds=1"),
        ({"true_sizes": 0.5, "kinds": 1}, "true_sizes: got 0.5, must be a number at least 1"),
        ({"seed": 1.5}, "seed: got 1.5, must be a whole number at least 0"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        ScenesSource(**setting)


def test_drawing_is_fast() -> None:
    source = ScenesSource(length=1000)
    start = time.process_time()
    source.image(0)
    assert time.process_time() - start < 3  # about 0.4 s where nothing else runs
