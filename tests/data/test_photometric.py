"""Photometric augmentation against Pillow's results, row by row and in any mixture of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from reference import load

from dinotrain.data.photometric import Column, augment, levels_into, normalize

_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}  # leave levels as they are
_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
_GOLDEN = load("augment_stats")


def _row(**values: float) -> torch.Tensor:
    """Numbers of one crop that is left as it is but for what is given."""
    row = torch.zeros(1, len(Column))
    row[0, Column.BRIGHTNESS : Column.HUE] = 1
    row[0, Column.FIRST : Column.FOURTH + 1] = -1
    row[0, Column.RADIUS], row[0, Column.THRESHOLD] = 4, 256
    for name, value in values.items():
        row[0, Column[name]] = value
    return row


def _cases() -> list[tuple[str, dict[str, float]]]:
    """Golden arrays of single operations with the numbers that ask for them."""
    cases: list[tuple[str, dict[str, float]]] = [("grayscale3", {"GREY": 1}), ("hflip", {"FLIP": 1})]
    for key in sorted(_GOLDEN.arrays):
        kind, _, argument = key.removeprefix("ops/").partition("/")
        if kind in _OPERATIONS:
            name = kind.upper()
            cases.append((f"{kind}/{argument}", {name: float(argument), "THIRD": Column[name]}))
        elif kind.startswith("gaussian_blur_k"):
            numbers = {"SIGMA": float(argument.removeprefix("sigma_")), "RADIUS": int(kind[15:]) // 2}
            cases.append((f"{kind}/{argument}", numbers))
        elif kind.startswith("solarize_"):
            cases.append((kind, {"THRESHOLD": int(kind[9:])}))
    return cases


@pytest.mark.parametrize(("key", "values"), _cases(), ids=lambda value: value if isinstance(value, str) else "")
def test_operation_is_that_of_pillow(key: str, values: dict[str, float]) -> None:
    ours = augment(_GOLDEN.tensor("ops/input")[None], _row(**values), **_LEVELS)[0].permute(1, 2, 0)
    difference = (ours - _GOLDEN.tensor(f"ops/{key}")).abs()
    assert difference.mean() < (0.02 if "hue" in key else 0.002)
    torch.testing.assert_close(ours, ours.round(), atol=1e-4, rtol=0)


def test_normalisation() -> None:
    mean, std = (_GOLDEN.arrays[f"cfg/normalise_{kind}"].tolist() for kind in ("mean", "std"))
    ours = augment(_GOLDEN.tensor("ops/input")[None], _row(), mean=mean, std=std)[0]
    torch.testing.assert_close(ours, _GOLDEN.tensor("ops/normalised"), atol=2e-6, rtol=0)


def _mixture(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows = torch.cat([_row() for _ in range(count)])
    for row in rows:
        row[Column.FLIP], row[Column.GREY] = float(rng.integers(4)), float(rng.random() < 0.2)
        row[Column.BRIGHTNESS : Column.HUE] = torch.from_numpy(rng.uniform(0.6, 1.4, 3))
        row[Column.HUE] = rng.uniform(-0.5, 0.5)
        if rng.random() < 0.8:
            row[Column.FIRST : Column.FOURTH + 1] = torch.from_numpy(rng.permutation([1, 2, 3, -1, 4])[:4])
        row[Column.SIGMA] = rng.uniform(0.1, 2) * (rng.random() < 0.5)
        row[Column.THRESHOLD] = 128 if rng.random() < 0.3 else 256
    return rows


@pytest.mark.parametrize("side", [5, 16, 224])
def test_rows_do_not_depend_on_each_other(side: int) -> None:
    rows = _mixture(24)
    crops = torch.randint(0, 256, (24, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = crops.clone()
    together = augment(crops, rows, **_LEVELS)
    alone = torch.cat([augment(crops[i : i + 1], rows[i : i + 1], **_LEVELS) for i in range(24)])
    assert torch.equal(crops, before)
    assert together.is_contiguous()
    assert 0 <= together.min() <= together.max() <= 255.001
    # The mean grey level may be summed in another order, and then be rounded the other way.
    assert ((together - alone).abs() > 0.01).float().mean() < 1e-3


def test_order_of_the_colour_operations() -> None:
    crop = torch.full((1, 4, 4, 3), 200, dtype=torch.uint8)
    crop[0, 0, 0] = 0
    bright, saturated = Column.BRIGHTNESS, Column.CONTRAST
    first = augment(crop, _row(BRIGHTNESS=2, CONTRAST=0.5, FIRST=bright, SECOND=saturated), **_LEVELS)
    second = augment(crop, _row(BRIGHTNESS=2, CONTRAST=0.5, FIRST=saturated, SECOND=bright), **_LEVELS)
    # mean 187.5 -> 188; 200 * 2 is cut to 255, whose mean with one 0 is 239.06.
    assert first[0, 0, 0, 0].round() == 119
    assert second[0, 0, 0, 0].round() == 188
    assert first[0, 0, 3, 3].round() == 247
    assert second[0, 0, 3, 3].round() == 255


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.004, 0.07, 1 / 3, 0.5])
def test_hue_of_every_colour_is_pillows(turns: float) -> None:
    levels = np.arange(0, 256, 15).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, len(levels) ** 2, len(levels), 3)
    hue, saturation, value = Image.fromarray(colours[0]).convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.array(int(turns * 255) % 256, np.uint8))
    theirs = np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"))
    ours = augment(torch.from_numpy(colours), _row(FIRST=Column.HUE, HUE=turns), **_LEVELS)[0].permute(1, 2, 0)
    difference = (ours.numpy() - theirs).round().__abs__()
    assert difference.mean() < 0.1
    assert difference.max() <= 6  # a hue or saturation cut to the other one of two neighbouring bytes


@pytest.mark.parametrize(("value", "axes"), [(0, ()), (1, (2,)), (2, (1,)), (3, (1, 2))])
def test_flips(value: int, axes: tuple[int, ...]) -> None:
    crops = torch.arange(2 * 5 * 7 * 3, dtype=torch.uint8).view(2, 5, 7, 3)
    ours = augment(crops, torch.cat([_row(FLIP=value), _row()]), **_LEVELS).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours[:1], crops[:1].flip(axes).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[1:], crops[1:].float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("count", "side"), [(40, 5), (40, 16), (24, 98), (6, 224)])
def test_levels_and_then_normalisation_give_the_same(count: int, side: int) -> None:
    statistics: dict[str, tuple[float, ...]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    rows = _mixture(count)
    rows[::7] = _row()
    generator = torch.Generator().manual_seed(1)
    crops = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    once = augment(crops, rows, **statistics)
    levels = crops.clone()
    levels_into(levels, rows)
    assert torch.equal(normalize(levels, **statistics), once)
    assert torch.equal(levels[::7], crops[::7])
    twice = torch.stack([crops] * 2, 1)  # a slot of a larger buffer
    levels_into(twice[:, 1], rows)
    assert torch.equal(twice[:, 0], crops)
    assert torch.equal(twice[:, 1], levels)


def test_where_nothing_is_asked_for_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, rows = torch.randint(0, 256, (30, 98, 98, 3), dtype=torch.uint8), _row().repeat(30, 1)
    expected = normalize(crops, **_LEVELS)
    monkeypatch.setattr("dinotrain.data.photometric._plan", None)
    assert torch.equal(augment(crops, rows, **_LEVELS), expected)
    levels = crops.clone()
    levels_into(levels, rows)
    assert torch.equal(levels, crops)


def test_no_crops() -> None:
    crops, rows = torch.empty(0, 8, 8, 3, dtype=torch.uint8), torch.empty(0, len(Column))
    levels_into(crops, rows)
    assert augment(crops, rows, **_LEVELS).shape == normalize(crops, **_LEVELS).shape == (0, 3, 8, 8)


def test_wrong_table() -> None:
    with pytest.raises(ValueError, match=r"^params: got 3 columns, expected 13$"):
        augment(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, 3), **_LEVELS)
    with pytest.raises(ValueError, match=r"^params: got 14 columns, expected 13$"):
        levels_into(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, 14))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_a_gpu() -> None:
    rows = _mixture(64)
    crops = torch.randint(0, 256, (64, 98, 98, 3), dtype=torch.uint8)
    ours, theirs = augment(crops.cuda(), rows, **_LEVELS).cpu(), augment(crops, rows, **_LEVELS)
    assert ((ours - theirs).abs() > 0.01).float().mean() < 1e-3
    levels = crops.cuda()
    levels_into(levels, rows)
    torch.testing.assert_close(normalize(levels, **_LEVELS).cpu(), ours, atol=1e-4, rtol=0)
