"""The form in which networks are traced is the network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from exported import BARE, BY_SIZE, PLAIN, REGISTERS, SIZES, assert_same, noise, subject_of

from dinotrain.exporting.subject import Subject
from dinotrain.exporting.traced import TracedNetwork, resized_positions
from dinotrain.models.position import Resize, positions_for
from dinotrain.weights.architecture import Architecture


@pytest.mark.parametrize("resize", ["scale", "size"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (4, 9), (1, 1), (2, 4), (16, 11), (37, 30)])
def test_positions_are_those_of_the_network(resize: Resize, grid: tuple[int, int]) -> None:
    table = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    found, expected = resized_positions(table, *grid, resize), positions_for(table, *grid, resize)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if grid == (4, 4):
        assert torch.equal(found, table)


def test_a_large_table_shrinks_alike() -> None:
    # That of the released networks at the resolution they are mostly used at.
    table = torch.randn(1, 1 + 37 * 37, 8, generator=torch.Generator().manual_seed(0))
    for resize in ("scale", "size"):
        found, expected = resized_positions(table, 16, 16, resize), positions_for(table, 16, 16, resize)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", [PLAIN, REGISTERS, BARE, BY_SIZE, dataclasses.replace(PLAIN, channels=1)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_results_are_those_of_the_network(architecture: Architecture, blocks: int) -> None:
    if architecture.channels != 3 and blocks:
        pytest.skip("classifiers see RGB")
    subject = subject_of(architecture, blocks=blocks)
    for size in SIZES:
        images = noise(architecture, *size)
        expected = subject.outputs(images)
        found = traced(subject)(images)
        assert list(found) == list(expected)
        assert_same(found, expected)


def traced(subject: Subject) -> TracedNetwork:
    return TracedNetwork(subject.network, subject.head, subject.blocks)
