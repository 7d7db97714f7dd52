"""Batches for training: the same whoever makes them, with the right labels, also beside broken images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured_pictures import ColouredPictures as Pictures

from dinotrain.data.order import Shuffled
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.splits import whole
from dinotrain.finetuning.views import LabelledBatch, Views, batches

PREPARATION = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
WORLD = World(0, 1, 0, 1, torch.device("cpu"), None)


def made(source: Pictures, *, steps: range, micro_batch: int = 8, world: World = WORLD, color: float = 0.3) -> list:
    views = Views(whole(source, "training"), Shuffled(len(source)), size=16, color=color, seed=5)
    return list(
        batches(
            views,
            torch.from_numpy(source.labels),
            preparation=PREPARATION,
            global_batch=8,
            micro_batch=micro_batch,
            steps=steps,
            world=world,
            threads=2,
        )
    )


def images(parts: list[LabelledBatch]) -> torch.Tensor:
    return torch.cat([part.global_crops[0] for part in parts])


def targets(parts: list[LabelledBatch]) -> torch.Tensor:
    return torch.cat([part.targets for part in parts])


def test_a_later_start_gives_the_same_batches() -> None:
    source = Pictures(20)
    all_of_them, later = made(source, steps=range(4)), made(source, steps=range(2, 4))
    for one, other in zip(all_of_them[2:], later, strict=True):
        assert torch.equal(one.global_crops, other.global_crops)
        assert torch.equal(one.targets, other.targets)
        assert one.names == other.names


def test_processes_share_a_step() -> None:
    source = Pictures(20)
    alone = made(source, steps=range(2))
    worlds = [replace(WORLD, rank=rank, size=2) for rank in range(2)]
    shares = [made(source, steps=range(2), micro_batch=2, world=world) for world in worlds]
    for step in range(2):
        # Of a step's two micro-batches each process has a half.
        parts = [shares[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert torch.equal(images(parts), images(alone[step : step + 1]))
        assert torch.equal(targets(parts), targets(alone[step : step + 1]))


def test_broken_images_are_replaced_and_told_of_and_labels_are_those_of_the_replacements() -> None:
    source = Pictures(20, broken=(3, 4))
    found = made(source, steps=range(5))
    names = [name for part in found for name in part.names]
    assert len(names) == 40
    assert not {"pictures/0003", "pictures/0004"} & set(names)
    assert {skipped.name for part in found for skipped in part.skipped} == {"pictures/0003", "pictures/0004"}
    labels = [int(name.rpartition("/")[2]) % 4 for name in names]
    assert targets(found).tolist() == labels


def test_nothing_but_broken_images_is_an_error() -> None:
    with pytest.raises(UserError, match=r"in a row can't be read .*broken on purpose"):
        made(Pictures(10, broken=range(10)), steps=range(1))


def test_views_differ_between_epochs_and_with_colours() -> None:
    source = Pictures(8)
    first, second = made(source, steps=range(2))
    by_name = [dict(zip(part.names, part.global_crops[0])) for part in (first, second)]
    assert by_name[0].keys() == by_name[1].keys()
    assert not any(torch.equal(by_name[0][name], by_name[1][name]) for name in by_name[0])
    plain = made(source, steps=range(1), color=0.0)[0]
    assert plain.names == first.names
    assert not torch.equal(plain.global_crops, first.global_crops)
    assert np.isfinite(plain.global_crops.numpy()).all()
