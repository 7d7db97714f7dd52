from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from spawn import run_processes

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.evaluation.attention_maps import cls_attention
from dinotrain.evaluation.features import Preparation, cls_function, extract
from dinotrain.evaluation.knn_probe import KnnProbe, labelled_split
from dinotrain.evaluation.pictures import feature_picture, pca_colors
from dinotrain.models.block import Block
from dinotrain.models.packing import full_branch
from dinotrain.training.interrupt import Interrupt

PREPARATION = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Images(Source):
    """Random images with labels; the one numbered 3 is broken."""

    classes = ("a", "b", "c")

    def __init__(self, count: int = 23) -> None:
        self.labels = np.arange(count) % 3
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        if index == 3:
            raise BrokenImage("broken on purpose")
        return np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "images"


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, size, torch.device("cpu"), None)


def features(rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = extract(
        cls_function(tiny.backbone()),
        Images(),
        np.arange(20, -1, -1),
        preparation=PREPARATION,
        world=world(rank, size),
        batch=4,
    )
    return found.values, found.readable


def test_two_processes_find_what_one_finds() -> None:
    values, readable = features(0, 1)
    assert values.shape == (21, tiny.DIM)
    for other_values, other_readable in run_processes(2, features, 2):
        torch.testing.assert_close(other_values, values, atol=1e-6, rtol=0)
        assert torch.equal(other_readable, readable)


class Halt(Exception):
    """An evaluation is to end."""


def heard_by_the_second(rank: int, size: int) -> tuple[int, str | None]:
    """Only one process gets a signal; how many batches were computed, and which signal it was."""
    interrupt, here, seen = Interrupt(), world(rank, size), 0

    def function(images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if rank == 1 and seen == 2:
            interrupt.requested = "SIGUSR2"
        return images.flatten(1)

    def check() -> None:
        if interrupt.anywhere(here):
            raise Halt

    with pytest.raises(Halt):
        extract(function, Images(), np.arange(21), preparation=PREPARATION, world=here, batch=2, check=check)
    return seen, interrupt.agree(here)


def test_all_processes_end_it_together() -> None:
    assert run_processes(2, heard_by_the_second, 2) == [(2, "SIGUSR2"), (2, "SIGUSR2")]


def test_features_come_in_the_order_of_the_indices() -> None:
    values, readable = features(0, 1)
    backbone = tiny.backbone().eval()
    alone = backbone([PREPARATION.normalize(PREPARATION.pixels(Images().image(5)).unsqueeze(0))])[0].cls
    torch.testing.assert_close(values[15], alone[0].detach(), atol=1e-5, rtol=0)
    assert not readable[17]
    assert readable.sum() == 20


def test_the_backbone_is_left_as_it_was() -> None:
    backbone = tiny.backbone().train()
    cls_function(backbone)(torch.zeros(1, 3, 16, 16))
    assert backbone.training


@pytest.mark.parametrize(("height", "width"), [(20, 24), (16, 16), (7, 90), (300, 17)])
def test_any_image_becomes_a_square(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for fraction in (1.0, 0.875):
        preparation = Preparation(size=16, crop_fraction=fraction, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        assert preparation.pixels(image).shape == (3, 16, 16)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(PREPARATION.pixels(image).permute(1, 2, 0).numpy(), image)


def test_a_tenth_is_set_apart_where_there_is_no_test_split() -> None:
    split = labelled_split(Images(50), None, max_train=None, max_test=None)
    assert split is not None
    assert len(split.test.indices) == 5
    assert len(split.train.indices) == 45
    assert not set(split.test.indices) & set(split.train.indices)


def test_without_labels_or_with_one_class_there_is_nothing_to_evaluate() -> None:
    unlabelled, alike = Images(), Images()
    unlabelled.labels = None  # pyright: ignore
    alike.labels = np.zeros(23, dtype=np.int64)
    assert labelled_split(unlabelled, None, max_train=None, max_test=None) is None
    assert labelled_split(alike, None, max_train=None, max_test=None) is None


def test_the_probe_leaves_broken_images_out() -> None:
    split = labelled_split(Images(40), None, max_train=None, max_test=None)
    assert split is not None
    probe = KnnProbe(split, PREPARATION, world(), k=(1, 5), temperature=0.07, batch=8)
    found = probe.evaluate(cls_function(tiny.backbone()))
    assert found["knn_top1"] == max(found["knn_top1_k1"], found["knn_top1_k5"])
    assert 0 <= probe.pixels() <= 100


@pytest.mark.parametrize("registers", [0, 2])
def test_attention_is_that_of_the_last_block(registers: int) -> None:
    backbone = tiny.backbone(num_registers=registers).eval()
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    maps = cls_attention(backbone, images)
    assert maps.shape == (2, 2, 4, 6)
    with torch.no_grad():
        block = backbone.blocks[-1]
        assert isinstance(block, Block)
        # With the identity as values, attention's output is the attention matrix itself.
        before = backbone.tokenize(images)
        for earlier in list(backbone.blocks)[:-1]:
            full = full_branch(((2, before.shape[1]),))
            before = earlier(before.flatten(0, 1), full, full).view(before.shape)
        q, k, _ = block.attn.qkv(block.norm1(before)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        identity = torch.eye(q.shape[2]).expand(2, 2, -1, -1)
        matrix = F.scaled_dot_product_attention(q, k, identity)
    torch.testing.assert_close(maps.flatten(2), matrix[:, :, 0, 1 + registers :], atol=1e-5, rtol=1e-4)


def test_colours_fill_the_range_and_follow_the_tokens() -> None:
    tokens = torch.zeros(1, 10, 8)
    tokens[0, 5:] = torch.arange(8.0)
    colors = pca_colors(tokens + 0.01 * torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(0)))
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert (colors[0, :5, 0].mean() - colors[0, 5:, 0].mean()).abs() > 0.8


def test_the_picture_has_three_rows() -> None:
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    picture = feature_picture(tiny.backbone(), pixels, PREPARATION, cell=20)
    assert picture.shape == (3 * 24, 4 * 24, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("shape", [(2, 200_000), (200_000, 2)])
def test_of_a_strip_the_middle_is_taken(shape: tuple[int, int]) -> None:
    """However long it is: as a whole it would be resized to 76 GB."""
    image = np.zeros((*shape, 3), np.uint8)
    middle = tuple(slice(max(side // 2 - 20, 0), side // 2 + 20) for side in shape)
    image[middle] = 255
    preparation = Preparation(size=224, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert preparation.pixels(image).float().mean() > 254
