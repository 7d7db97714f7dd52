"""What is exported, in another type and with another table of positions."""

from __future__ import annotations

import pytest
import torch
from exported import BY_SIZE, PLAIN, REGISTERS, assert_same, noise, subject_of

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture


@pytest.mark.parametrize("architecture", [PLAIN, REGISTERS, BY_SIZE])
def test_a_stored_table_gives_the_same_at_its_size(architecture: Architecture) -> None:
    subject = subject_of(architecture, blocks=1)
    other = subject.for_images_of(architecture.patch_size * 6)
    assert other.grid == 6
    images = noise(architecture, 2, 6, 6)
    assert_same(other.outputs(images), subject.outputs(images), 0)


def test_a_table_has_whole_patches() -> None:
    with pytest.raises(UserError, match="image_size: 40 px is not a multiple of the patches of 7 px; 42 is"):
        subject_of(PLAIN).for_images_of(40)


def test_numbers_too_large_for_a_type_are_refused() -> None:
    subject = subject_of(PLAIN)
    subject.weights.backbone["norm.weight"][0] = 1e6
    with pytest.raises(UserError, match=r"dtype: norm\.weight holds numbers too large for torch\.float16"):
        subject.in_dtype(torch.float16)
