"""What is shown of an image, against the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.visualizing.compact import compact
from dinotrain.visualizing.nearest import nearest_rows
from dinotrain.visualizing.seen import see

PREPARATION = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.mark.parametrize("registers", [0, 3])
def test_patches_and_attention_are_the_networks_without_registers(registers: int) -> None:
    network = tiny.backbone(num_registers=registers)
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    found = see(Backbone(network, PREPARATION), "image", image, size=24)
    rows, columns = found.grid
    assert (rows, columns) == (4, 8)
    assert found.pixels.shape == (16, 32, 3)
    pixels = torch.from_numpy(found.pixels).permute(2, 0, 1).unsqueeze(0)
    tokens = network([PREPARATION.normalize(pixels)])[0]
    torch.testing.assert_close(found.patches, tokens.patches[0], atol=1e-5, rtol=1e-5)
    assert found.attention.shape == (2, rows, columns)
    assert (found.attention.sum(dim=(1, 2)) < 1).all()


def test_compact_tokens_have_the_same_similarities() -> None:
    tokens = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    found = compact(tokens)
    assert found.channels == 32
    assert found.error < 0.02
    values = torch.frombuffer(bytearray(__import__("base64").b64decode(found.text)), dtype=torch.int8).view(50, 32)
    back, unit = F.normalize(values.float(), dim=1), F.normalize(tokens, dim=1)
    assert (back @ back.T - unit @ unit.T).abs().max() < 0.02


def test_compact_tokens_keep_to_their_room() -> None:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(200, 4, generator=random) @ torch.randn(4, 64, generator=random)
    found = compact(tokens, most_bytes=200 * 6)
    assert found.channels == 6
    assert len(found.text) <= 200 * 6 * 4 / 3 + 4
    assert found.error < 0.03


def test_an_image_is_not_its_own_neighbour() -> None:
    bank = F.normalize(torch.tensor([[1.0, 0], [1, 0], [1, 0.1], [0, 1]]), dim=1)
    found = nearest_rows(bank, bank, 2, themselves=True)
    assert [[row for row, _ in pairs] for pairs in found] == [[1, 2], [0, 2], [0, 1], [2, 0]]
    assert nearest_rows(bank[:1], bank[:1], 3, themselves=True) == [[]]
    assert [row for row, _ in nearest_rows(bank, bank[:1], 2, themselves=False)[0]] == [0, 1]
