"""Intersection over union and depth errors, by hand and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from libraries import torchmetrics
from torch import Tensor

from dinotrain.data.dense import IGNORE
from dinotrain.evaluation.dense import iou
from dinotrain.evaluation.dense.depth_metrics import METRICS, depth_errors


def counted(predicted: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    return torch.stack([iou.areas(p, t, classes) for p, t in zip(predicted, truth)]).numpy()


def test_areas_by_hand() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, 1, IGNORE]], [[0, 0, 0], [0, 0, 0]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 2]], [[0, 0, 0], [0, 0, 1]]])
    found = counted(predicted, truth, 4)
    assert found[0].tolist() == [[1, 2, 0, 0], [2, 3, 0, 0], [2, 3, 0, 0]]
    assert iou.union(found)[0].tolist() == [3, 4, 0, 0]
    # Class 0: 1 + 5 of 3 + 6; class 1: 2 + 0 of 4 + 1.
    np.testing.assert_allclose(iou.class_iou(found), [600 / 9, 40, math.nan, math.nan])
    np.testing.assert_allclose(iou.class_accuracy(found), [75, 200 / 3, math.nan, math.nan])
    assert iou.pixel_accuracy(found) == pytest.approx(800 / 11)


def test_a_class_predicted_where_it_never_is_counts_as_zero() -> None:
    truth, predicted = torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[[0, 0], [0, 1]]])
    assert iou.class_iou(counted(predicted, truth, 2)).tolist() == [75, 0]


def test_iou_agrees_with_torchmetrics() -> None:
    metrics = torchmetrics("classification")
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(-1, 5, (6, 20, 30), generator=generator)
    predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth.clamp(min=0), 3)
    found = counted(predicted, truth, 5)
    reference = metrics.MulticlassJaccardIndex(5, average=None, ignore_index=IGNORE)(predicted, truth)
    np.testing.assert_allclose(iou.class_iou(found), 100 * reference.numpy(), rtol=1e-5)
    accuracy = metrics.MulticlassAccuracy(5, average="micro", ignore_index=IGNORE)(predicted, truth)
    assert iou.pixel_accuracy(found) == pytest.approx(100 * float(accuracy), rel=1e-5)


def test_depth_errors_by_hand() -> None:
    predicted, truth = torch.tensor([[2.0, 4.0, 1.0, 3.0]]), torch.tensor([[1.0, 4.0, 0.0, 20.0]])
    found = dict(zip(METRICS, depth_errors(predicted, truth, 10.0).tolist()))
    assert found == pytest.approx(
        {
            "rmse": math.sqrt(0.5),
            "abs_rel": 0.5,
            "sq_rel": 0.5,
            "log10": math.log10(2) / 2,
            "rmse_log": math.log(2) / math.sqrt(2),
            "delta1": 50,
            "delta2": 50,
            "delta3": 50,
        }
    )


def test_depth_is_measured_in_the_crop_and_clamped() -> None:
    truth = torch.full((4, 6), 5.0)
    predicted = torch.full((4, 6), 50.0)
    predicted[1:3, 2:5] = 10.0
    errors = dict(zip(METRICS, depth_errors(predicted, truth, 10.0, (1, 3, 2, 5)).tolist()))
    assert errors["rmse"] == 5
    # Clamped to 10 m, all of it is as wrong as the crop.
    assert depth_errors(predicted, truth, 10.0)[0] == 5


def test_an_image_without_known_depth_has_no_errors() -> None:
    assert depth_errors(torch.ones(3, 3), torch.zeros(3, 3), 10.0).isnan().all()


def test_depth_errors_agree_with_torchmetrics() -> None:
    metrics = torchmetrics("functional.regression")
    generator = torch.Generator().manual_seed(0)
    truth = 9 * torch.rand(30, 40, generator=generator) + 0.5
    predicted = truth * (0.5 + torch.rand(30, 40, generator=generator))
    found = dict(zip(METRICS, depth_errors(predicted, truth, 20.0).tolist()))
    p, t = predicted.flatten(), truth.flatten()
    assert found["rmse"] == pytest.approx(float(metrics.mean_squared_error(p, t, squared=False)), rel=1e-5)
    assert found["abs_rel"] == pytest.approx(float(metrics.mean_absolute_percentage_error(p, t)), rel=1e-5)
    # On logarithms: the usual means of the same differences.
    assert found["rmse_log"] == pytest.approx(
        float(metrics.mean_squared_error(p.log(), t.log(), squared=False)), rel=1e-5
    )
    assert found["log10"] == pytest.approx(float(metrics.mean_absolute_error(p.log10(), t.log10())), rel=1e-5)
