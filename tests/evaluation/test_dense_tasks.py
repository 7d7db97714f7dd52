"""Segmentation and depth from end to end, on pictures of rectangles."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from dense_fakes import ColorBackbone, Rectangles, dense_setting
from spawn import run_processes

from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.outcome import Outcome
from dinotrain.evaluation.tasks.depth import Depth
from dinotrain.evaluation.tasks.segmentation import Segmentation

QUICK: dict[str, Any] = {"size": 32, "batch": 6, "pictures": 3, "warmup": 0.1}


def test_segmentation_learns() -> None:
    setting = dense_setting()
    task = Segmentation(**QUICK, variants=["linear", "multiscale"], steps=60, learning_rate=0.1, scales=[1.0, 2.0])
    outcome = task.run(setting)
    assert next(iter(outcome.numbers)) == "miou"
    # Most pixels are ground; patches of 4 px blur the edges.
    assert outcome.numbers["miou"] > 70
    assert outcome.numbers["miou_multiscale"] > 70
    assert outcome.numbers["pixel_accuracy"] > 85
    per_image = outcome.per_image
    assert per_image is not None
    total = {name: array.sum(axis=0) for name, array in per_image.arrays.items()}
    assert outcome.numbers["miou"] == pytest.approx(100 * (total["intersection"] / total["union"]).mean())
    assert outcome.tables[0].rows[0][0] == "ground"
    assert outcome.pictures[0].image.dtype == np.uint8
    json.dumps(outcome.protocol)


def test_depth_learns() -> None:
    setting = dense_setting()
    outcome = Depth(**QUICK, blocks=[1, 2], steps=80, learning_rate=0.01).run(setting)
    source = setting.test.source
    assert isinstance(source, Rectangles)
    truth = np.concatenate([source.depth(index).ravel() for index in range(7)])
    constant = truth[truth > 0].std()
    assert next(iter(outcome.numbers)) == "rmse"
    assert outcome.numbers["rmse"] < 0.7 * constant
    assert outcome.numbers["rmse_2_blocks"] < 0.7 * constant
    assert outcome.numbers["delta1"] > 60
    per_image = outcome.per_image
    assert per_image is not None
    assert outcome.numbers["rmse"] == pytest.approx(per_image.arrays["value"].mean())
    assert len(outcome.pictures) == 1
    json.dumps(outcome.protocol)


def test_images_that_cannot_be_read_are_told() -> None:
    setting = dense_setting(broken=[0, 4])
    outcome = Segmentation(**QUICK, steps=4).run(setting)
    assert outcome.per_image is not None
    assert outcome.per_image.rows.tolist() == [1, 2, 3, 5, 6]
    assert outcome.notes == (
        "2 training images could not be read; others took their places",
        "2 test images could not be read, and are not counted",
    )


def test_nothing_readable_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 3 training images"):
        Segmentation(**QUICK, steps=2).run(dense_setting(train=3, broken=[0, 1, 2]))


def test_other_classes_at_test_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = dense_setting()
    monkeypatch.setattr(setting.test.source, "classes", ("ground", "red", "green"))
    with pytest.raises(UserError, match="'blue'"):
        Segmentation(**QUICK, steps=2).run(setting)


def test_images_without_the_target_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = dense_setting()
    monkeypatch.setattr(Rectangles, "targets", ())
    with pytest.raises(UserError, match="no masks"):
        Segmentation(**QUICK, steps=2).run(setting)
    with pytest.raises(UserError, match="no depth"):
        Depth(**QUICK, steps=2).run(setting)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Segmentation, "variants", ["linear", "mlp"]),
        (Segmentation, "variants", "linear"),
        (Segmentation, "scales", [0]),
        (Segmentation, "window", "yes"),
        (Segmentation, "schedule", "step"),
        (Segmentation, "crop_scale", [2, 1]),
        (Depth, "blocks", [5]),
        (Depth, "blocks", []),
        (Depth, "blocks", 4),
        (Depth, "size", 0),
        (Depth, "learning_rate", "fast"),
    ],
)
def test_wrong_options_are_refused(kind: type, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        kind(**{name: value})


def both(kind: type[Backbone], rank: int, size: int, control: Any) -> list[Outcome]:
    """Batches of five and seven test images, so that shares are uneven; one of each set can't be read."""
    torch.set_num_threads(1)
    setting = dense_setting(broken=[3], kind=kind, rank=rank, size=size, control=control)
    options = {**QUICK, "batch": 5, "steps": 12, "learning_rate": 0.02}
    return [
        Segmentation(**options, variants=["linear", "multiscale"], scales=[1.0, 1.5]).run(setting),
        Depth(**options, blocks=[2]).run(setting),
    ]


def in_a_group(rank: int, kind: type[Backbone]) -> list[Outcome]:
    return both(kind, rank, dist.get_world_size(), dist.new_group(backend="gloo"))


@pytest.mark.parametrize("kind", [ColorBackbone, Backbone])
def test_several_processes_find_what_one_does(kind: type[Backbone]) -> None:
    alone = both(kind, 0, 1, None)
    for outcomes in run_processes(2, in_a_group, kind):
        for one, other in zip(alone, outcomes):
            assert other.numbers == pytest.approx(one.numbers, rel=2e-3)
            assert other.notes == one.notes
            assert one.per_image is not None
            assert other.per_image is not None
            assert np.array_equal(one.per_image.rows, other.per_image.rows)
            assert len(other.pictures) == len(one.pictures) == 1
            assert other.pictures[0].image.shape == one.pictures[0].image.shape


def test_more_processes_than_images() -> None:
    alone = Depth(**{**QUICK, "batch": 2}, steps=2).run(dense_setting(test=2))
    for outcome in run_processes(3, few_images):
        assert outcome.numbers == pytest.approx(alone.numbers, rel=1e-3)


def few_images(rank: int) -> Outcome:
    control = dist.new_group(backend="gloo")
    return Depth(**{**QUICK, "batch": 2}, steps=2).run(dense_setting(test=2, rank=rank, size=3, control=control))
