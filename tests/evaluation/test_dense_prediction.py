"""Whole images through windows, at several scales and mirrored."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_fakes import ColorBackbone, dense_setting

from dinotrain.evaluation.dense.head import DenseHead, upsampled
from dinotrain.evaluation.dense.prediction import DensePredictor, Look, most_probable, window_starts


def predictor(looks: list[Look], *, size: int = 32, window: bool = False) -> DensePredictor:
    setting = dense_setting()
    backbone = setting.backbone
    head = DenseHead(backbone.dim, 5, normalize=False, seed=1).eval()
    with torch.no_grad():
        head.linear.weight *= 100
        # Red things are of class 0, blue things of class 2.
        head.linear.weight[:3, :3] += 10 * torch.eye(3).view(3, 3, 1, 1)
    return DensePredictor(backbone, {"head": head}, backbone.patches, size=size, looks={"head": looks}, window=window)


def test_a_mirrored_look_is_mirrored_back() -> None:
    image = dense_setting().test.source.image(0)
    straight, mirrored = predictor([Look(1.0, False), Look(1.0, True)])(image)["head"]
    torch.testing.assert_close(straight, mirrored)
    assert not torch.allclose(straight, straight.flip(-1))


def test_windows_say_the_same_as_the_whole_image_to_a_local_backbone() -> None:
    image = dense_setting(shape=(40, 96)).test.source.image(0)
    look = [Look(1.0, False)]
    whole = predictor(look, size=40)(image)["head"][0]
    assert whole.shape == (5, 10, 24)
    torch.testing.assert_close(predictor(look, size=40, window=True)(image)["head"][0], whole)
    torch.testing.assert_close(predictor([Look(1.0, True)], size=40, window=True)(image)["head"][0], whole)


def test_the_backbone_is_called_once_for_each_look() -> None:
    calls = []

    class Counting(ColorBackbone):
        def patches(self, images: torch.Tensor, blocks: int = 1, *, cls: bool = False) -> torch.Tensor:
            calls.append(tuple(images.shape))
            return super().patches(images, blocks, cls=cls)

    setting = dense_setting(kind=Counting, shape=(32, 64))
    heads = {name: DenseHead(setting.backbone.dim, 3, normalize=True, seed=0).eval() for name in ("one", "many")}
    looks = {"one": [Look(1.0, False)], "many": [Look(s, f) for s in (0.5, 1.0) for f in (False, True)]}
    run = DensePredictor(setting.backbone, heads, setting.backbone.patches, size=32, looks=looks, window=True)
    found = run(setting.test.source.image(0))
    assert len(calls) == 4
    assert (len(found["one"]), len(found["many"])) == (1, 4)
    # Three windows of the image, one of the image at half its size.
    assert sorted(calls) == [(1, 3, 16, 32)] * 2 + [(3, 3, 32, 32)] * 2


def test_classes_are_the_same_at_all_scales_for_flat_colors() -> None:
    setting = dense_setting()
    image = setting.test.source.image(0)
    image[:, :20], image[:, 20:] = (200, 30, 30), (30, 30, 200)
    maps = predictor([Look(scale, flip) for scale in (0.5, 1.0, 2.0) for flip in (False, True)])(image)["head"]
    found = most_probable(maps, (32, 40))
    alone = most_probable(maps[:1], (32, 40))
    for classes in (found, alone):
        assert (classes[:, :16] == classes[0, 0]).all()
        assert (classes[:, 24:] == classes[0, -1]).all()
    assert (found[0, 0], found[0, -1]) == (0, 2)


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [(10, 10, [0]), (4, 10, [0]), (11, 9, [0, 2]), (30, 9, [0, 6, 12, 18, 21]), (3, 1, [0, 1, 2])],
)
def test_windows_cover_everything(length: int, window: int, expected: list[int]) -> None:
    assert window_starts(length, window) == expected


def test_upsampling_is_bilinear_and_can_be_done_in_strips() -> None:
    x = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(x, size=(13, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled(x, (13, 20)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(upsampled(x, (13, 20), slice(4, 9)), expected[:, :, 4:9], rtol=1e-4, atol=1e-5)


def test_strips_do_not_change_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [torch.randn(4, 5, 6), torch.randn(4, 9, 3)]
    expected = sum(
        F.interpolate(part[None], size=(31, 22), mode="bilinear", align_corners=False)[0].softmax(dim=0)
        for part in maps
    )
    assert isinstance(expected, torch.Tensor)
    monkeypatch.setattr("dinotrain.evaluation.dense.prediction._STRIP", 4 * 22 * 7)
    assert torch.equal(most_probable(maps, (31, 22)), expected.argmax(dim=0))
