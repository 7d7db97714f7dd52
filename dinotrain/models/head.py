"""The projection head: from CLS or patch tokens to prototype scores (DINO paper, appendix C)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.init import InitialValues


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have direction `weight_v` and length `weight_g`."""

    def __init__(self, dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(num_prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(num_prototypes, dim))

    def forward(self, x: Float[Tensor, "R d"]) -> Float[Tensor, "R K"]:
        gain = self.weight_g / torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True)
        return F.linear(x, self.weight_v * gain)


class Head(nn.Module):
    """MLP with GELU to a bottleneck, L2 normalisation, prototypes.

    Args:
        in_dim: width of the tokens.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: width of the normalised embedding.
        num_prototypes: outputs K.
        num_layers: linear layers before the normalisation, at least 1.
        init_std: of the linear weights at the start, as `InitialValues.weight_std`.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        hidden_dim: int,
        bottleneck_dim: int,
        num_prototypes: int,
        num_layers: int = 3,
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        sizes = {"in_dim": in_dim, "hidden_dim": hidden_dim, "bottleneck_dim": bottleneck_dim}
        sizes |= {"num_prototypes": num_prototypes, "num_layers": num_layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: got {size}, expected at least 1")
        if num_prototypes < 2:
            raise ValueError(f"num_prototypes: got {num_prototypes}, expected at least 2")
        self.num_prototypes = num_prototypes
        self.initial = InitialValues(weight_std=init_std)
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        layers = [layer for linear in linears for layer in (linear, nn.GELU())][:-1]
        # A single layer is not wrapped: its keys are then `mlp.weight`, `mlp.bias`, as in public checkpoints.
        self.mlp = layers[0] if num_layers == 1 else nn.Sequential(*layers)
        self.last_layer = Prototypes(bottleneck_dim, num_prototypes)

    def forward(self, tokens: Float[Tensor, "R D"]) -> Float[Tensor, "R K"]:
        x = self.mlp(tokens)
        # The smallest fp16 number above zero is 6e-8: a smaller epsilon would be no guard at all.
        x = F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12)
        return self.last_layer(x)
