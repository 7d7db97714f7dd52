"""What is drawn for the photometric augmentation, and the statistics of whole crops, against the original."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from reference import load

from dinotrain.data.augment import Augment
from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import sample_rng
from dinotrain.data.photometric import Column, augment

_GOLDEN = load("augment_stats")
_IMAGES = sorted(key for key in _GOLDEN.arrays if key.startswith("image") and "/" not in key)
_CONFIGS = Path(__file__).parents[2] / "configs"
_PRESETS = sorted(path.stem for path in (_CONFIGS / "augment").glob("*.yaml"))
_VIEWS = ("global1", "global2", "local")


def _tables(augmentation: Augment, draws: int, num_local: int = 8) -> np.ndarray:
    return np.stack([augmentation.parameters(sample_rng(1, i), num_local) for i in range(draws)])


def _preset(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(_CONFIGS), version_base="1.3"):
        keys = OmegaConf.to_container(compose("train", [f"augment={name}"]).augment)
    assert isinstance(keys, dict)
    assert keys.pop("_target_") == "dinotrain.data.augment.Augment"
    return {str(key): value for key, value in keys.items()}


@pytest.mark.parametrize(
    ("num_local", "keys", "digest"),
    [
        (8, {}, "68cbd978d5e16fc7bd0c0ff298b01ce5b9880269fcd5f3bf0fd21bc08a00e1c3"),
        (0, {}, "ab4a437da9f11de569078ed2512244597b90d43931d21ea59b2e08c948e9b569"),
        (
            3,
            {"original_blur": True, "saturation": 0.0},
            "2073f41c5be22898cc3b0eef01ddff8a7d893bf3c7145fc84e239020d4e3a342",
        ),
    ],
)
def test_same_numbers_as_ever(num_local: int, keys: dict[str, Any], digest: str) -> None:
    tables = []
    for position in range(50):
        rng = sample_rng(3, position)
        MultiCrop(num_local=num_local).draw(rng)
        tables.append(Augment(**keys).parameters(rng, num_local))
    assert hashlib.sha256(np.stack(tables).tobytes()).hexdigest() == digest


def test_operations_are_applied_as_often_as_in_the_original() -> None:
    tables = _tables(Augment(original_blur=True), 1500, _GOLDEN.size("cfg/n_local"))
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
    crops = MultiCrop(
        global_size=_GOLDEN.size("cfg/global_size"),
        local_size=_GOLDEN.size("cfg/local_size"),
        num_local=4,
        global_scale=_GOLDEN.arrays["cfg/global_scale"].tolist(),
        local_scale=_GOLDEN.arrays["cfg/local_scale"].tolist(),
    )
    colours, draws = Augment(original_blur=True), 40
    globals_ = torch.zeros(2, draws, crops.global_size, crops.global_size, 3, dtype=torch.uint8)
    locals_ = torch.zeros(4, draws, crops.local_size, crops.local_size, 3, dtype=torch.uint8)
    params = torch.zeros(6, draws, colours.num_params)
    for i in range(draws):
        rng = sample_rng(2, i)
        crops.cut(_GOLDEN.arrays[name], crops.draw(rng), globals_[:, i], locals_[:, i])
        params[:, i] = torch.from_numpy(colours.parameters(rng, 4))
    mean, std = (_GOLDEN.arrays[f"cfg/normalise_{kind}"].tolist() for kind in ("mean", "std"))
    for view, pixels, rows in (
        ("global1", globals_[0], params[0]),
        ("global2", globals_[1], params[1]),
        ("local", locals_.flatten(0, 1), params[2:].flatten(0, 1)),
    ):
        x = augment(pixels, rows, mean=mean, std=std)
        n = _GOLDEN.size(f"{name}/{view}/n")
        for kind, ours in (("mean", x.mean((2, 3))), ("std", x.std((2, 3)))):
            theirs = [_GOLDEN.arrays[f"{name}/{view}/channel_{kind}__{moment}"] for moment in ("mean", "std")]
            _agree(ours.double().numpy(), *theirs, n=n)
        levels = x * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        assert -1e-5 < levels.min() <= levels.max() < 1 + 1e-5


def _agree(ours: np.ndarray, mean: np.ndarray, std: np.ndarray, n: int) -> None:
    """A sample of numbers [draws, ...] with the mean and standard deviation of n others."""
    error = std * np.sqrt(1 / len(ours) + 1 / n)
    assert (np.abs(ours.mean(0) - mean) < 5 * error).all()
    # A standard deviation's error, by the sample's own fourth moment.
    tails = np.sqrt(np.maximum(((ours - ours.mean(0)) ** 4).mean(0) / ours.std(0) ** 4 - 1, 1)) / 2
    assert (np.abs(ours.std(0) - std) < 5 * tails * error + 1e-3).all()


def test_blur_is_as_published_unless_asked_otherwise() -> None:
    for original, expected in ((False, (1.0, 0.1, 0.5)), (True, (0.0, 0.9, 0.5))):
        blurred = _tables(Augment(original_blur=original), 500)[..., Column.SIGMA] > 0
        shares = blurred[:, 0].mean(), blurred[:, 1].mean(), blurred[:, 2:].mean()
        np.testing.assert_allclose(shares, expected, atol=0.07)


def test_what_is_switched_off_is_never_drawn() -> None:
    off = dict.fromkeys(("flip", "brightness", "hue", "grayscale", "blur_global1", "blur_global2", "blur_local"), 0)
    table = _tables(Augment(**off), 200).reshape(-1, len(Column))
    assert not table[:, [Column.FLIP, Column.GREY, Column.SIGMA]].any()
    assert set(np.unique(table[:, 5:9])) == {-1, Column.CONTRAST, Column.SATURATION}
    jittered = (table[:, 5:9] >= 0).any(1)
    assert ((table[jittered][:, 5:9] >= 0).sum(1) == 2).all()


def test_a_vertical_flip_changes_no_other_number() -> None:
    without, with_ = _tables(Augment(), 300), _tables(Augment(vertical_flip=0.25), 300)
    flips = np.bincount(with_[..., Column.FLIP].astype(int).ravel(), minlength=4) / without[..., 0].size
    np.testing.assert_allclose(flips, (0.375, 0.375, 0.125, 0.125), atol=0.05)
    assert (with_[..., Column.FLIP] % 2 == without[..., Column.FLIP]).all()
    assert (with_[..., 1:] == without[..., 1:]).all()


@pytest.mark.parametrize("name", _PRESETS)
def test_presets(name: str) -> None:
    keys = _preset(name)
    assert keys.keys() == inspect.signature(Augment).parameters.keys()
    Augment(**keys).check(224, 98, 8)
    tables = _tables(Augment(**keys), 100)
    idle = not (tables[..., 5:9] >= 0).any() and not tables[..., [Column.FLIP, Column.GREY, Column.SIGMA]].any()
    assert idle == (name == "identity")


def test_presets_differ_from_the_published_one_in_what_they_say() -> None:
    published = _preset("dinov2")
    different = {
        name: {key: value for key, value in _preset(name).items() if value != published[key]} for name in _PRESETS
    }
    no_blur = {"blur_global1": 0.0, "blur_global2": 0.0, "blur_local": 0.0, "solarize_global2": 0.0}
    assert published == {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(Augment).parameters.items()
    }
    assert different["dinov2_original"] == {"original_blur": True}
    assert different["dinov1"] == {"blur_kernel": 13}
    assert different["flips"] == {"vertical_flip": 0.5}
    assert different["small"] == no_blur
    assert different["grayscale"] == {"saturation": 0.0, "hue": 0.0, "grayscale": 1.0}


def test_a_kernel_as_wide_as_what_it_blurs() -> None:
    line = r"^blur_kernel: got 9, must be less than twice the side of a blurred crop \({} px\)$"
    Augment().check(5, 5, 1)
    with pytest.raises(ValueError, match=line.format(4)):
        Augment().check(32, 4, 1)
    Augment().check(32, 4, 0)
    Augment(blur_local=0).check(32, 4, 8)
    with pytest.raises(ValueError, match=line.format(3)):
        Augment(blur_local=0).check(3, 8, 8)
    # By the original's mistake the first global crop is the one never blurred, where it always should be.
    Augment(original_blur=True, blur_global2=1.0, blur_local=1.0).check(3, 3, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("flip", 1.1), ("flip", -0.1), ("vertical_flip", 2), ("jitter_probability", 2), ("brightness", -1)),
        *(("hue", 0.6), ("grayscale", 3), ("blur_global2", 1.5), ("blur_sigma", (0.0, 1.0)), ("blur_kernel", 8)),
        *(("blur_kernel", 0), ("solarize_global2", -1), ("solarize_threshold", 300), ("saturation", float("nan"))),
        *(("original_blur", 1), ("contrast", -0.1)),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got [^\n]*, must be [^\n]*$"):
        Augment(**{name: value})
