"""Multi-crop: boxes, resizing, and what images of any shape give, against the original implementation and Pillow."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from reference import load

from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import sample_rng

_GOLDEN = load("augment_stats")
_IMAGES = sorted(key for key in _GOLDEN.arrays if key.startswith("image") and "/" not in key)
_CONFIGS = Path(__file__).parents[2] / "configs" / "crops"


def _original(**keys: Any) -> MultiCrop:
    """With the settings of the golden numbers."""
    settings: dict[str, Any] = {
        "global_size": _GOLDEN.size("cfg/global_size"),
        "local_size": _GOLDEN.size("cfg/local_size"),
        "num_local": _GOLDEN.size("cfg/n_local"),
        "global_scale": _GOLDEN.arrays["cfg/global_scale"].tolist(),
        "local_scale": _GOLDEN.arrays["cfg/local_scale"].tolist(),
    }
    return MultiCrop(**{**settings, **keys})


def _cut(crops: MultiCrop, image: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    out = (
        torch.zeros(2, crops.global_size, crops.global_size, 3, dtype=torch.uint8),
        torch.zeros(crops.num_local, crops.local_size, crops.local_size, 3, dtype=torch.uint8),
    )
    crops.cut(image, crops.draw(rng), *out)
    return out


def _agree(ours: np.ndarray, mean: np.ndarray, std: np.ndarray, n: int) -> None:
    """A sample of numbers [draws, ...] with the mean and standard deviation of n others."""
    mean, std = np.asarray(mean), np.asarray(std)
    error = std * np.sqrt(1 / len(ours) + 1 / n)
    assert (np.abs(ours.mean(0) - mean) < 5 * error).all()
    # A standard deviation's error, by the sample's own fourth moment.
    tails = np.sqrt(np.maximum(((ours - ours.mean(0)) ** 4).mean(0) / ours.std(0) ** 4 - 1, 1)) / 2
    assert (np.abs(ours.std(0) - std) < 5 * tails * error + 1e-3).all()


@pytest.mark.parametrize("name", _IMAGES)
def test_boxes_are_those_of_the_original(name: str) -> None:
    height, width, _ = _GOLDEN.arrays[name].shape
    crops, draws = _original(), 1000
    boxes = np.array([crops.boxes(crops.draw(sample_rng(0, i)), height, width) for i in range(draws)], float)
    for kind, part in (("global", boxes[:, :2]), ("local", boxes[:, 2:])):
        top, left, high, wide = part.reshape(-1, 4).T
        n = _GOLDEN.size("cfg/draws_per_image") * (2 if kind == "global" else crops.num_local)
        prefix = f"{name}/{kind}_geo"
        for key, ours in (("area_fraction", high * wide / height / width), ("aspect_w_over_h", wide / high)):
            mean, std, low, most = _GOLDEN.arrays[f"{prefix}/{key}__mean_std_min_max"]
            _agree(ours, mean, std, n)
            assert low - 0.05 < ours.min() <= ours.max() < most + 0.05
        _agree(np.log(wide / high), *_GOLDEN.arrays[f"{prefix}/log_aspect__mean_std"], n=n)
        y_mean, y_std, x_mean, x_std = _GOLDEN.arrays[f"{prefix}/centre_y_x__mean_std"]
        _agree((top + high / 2) / height, y_mean, y_std, n)
        _agree((left + wide / 2) / width, x_mean, x_std, n)


def test_resize_is_that_of_pillow() -> None:
    image = _GOLDEN.arrays[_IMAGES[0]]
    crops = MultiCrop(global_size=48, local_size=20, num_local=3, local_scale=(0.05, 0.9))
    globals_, locals_ = _cut(crops, image, sample_rng(0, 5))
    boxes = crops.boxes(crops.draw(sample_rng(0, 5)), *image.shape[:2])
    for (top, left, high, wide), ours in zip(boxes, [*globals_, *locals_]):
        part = Image.fromarray(image[top : top + high, left : left + wide])
        theirs = np.asarray(part.resize((len(ours), len(ours)), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(ours.numpy() - theirs).mean() < 0.05


def test_same_pixels_without_the_operator_that_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _GOLDEN.arrays[_IMAGES[0]]
    crops = MultiCrop(global_size=48, local_size=20, num_local=2)
    direct = _cut(crops, image, sample_rng(0, 0))
    monkeypatch.setattr("dinotrain.data.crops._BICUBIC", None)
    assert all(torch.equal(a, b) for a, b in zip(direct, _cut(crops, image, sample_rng(0, 0))))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (17, 900), (31, 32)])
def test_images_of_any_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    crops = MultiCrop(global_size=32, local_size=16, num_local=4)
    for position in range(20):
        for top, left, high, wide in crops.boxes(crops.draw(sample_rng(0, position)), *shape):
            assert 0 <= top < top + high <= shape[0]
            assert 0 <= left < left + wide <= shape[1]
        _cut(crops, image, sample_rng(0, position))
    flat = np.full((*shape, 3), 77, np.uint8)
    globals_, locals_ = _cut(crops, flat, sample_rng(0, 0))
    assert (globals_ == 77).all()
    assert (locals_ == 77).all()


def test_a_sample_depends_on_its_random_numbers_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    crops = MultiCrop(global_size=32, local_size=16, num_local=4)
    first, second = (_cut(crops, image, sample_rng(7, 11)) for _ in range(2))
    other = _cut(crops, image, sample_rng(7, 12))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))
    rng, same = sample_rng(7, 11), sample_rng(7, 11)
    _cut(crops, image, rng)
    _cut(crops, np.repeat(image, 50, axis=0), same)  # of another shape, with more tries
    assert rng.random() == same.random()


def test_arrays_strided_slots_and_read_only_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    crops = MultiCrop(global_size=32, local_size=16, num_local=4)
    globals_, locals_ = _cut(crops, image, sample_rng(0, 0))
    image.setflags(write=False)
    slots = np.zeros((2, 5, 32, 32, 3), np.uint8), np.zeros((4, 5, 16, 16, 3), np.uint8)
    crops.cut(image, crops.draw(sample_rng(0, 0)), *(slot[:, 2] for slot in slots))
    for slot, expected in zip(slots, (globals_, locals_)):
        assert (slot[:, 2] == expected.numpy()).all()
        assert not slot[:, [0, 1, 3, 4]].any()


def test_no_local_crops() -> None:
    globals_, locals_ = _cut(MultiCrop(num_local=0), np.ones((50, 60, 3), np.uint8), sample_rng(0, 0))
    assert (globals_ == 1).all()
    assert locals_.shape == (0, 98, 98, 3)


def test_same_boxes_as_ever() -> None:
    crops = MultiCrop()
    boxes = crops.boxes(crops.draw(sample_rng(3, 0)), 375, 500)
    assert boxes[:3] == [(4, 0, 359, 356), (35, 52, 323, 304), (89, 107, 154, 170)]
    assert MultiCrop(num_local=0).boxes(MultiCrop(num_local=0).draw(sample_rng(3, 0)), 375, 500)[0] == (
        28,
        54,
        305,
        335,
    )


@pytest.mark.parametrize("shape", [(1, 1), (90, 60), (150, 200), (375, 500), (640, 480), (3000, 700)])
def test_an_image_is_admitted_if_no_crop_has_to_be_enlarged(shape: tuple[int, int]) -> None:
    crops = MultiCrop(global_size=64, local_size=32, num_local=3)
    for position in range(30):
        draws = crops.draw(sample_rng(0, position))
        boxes = crops.boxes(draws, *shape)
        large_enough = [min(box[2:]) >= size for box, size in zip(boxes, (64, 64, 32, 32, 32))]
        assert crops.admits(draws, *shape) == all(large_enough)


def test_half_the_size_is_admitted_as_often_as_it_should_be() -> None:
    crops = MultiCrop()
    shares = {
        side: np.mean([crops.admits(crops.draw(sample_rng(0, i)), side * 2 // 3, side) for i in range(100)])
        for side in (375, 600, 750)
    }
    assert shares[375] == 0
    assert shares[600] > 0.95
    assert shares[750] == 1


@pytest.mark.parametrize("name", ["dinov2_224", "dinov2_224_p16", "small_32"])  # the others name one of them
def test_configurations(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(_CONFIGS / f"{name}.yaml"))
    assert isinstance(config, dict)
    assert config.pop("_target_") == "dinotrain.data.crops.MultiCrop"
    keys: dict[str, Any] = {str(key): value for key, value in config.items()}
    assert keys.keys() == inspect.signature(MultiCrop).parameters.keys()
    _cut(MultiCrop(**keys), np.zeros((32, 32, 3), np.uint8), sample_rng(0, 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("global_size", 0), ("local_size", -4), ("num_local", -1), ("num_local", 2.5), ("global_scale", (0.5, 1.2))),
        *(("local_scale", (0.3, 0.1)), ("local_scale", (0.0, 0.1)), ("ratio", (1.0,)), ("global_size", True)),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got [^\n]*, must be [^\n]*$"):
        MultiCrop(**{name: value})
