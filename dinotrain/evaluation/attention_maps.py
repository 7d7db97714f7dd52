"""Where the CLS token looks: attention of the last block, without another forward function in the model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.block import Block
from dinotrain.models.vit import VisionTransformer


class _Catch:
    """Computes the CLS row of the attention matrix while the block's weights are whole in memory.

    A hook on the block: hooks on what is within it are not called once its forward is compiled.
    """

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self.row: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        assert isinstance(module, Block)
        x = module.norm1(inputs[0]).view(self.sequences, -1, inputs[0].shape[-1])
        qkv = module.attn.qkv(x).unflatten(-1, (3, module.attn.num_heads, -1))
        q, k = qkv[:, :1, 0], qkv[:, :, 1]
        scores = torch.einsum("bqhd,bnhd->bhqn", q.float(), k.float()) / q.shape[-1] ** 0.5
        self.row = scores.softmax(dim=-1)[:, :, 0]


@torch.no_grad()
def cls_attention(backbone: VisionTransformer, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B heads h w"]:
    """Attention of the CLS token to the patches in the last block (DINO paper, section 4.2.2), per head."""
    catch = _Catch(images.shape[0])
    handle = backbone.blocks[-1].register_forward_pre_hook(catch)
    try:
        backbone([images])
    finally:
        handle.remove()
    assert catch.row is not None
    height, width = (int(side) // backbone.patch_size for side in images.shape[-2:])
    return catch.row[:, :, 1 + backbone.num_registers :].unflatten(-1, (height, width))
