"""A backbone in the form in which it can be traced for any number and size of images.

The network itself asks whether the images have its native size, and resizes positions by an operator that other
runtimes have otherwise or not at all. Here the same is written as sums and products that take the size as a number:
resizing in two dimensions is one matrix over rows and one over columns, whose entries follow from the sizes alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.exporting.subject import Outputs
from dinotrain.models.attention import Attention
from dinotrain.models.block import Block
from dinotrain.models.position import SCALE_OFFSET, Resize
from dinotrain.models.vit import VisionTransformer

Length = Any
"""Cells along a side: an int, or the symbol that stands for it while it is traced."""

TENTHS = round(1 / SCALE_OFFSET)
KEYS_CUBIC = {"scale": -0.75, "size": -0.5}
"""The free parameter of the cubic kernel (Keys 1981), which torch has different with and without antialias."""


class TracedNetwork(nn.Module):
    """A backbone, and a linear head on it where there is one, as one function of images.

    Args:
        network: in the type in which it is to compute; images and results are float32 all the same.
        head: on the CLS tokens of the last `blocks` blocks and the mean patch token of the last.
    """

    def __init__(self, network: VisionTransformer, head: nn.Linear | None = None, blocks: int = 1) -> None:
        super().__init__()
        self.network, self.head, self.blocks = network, head, blocks

    @property
    def names(self) -> list[str]:
        """Of the results, in order."""
        registers = ["registers"] * bool(self.network.num_registers)
        return ["logits"] * (self.head is not None) + ["cls", *registers, "patches"]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Outputs:
        network = self.network
        x, first = self._tokenize(images), network.depth - self.blocks
        tokens = []
        for number, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            x = _through(block, x)
            if number >= first:
                tokens.append(network.norm(x).float())
        start = 1 + network.num_registers
        last = tokens[-1]
        found = {"cls": last[:, 0], "registers": last[:, 1:start], "patches": last[:, start:]}
        if self.head is not None:
            features = [*(each[:, 0] for each in tokens), found["patches"].mean(dim=1)]
            found["logits"] = self.head(torch.cat(features, dim=1))
        return {name: found[name] for name in self.names}

    def _tokenize(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B S D"]:
        network = self.network
        # By reshaping, not a convolution: that fails wherever it runs for sides that are no multiples of the patch.
        x = network.patch_embed(images.to(network.cls_token.dtype))
        height, width = (side // network.patch_size for side in images.shape[-2:])
        x = torch.cat([network.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + resized_positions(network.pos_embed, height, width, network.position_resize)
        if network.num_registers:
            x = torch.cat([x[:, :1], network.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], dim=1)
        return x


def resized_positions(
    table: Float[Tensor, "1 P D"], height: Length, width: Length, resize: Resize
) -> Float[Tensor, "1 Q D"]:
    """As `positions_for`, for sizes that need not be known when it is traced."""
    side, dim = math.isqrt(table.shape[1] - 1), table.shape[2]
    cls, grid = table[:, :1], table[0, 1:].float()
    rows, columns = (_resize_matrix(length, side, resize, table) for length in (height, width))
    if resize == "scale":  # which moves even what keeps its size, so the network then takes the table as it is
        native = (_number(height, table) == side) & (_number(width, table) == side)
        rows = torch.where(native, _identity(height, side, table), rows)
        columns = torch.where(native, _identity(width, side, table), columns)
    grid = rows.mm(grid.reshape(side, side * dim))
    grid = columns.mm(grid.reshape(height, side, dim).transpose(0, 1).reshape(side, height * dim))
    grid = grid.reshape(width, height, dim).transpose(0, 1).reshape(1, height * width, dim)
    return torch.cat([cls, grid.to(cls.dtype)], dim=1)


def _resize_matrix(length: Length, side: int, resize: Resize, like: Tensor) -> Float[Tensor, "length side"]:
    """What each of `length` cells takes of each of `side`: bicubic, as torch's interpolate does it."""
    target = torch.arange(length, dtype=torch.float32, device=like.device)
    source = torch.arange(side, dtype=torch.float32, device=like.device)
    if resize == "size":
        scale = side / _number(length, like)
        distance = (source + 0.5 - (target[:, None] + 0.5) * scale) / scale.clamp(min=1.0)
        shares = _cubic(distance.abs(), KEYS_CUBIC[resize])
        return shares / shares.sum(dim=1, keepdim=True)
    # Both exact, so that the quotient is rounded once, as torch rounds it.
    scale = (side * TENTHS) / (_number(length, like) * TENTHS + 1)
    place = (target + 0.5) * scale - 0.5
    taps = place.floor()[:, None] + torch.arange(-1, 3, dtype=torch.float32, device=like.device)
    shares = _cubic((place[:, None] - taps).abs(), KEYS_CUBIC[resize])
    # Beyond the edge, the cell at the edge is taken instead.
    return (shares[..., None] * (taps.clamp(0, side - 1)[..., None] == source).float()).sum(dim=1)


def _cubic(distance: Tensor, a: float) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def _identity(length: Length, side: int, like: Tensor) -> Float[Tensor, "length side"]:
    target, source = (torch.arange(count, device=like.device) for count in (length, side))
    return (target[:, None] == source).float()


def _number(length: Length, like: Tensor) -> Float[Tensor, ""]:
    """A length as a tensor."""
    return torch.scalar_tensor(length, dtype=torch.float32, device=like.device)


def _through(block: Block, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
    x = x + block.ls1(_attention(block.attn, block.norm1(x)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _attention(layer: Attention, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
    # In one form whatever runs here, as it may be run elsewhere.
    batch, length, dim = x.shape
    q, k, v = layer.qkv(x).reshape(batch, length, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
    return layer.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, dim))
