"""From tokens of a student to the width of its teacher."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.init import InitialValues


class Projection(nn.Module):
    """One linear map, or two with GELU between them; used while distilling and thrown away afterwards.

    Args:
        in_dim: width of the tokens D.
        out_dim: width of the result E, that of the teacher.
        hidden_dim: width between the two maps; None for a single map, which leaves all the work to the backbone.
        init_std: of the linear weights at the start, as `InitialValues.weight_std`.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(
        self, *, in_dim: int, out_dim: int, hidden_dim: int | None = None, init_std: float | None = None
    ) -> None:
        super().__init__()
        for name, size in {"in_dim": in_dim, "out_dim": out_dim, "hidden_dim": hidden_dim}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}: got {size}, expected at least 1")
        if init_std is not None and init_std <= 0:
            raise ValueError(f"init_std: got {init_std}, expected a number above 0")
        self.initial = InitialValues(weight_std=init_std)
        if hidden_dim is None:
            self.layers = nn.Sequential(nn.Linear(in_dim, out_dim))
        else:
            self.layers = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))

    def forward(self, tokens: Float[Tensor, "*R D"]) -> Float[Tensor, "*R E"]:
        return self.layers(tokens)
