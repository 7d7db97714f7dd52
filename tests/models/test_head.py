"""The projection head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import Golden, assert_near, load

from dinotrain.models.head import Head

HEADS = load("dino_head").texts("heads")


@pytest.mark.parametrize("prefix", HEADS)
def test_golden(golden: Callable[[str], Golden], prefix: str) -> None:
    g = golden("dino_head")
    head = Head(
        in_dim=g.size(f"{prefix}/cfg/in_dim"),
        hidden_dim=g.size(f"{prefix}/cfg/hidden_dim"),
        bottleneck_dim=g.size(f"{prefix}/cfg/bottleneck_dim"),
        num_prototypes=g.size(f"{prefix}/cfg/out_dim"),
        num_layers=g.size(f"{prefix}/cfg/nlayers"),
    )
    head.load_state_dict(g.below(f"{prefix}/w/"))
    assert list(head.state_dict()) == g.texts(f"{prefix}/keys")
    x = g.tensor(f"{prefix}/input").requires_grad_()
    assert_near(head.mlp(x), g.tensor(f"{prefix}/bottleneck_before_l2norm"), 1e-5, 1e-5)
    out = head(x)
    assert_near(out, g.tensor(f"{prefix}/output"), 1e-5)
    (out * g.tensor(f"{prefix}/cotangent")).sum().backward()
    assert x.grad is not None
    expected = g.tensor(f"{prefix}/grad/input")
    assert_near(x.grad, expected, 1e-5 * float(expected.abs().max()))
    for name, parameter in head.named_parameters():
        expected = g.tensor(f"{prefix}/grad/{name}")
        assert parameter.grad is not None
        assert_near(parameter.grad, expected, 1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_zero_row_is_finite(dtype: torch.dtype) -> None:
    head = Head(in_dim=8, hidden_dim=8, bottleneck_dim=4, num_prototypes=6)
    for p in head.parameters():
        torch.nn.init.normal_(p)
    for name, p in head.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(p)
    head = head.to(dtype)
    x = torch.zeros(3, 8, dtype=dtype, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert out.isfinite().all()
    if dtype != torch.float16:  # the slope at 0 is 1e6, more than fp16 can say
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_scores_do_not_depend_on_the_length_of_the_embedding() -> None:
    torch.manual_seed(0)
    head = Head(in_dim=8, hidden_dim=8, bottleneck_dim=4, num_prototypes=6, num_layers=1)
    for p in head.parameters():
        torch.nn.init.normal_(p)
    torch.nn.init.zeros_(head.mlp.bias)  # pyright: ignore
    x = torch.randn(5, 8)
    assert_near(head(x), head(7 * x), 1e-5)


def test_no_rows() -> None:
    head = Head(in_dim=8, hidden_dim=8, bottleneck_dim=4, num_prototypes=6)
    assert head(torch.zeros(0, 8)).shape == (0, 6)


@pytest.mark.parametrize("key", ["in_dim", "hidden_dim", "bottleneck_dim", "num_prototypes", "num_layers"])
def test_sizes_below_one(key: str) -> None:
    sizes = {"in_dim": 8, "hidden_dim": 8, "bottleneck_dim": 4, "num_prototypes": 6}
    with pytest.raises(ValueError, match=rf"^{key}: got 0, expected at least 1$"):
        Head(**{**sizes, key: 0})
