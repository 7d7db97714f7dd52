"""Multi-crop: boxes, resizing, what is drawn, and the statistics of whole crops against the original implementation."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from reference import Golden, load

from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import sample_rng
from dinotrain.data.photometric import Column, augment

_GOLDEN = load("augment_stats")
_IMAGES = sorted(key for key in _GOLDEN.arrays if key.startswith("image") and "/" not in key)
_CONFIGS = Path(__file__).parents[2] / "configs" / "crops"
_VIEWS = ("global1", "global2", "local")


def _original(**keys: Any) -> MultiCrop:
    """With the settings of the golden numbers."""
    settings: dict[str, Any] = {
        "global_size": _GOLDEN.size("cfg/global_size"),
        "local_size": _GOLDEN.size("cfg/local_size"),
        "num_local": _GOLDEN.size("cfg/n_local"),
        "global_scale": _GOLDEN.arrays["cfg/global_scale"].tolist(),
        "local_scale": _GOLDEN.arrays["cfg/local_scale"].tolist(),
        "original_blur": True,
    }
    return MultiCrop(**{**settings, **keys})


def _cut(crops: MultiCrop, image: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    out = (
        torch.zeros(2, crops.global_size, crops.global_size, 3, dtype=torch.uint8),
        torch.zeros(crops.num_local, crops.local_size, crops.local_size, 3, dtype=torch.uint8),
        torch.full((2 + crops.num_local, crops.num_params), -9.0),
    )
    crops.into(image, rng, *out)
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
    boxes = np.array([crops.boxes(sample_rng(0, i), height, width) for i in range(draws)], float)
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


def test_operations_are_applied_as_often_as_in_the_original() -> None:
    crops, draws = _original(), 1500
    tables = np.stack([crops.parameters(sample_rng(1, i)) for i in range(draws)])
    applied = {
        "gaussian_blur": tables[..., Column.SIGMA] > 0,
        "solarize": tables[..., Column.THRESHOLD] < 256,
        "rgb_to_grayscale": tables[..., Column.GREY] > 0,
        **{f"adjust_{name}": (tables[..., 5:9] == Column[name.upper()]).any(-1) for name in ("contrast", "hue")},
    }
    for name, shares in applied.items():
        for view, ours in zip(_VIEWS, (shares[:, 0], shares[:, 1], shares[:, 2:])):
            keys = [f"{image}/{view}/applied_fraction/{name}" for image in _IMAGES]
            theirs = float(np.mean([_GOLDEN.number(key) for key in keys]))
            n = sum(_GOLDEN.size(f"{image}/{view}/n") for image in _IMAGES)
            _share_agrees(ours, theirs, n)
    flips = [_GOLDEN.number(f"{image}/{kind}_geo/hflip_fraction") for image in _IMAGES for kind in ("global", "local")]
    _share_agrees(tables[..., Column.FLIP] > 0, float(np.mean(flips)), 1000 * len(_IMAGES))


def _share_agrees(ours: np.ndarray, theirs: float, n: int) -> None:
    spread = np.sqrt(theirs * (1 - theirs))
    assert abs(ours.mean() - theirs) <= 5 * spread * np.sqrt(1 / ours.size + 1 / n)


@pytest.mark.parametrize("name", _IMAGES)
def test_whole_crops_look_like_those_of_the_original(name: str) -> None:
    crops, draws = _original(num_local=4), 40
    mean, std = (_GOLDEN.arrays[f"cfg/normalise_{kind}"].tolist() for kind in ("mean", "std"))
    cut = [_cut(crops, _GOLDEN.arrays[name], sample_rng(2, i)) for i in range(draws)]
    globals_, locals_, params = (torch.stack(parts, 1) for parts in zip(*cut))
    for view, pixels, rows in (
        ("global1", globals_[0], params[0]),
        ("global2", globals_[1], params[1]),
        ("local", locals_.flatten(0, 1), params[2:].flatten(0, 1)),
    ):
        x = augment(pixels, rows, mean=mean, std=std)
        _view_agrees(x, f"{name}/{view}", _GOLDEN)
        levels = x * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        assert -1e-5 < levels.min() <= levels.max() < 1 + 1e-5


def _view_agrees(x: torch.Tensor, prefix: str, golden: Golden) -> None:
    n = golden.size(f"{prefix}/n")
    for kind, ours in (("mean", x.mean((2, 3))), ("std", x.std((2, 3)))):
        theirs = [golden.arrays[f"{prefix}/channel_{kind}__{moment}"] for moment in ("mean", "std")]
        _agree(ours.double().numpy(), *theirs, n=n)


def test_resize_is_that_of_pillow() -> None:
    image = _GOLDEN.arrays[_IMAGES[0]]
    crops = MultiCrop(global_size=48, local_size=20, num_local=3, local_scale=(0.05, 0.9))
    globals_, locals_, _ = _cut(crops, image, sample_rng(0, 5))
    boxes = crops.boxes(sample_rng(0, 5), *image.shape[:2])
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
        for top, left, high, wide in crops.boxes(sample_rng(0, position), *shape):
            assert 0 <= top < top + high <= shape[0]
            assert 0 <= left < left + wide <= shape[1]
        globals_, locals_, params = _cut(crops, image, sample_rng(0, position))
        assert torch.isfinite(params).all()
    flat = np.full((*shape, 3), 77, np.uint8)
    globals_, locals_, _ = _cut(crops, flat, sample_rng(0, 0))
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
    globals_, locals_, params = _cut(crops, image, sample_rng(0, 0))
    image.setflags(write=False)
    slots = (
        np.zeros((2, 5, 32, 32, 3), np.uint8),
        np.zeros((4, 5, 16, 16, 3), np.uint8),
        np.zeros((6, 5, 13), np.float32),
    )
    crops.into(image, sample_rng(0, 0), *(slot[:, 2] for slot in slots))
    for slot, expected in zip(slots, (globals_, locals_, params)):
        assert (slot[:, 2] == expected.numpy()).all()
        assert not slot[:, [0, 1, 3, 4]].any()


def test_no_local_crops() -> None:
    globals_, locals_, params = _cut(MultiCrop(num_local=0), np.ones((50, 60, 3), np.uint8), sample_rng(0, 0))
    assert (globals_ == 1).all()
    assert locals_.shape == (0, 98, 98, 3)
    assert params.shape == (2, 13)


def test_blur_is_as_published_unless_asked_otherwise() -> None:
    for original, expected in ((False, (1.0, 0.1, 0.5)), (True, (0.0, 0.9, 0.5))):
        crops = MultiCrop(original_blur=original)
        blurred = np.stack([crops.parameters(sample_rng(0, i))[:, Column.SIGMA] > 0 for i in range(500)])
        shares = blurred[:, 0].mean(), blurred[:, 1].mean(), blurred[:, 2:].mean()
        np.testing.assert_allclose(shares, expected, atol=0.07)


def test_what_is_switched_off_is_never_drawn() -> None:
    off: dict[str, Any] = {
        "flip": 0,
        "brightness": 0,
        "hue": 0,
        "grayscale": 0,
        "blur_global1": 0,
        "blur_global2": 0,
        "blur_local": 0,
    }
    table = np.concatenate([MultiCrop(**off).parameters(sample_rng(0, i)) for i in range(200)])
    assert not table[:, [Column.FLIP, Column.GREY, Column.SIGMA]].any()
    assert set(np.unique(table[:, 5:9])) == {-1, Column.CONTRAST, Column.SATURATION}
    jittered = (table[:, 5:9] >= 0).any(1)
    assert ((table[jittered][:, 5:9] >= 0).sum(1) == 2).all()


@pytest.mark.parametrize("name", ["dinov2_224", "dinov2_224_p16", "small_32"])
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
        *(("local_scale", (0.3, 0.1)), ("local_scale", (0.0, 0.1)), ("ratio", (1.0,)), ("flip", 1.1), ("flip", -0.1)),
        *(("jitter_probability", 2), ("brightness", -1), ("hue", 0.6), ("grayscale", 3), ("blur_global2", 1.5)),
        *(("blur_sigma", (0.0, 1.0)), ("blur_kernel", 8), ("blur_kernel", 255), ("solarize_global2", -1)),
        *(("solarize_threshold", 300), ("saturation", float("nan"))),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got [^\n]*, must be [^\n]*$"):
        MultiCrop(**{name: value})
