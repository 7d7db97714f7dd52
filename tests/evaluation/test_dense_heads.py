"""Losses and what heads make of features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dinotrain.data.dense import IGNORE
from dinotrain.evaluation.dense.depth_bins import MIN_DEPTH, depth_of
from dinotrain.evaluation.dense.depth_loss import depth_loss, gradient_loss, scale_invariant_loss
from dinotrain.evaluation.dense.head import DenseHead
from dinotrain.evaluation.tasks.segmentation import segmentation_loss


def test_a_head_takes_the_last_channels() -> None:
    head = DenseHead(4, 3, normalize=True, seed=0).eval()
    features = torch.randn(2, 10, 5, 5)
    changed = features.clone()
    changed[:, :6] = 0
    torch.testing.assert_close(head(features), head(changed))
    assert not torch.allclose(head(features), head(features.flip(1)))


def test_segmentation_loss_in_parts_is_the_mean_over_labelled_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5, 4, 3, 3, requires_grad=True)
    truth = torch.randint(0, 4, (5, 12, 12))
    truth[2, :5] = IGNORE
    full = F.interpolate(logits, size=(12, 12), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(full, truth, ignore_index=IGNORE)
    (gradient,) = torch.autograd.grad(expected, logits)
    for most in (2**28, 4 * 144 * 2):
        monkeypatch.setattr("dinotrain.evaluation.tasks.segmentation._LOGITS", most)
        found = segmentation_loss(logits, truth)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)


def test_a_batch_without_labels_has_no_loss() -> None:
    assert segmentation_loss(torch.randn(1, 2, 2, 2), torch.full((1, 4, 4), IGNORE)) == 0


def test_depth_is_the_mean_of_bins() -> None:
    even = depth_of(torch.full((1, 256, 2, 3), -1.0), 10.0)
    assert even.shape == (1, 8, 12)
    torch.testing.assert_close(even, torch.full_like(even, (10 + MIN_DEPTH) / 2))
    logits = torch.full((1, 256, 2, 3), -1.0)
    logits[:, 255] = 1e6
    assert (depth_of(logits, 10.0) > 9.99).all()


def test_resizing_before_the_linear_layer_is_the_same() -> None:
    head = DenseHead(6, 256, normalize=False, seed=0)
    features = torch.randn(2, 6, 4, 5)
    large = F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
    scores = head(large).relu() + 0.1
    expected = (scores / scores.sum(1, keepdim=True) * torch.linspace(1e-3, 8.0, 256).view(1, -1, 1, 1)).sum(1)
    torch.testing.assert_close(depth_of(head(features), 8.0), expected, rtol=1e-4, atol=1e-4)


def test_depth_losses_by_hand() -> None:
    known = torch.tensor([[[True, True], [True, False]]])
    difference = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    assert float(scale_invariant_loss(difference, known)) == pytest.approx((14 / 3 - 0.85 * 4) ** 0.5)
    # Two pairs of known neighbours, of three known pixels; at coarser scales a single pixel is left.
    assert float(gradient_loss(difference, known)) == pytest.approx((1 + 2) / 3)


def test_depth_loss_has_finite_gradients_and_knows_the_truth() -> None:
    truth = torch.rand(2, 16, 16) * 5
    truth[0, :4] = 0
    guess = torch.full_like(truth, 2.0, requires_grad=True)
    loss = depth_loss(guess, truth, 5.0, 0.5)
    (gradient,) = torch.autograd.grad(loss, guess)
    assert gradient.isfinite().all()
    assert (gradient[0, :4] == 0).all()
    exact = truth.clone().requires_grad_()
    perfect = depth_loss(exact, truth, 5.0, 0.5)
    assert float(perfect.detach()) < 1e-5 < float(loss.detach())
    assert torch.autograd.grad(perfect, exact)[0].isfinite().all()
