"""The transformer block, and stochastic depth on packed sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from reference import Golden, assert_near
from torch import Tensor

from dinotrain.models.block import Block
from dinotrain.models.packing import Branch, draw_branches, full_branch, subset_branch

CPU = torch.device("cpu")


def golden_block(g: Golden) -> Block:
    dim = g.size("cfg/dim")
    weights = g.below("w/")
    hidden = weights["mlp.fc1.weight"].shape[0] if "mlp.fc1.weight" in weights else 4 * dim
    ffn = "mlp" if "mlp.fc1.weight" in weights else "swiglu"
    block = Block(dim, g.size("cfg/num_heads"), ffn=ffn, ffn_hidden=hidden, layer_scale="ls1.gamma" in weights)
    block.load_state_dict(weights)
    return block


def test_golden_stochastic_depth(golden: Callable[[str], Golden]) -> None:
    g = golden("droppath_block")
    block = golden_block(g)
    count = sum(f"x{i}" in g for i in range(9))
    xs = [g.tensor(f"x{i}").requires_grad_() for i in range(count)]
    layout = tuple((x.shape[0], x.shape[1]) for x in xs)
    attn, ffn = (subset_branch(layout, [g.tensor(f"rows_{part}{i}") for i in range(count)]) for part in ("attn", "ffn"))
    for branch in (attn, ffn):
        assert branch.scale is not None
        for i, part in enumerate(branch.scale.split([batch * length for batch, length in branch.layout])):
            assert_near(part, torch.full((part.shape[0], 1), g.number(f"scale{i}")), 1e-6)
    packed = block(torch.cat([x.flatten(0, 1) for x in xs]), attn, ffn)
    ys = [part.view_as(x) for part, x in zip(packed.split([x.shape[0] * x.shape[1] for x in xs]), xs)]
    for i, y in enumerate(ys):
        assert_near(y, g.tensor(f"y{i}"), 1e-5)
    sum((y * g.tensor(f"cot{i}")).sum() for i, y in enumerate(ys)).backward()  # pyright: ignore
    for i, x in enumerate(xs):
        assert x.grad is not None
        assert_near(x.grad, g.tensor(f"grad_x{i}"), 2e-5, 1e-5)
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        expected = g.tensor(f"grad/{name}")
        assert_near(parameter.grad, expected, 1e-5 * max(1.0, float(expected.abs().max())))


def test_kept_rows_are_those_the_rate_leaves(golden: Callable[[str], Golden]) -> None:
    """As many as the original keeps, for its rate and batches."""
    g = golden("droppath_block")
    layout = tuple((g.tensor(f"x{i}").shape[0], 3) for i in range(2))
    rate = g.number("cfg/sample_drop_ratio")
    assert rate > 0.1
    for branch in draw_branches(layout, rate, 4, CPU):
        assert [batch for batch, _ in branch.layout] == [len(g.tensor(f"rows_attn{i}")) for i in range(2)]


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5, 0.9])
def test_subsets_save_rows(rate: float) -> None:
    layout = ((7, 5), (12, 2))
    for branch in draw_branches(layout, rate, 6, CPU):
        kept = [max(int(batch * (1 - rate)), 1) for batch, _ in layout]
        assert branch.layout == tuple((k, length) for k, (_, length) in zip(kept, layout))
        assert branch.rows is not None
        assert branch.rows.numel() == sum(k * length for k, length in branch.layout)
        assert len(branch.rows.unique()) == branch.rows.numel()
        whole = branch.rows[: kept[0] * 5].view(-1, 5)
        assert ((whole - whole[:, :1]) == torch.arange(5)).all()
        assert (whole[:, 0] % 5 == 0).all()


def branch_weights(branch: Branch, total: int) -> Tensor:
    """The weight with which each row of the pack gets its residual."""
    scale = torch.ones(total, 1) if branch.scale is None else branch.scale
    if branch.rows is None:
        return scale
    return torch.zeros(total, 1).index_add(0, branch.rows, scale)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
def test_stochastic_depth_keeps_the_expected_residual(rate: float) -> None:
    torch.manual_seed(0)
    layout = ((5, 2), (8, 1))
    draws = draw_branches(layout, rate, 5_000, CPU)
    mean = torch.stack([branch_weights(branch, 18) for branch in draws]).mean(dim=0)
    assert_near(mean, torch.ones(18, 1), 0.08)


def test_all_sequences_are_dropped_alike() -> None:
    """Sequences of a group are kept equally often, and branches draw apart from each other."""
    torch.manual_seed(0)
    draws = draw_branches(((4, 1),), 0.5, 4_000, CPU)
    kept = torch.stack([branch_weights(branch, 4).squeeze(1) > 0 for branch in draws]).float()
    assert_near(kept.mean(dim=0), torch.full((4,), 0.5), 0.03)
    agreement = (kept[::2] == kept[1::2]).all(dim=1).float().mean()
    assert 0.1 < agreement < 0.25  # six subsets of two: 1 in 6


def test_no_rate_runs_everything() -> None:
    layout = ((2, 3),)
    assert draw_branches(layout, 0.0, 3, CPU) == [full_branch(layout)] * 3


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_keeps_its_image(batch: int) -> None:
    (branch,) = draw_branches(((batch, 4),), 0.9, 1, CPU)
    assert branch.layout == ((1, 4),)


@pytest.mark.parametrize(("dtype", "rate"), list(itertools.product([torch.float16, torch.bfloat16], [0.05, 0.5])))
def test_half_precision_rows_stay_half(dtype: torch.dtype, rate: float) -> None:
    torch.manual_seed(0)
    block = Block(8, 2, ffn="mlp", ffn_hidden=16, layer_scale=True).to(dtype)
    attn, ffn = draw_branches(((4, 3),), rate, 2, CPU)
    assert block(torch.randn(12, 8, dtype=dtype), attn, ffn).dtype == dtype
