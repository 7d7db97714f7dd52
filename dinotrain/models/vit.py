"""The vision transformer (Dosovitskiy et al. 2020; DINOv2 paper, section 4; registers: Darcet et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinotrain.models.block import Block
from dinotrain.models.feedforward import FEEDFORWARD
from dinotrain.models.init import InitialValues
from dinotrain.models.packing import Branch, Layout, draw_branches, full_branch, group_rows
from dinotrain.models.position import Resize, positions_for


class Tokens(NamedTuple):
    """What a backbone says of a batch of images."""

    cls: Float[Tensor, "B D"]
    registers: Float[Tensor, "B R D"]
    patches: Float[Tensor, "B N D"]
    """Row-major over the patch grid."""


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one linear map, stored as the convolution it equals."""

    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        p = self.proj.kernel_size[0]
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return F.linear(x.reshape(batch, -1, channels * p * p), self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """A plain pre-norm ViT that takes several groups of crops at once.

    Parameter names are those of the public DINOv2 checkpoints. `layer_scale` is the initial gain of LayerScale, None
    for a network without it; `init_std` and `position_std` are explained in `InitialValues`. `drop_path` is the rate of
    stochastic depth, the same in every block, active in training mode only. `position_resize` defaults to what the
    released weights with and without registers use. `norm_eps` is that of all LayerNorms.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 14,
        channels: int = 3,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        ffn: Literal["mlp", "swiglu"] = "mlp",
        ffn_ratio: float = 4.0,
        num_registers: int = 0,
        layer_scale: float | None = 1e-5,
        drop_path: float = 0.0,
        position_resize: Resize | None = None,
        init_std: float | None = 0.02,
        position_std: float = 0.02,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        fits = 1 <= patch_size <= image_size and image_size % patch_size == 0
        _check(fits, "image_size", image_size, f"a multiple of model.patch_size {patch_size}")
        _check(embed_dim >= 1, "embed_dim", embed_dim, "at least 1")
        _check(depth >= 1, "depth", depth, "at least 1")
        _check(int(embed_dim * ffn_ratio) >= 1, "ffn_ratio", ffn_ratio, "a number above 0")
        _check(num_registers >= 0, "num_registers", num_registers, "0 or more")
        _check(ffn in FEEDFORWARD, "ffn", ffn, f"one of {', '.join(FEEDFORWARD)}")
        _check(norm_eps > 0, "norm_eps", norm_eps, "a number above 0")
        _check(0 <= drop_path < 1, "drop_path", drop_path, "a rate in [0, 1)")
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.embed_dim, self.depth, self.num_heads, self.num_registers = embed_dim, depth, num_heads, num_registers
        self.drop_path = drop_path
        self.initial = InitialValues(init_std, position_std, 1.0 if layer_scale is None else layer_scale)
        self.position_resize: Resize = position_resize or ("size" if num_registers else "scale")
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, embed_dim))
        if num_registers:
            self.register_tokens = nn.Parameter(torch.empty(1, num_registers, embed_dim))
        self.mask_token = nn.Parameter(torch.empty(1, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, channels, embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                ffn=ffn,
                ffn_hidden=int(embed_dim * ffn_ratio),
                layer_scale=layer_scale is not None,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)

    def forward(
        self,
        images: Sequence[Float[Tensor, "_ C _ _"]],
        masks: Sequence[Bool[Tensor, "_ _"] | None] | None = None,
    ) -> list[Tokens]:
        """Tokens after the final norm, for every group of equal-sized images; True in a mask hides a patch."""
        x, layout = self._pack(images, masks)
        for block, (attn, ffn) in zip(self.blocks, self._branches(layout, x.device)):
            x = block(x, attn, ffn)
        return self._unpack(self.norm(x), layout)

    def intermediate(
        self, images: Float[Tensor, "B C H W"], blocks: Sequence[int], *, norm: bool = True
    ) -> list[Tokens]:
        """Tokens after the given blocks (counted from 0, negative from the end), through the final norm if asked."""
        if not all(-self.depth <= index < self.depth for index in blocks):
            raise ValueError(f"blocks: got {list(blocks)}, expected indices into {self.depth} blocks")
        wanted = [index % self.depth for index in blocks]
        x, layout = self._pack([images], None)
        found: dict[int, Tokens] = {}
        for index, (block, (attn, ffn)) in enumerate(zip(self.blocks, self._branches(layout, x.device))):
            x = block(x, attn, ffn)
            if index in wanted:
                found[index] = self._unpack(self.norm(x) if norm else x, layout)[0]
        return [found[index] for index in wanted]

    def tokenize(
        self, images: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The input of the first block: CLS, registers, patches; positions added to all but the registers."""
        height, width = images.shape[-2:]
        p = self.patch_size
        if height % p or width % p:
            raise ValueError(f"images of {height}x{width} px: both sides must be multiples of the patch size {p}")
        x = self.patch_embed(images)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + positions_for(self.pos_embed, height // p, width // p, self.position_resize)
        if self.num_registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], dim=1)
        return x

    def _pack(
        self, images: Sequence[Tensor], masks: Sequence[Tensor | None] | None
    ) -> tuple[Float[Tensor, "T D"], Layout]:
        groups = [self.tokenize(x, mask) for x, mask in zip(images, masks or [None] * len(images), strict=True)]
        layout = tuple((group.shape[0], group.shape[1]) for group in groups)
        return torch.cat([group.flatten(0, 1) for group in groups]), layout

    def _unpack(self, x: Float[Tensor, "T D"], layout: Layout) -> list[Tokens]:
        first = 1 + self.num_registers
        groups = (part.view(*shape, -1) for shape, part in zip(layout, x.split(group_rows(layout))))
        return [Tokens(group[:, 0], group[:, 1:first], group[:, first:]) for group in groups]

    def _branches(self, layout: Layout, device: torch.device) -> list[tuple[Branch, Branch]]:
        if not self.training or self.drop_path == 0:
            return [(full_branch(layout), full_branch(layout))] * self.depth
        drawn = draw_branches(layout, self.drop_path, 2 * self.depth, device)
        return list(zip(drawn[::2], drawn[1::2]))


def _check(right: bool, name: str, got: object, expected: str) -> None:
    if not right:
        raise ValueError(f"model.{name}: got {got}, expected {expected}")
