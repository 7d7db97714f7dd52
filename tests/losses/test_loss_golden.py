"""Losses and targets against the original's numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import Golden, assert_near
from spawn import run_processes
from torch import Tensor

from dinotrain.losses.dino import dino_loss
from dinotrain.losses.ibot import ibot_loss
from dinotrain.losses.koleo import koleo_loss
from dinotrain.losses.targets import Center, sinkhorn_knopp


@pytest.fixture
def g(golden: Callable[[str], Golden]) -> Golden:
    return golden("losses")


def assert_value_and_gradient(value: Tensor, x: Tensor, g: Golden, prefix: str) -> None:
    expected = g.tensor(f"{prefix}/grad_{'input' if prefix.startswith('koleo') else 'student'}")
    assert_near(value.detach(), g.tensor(f"{prefix}/value"), 1e-6, 1e-5)
    (gradient,) = torch.autograd.grad(value, x)
    assert_near(gradient, expected.view_as(gradient), 1e-5 * float(expected.abs().max()), 1e-4)


def test_dino_local(g: Golden) -> None:
    targets = g.tensor("dino_local/teacher")
    student = g.tensor("dino_local/student").unflatten(0, (g.size("dino_local/n_local"), -1)).requires_grad_()
    views = targets.shape[0]
    terms = dino_loss(targets.log(), student, targets, g.number("cfg/student_temp"))
    pairs = views * (views - 1 + student.shape[0])
    assert_value_and_gradient(terms.local * pairs, student, g, "dino_local")


def test_dino_global(g: Golden) -> None:
    """The original's rows are matched already: the targets of view 2 stand beside view 1."""
    student = g.tensor("dino_global/student").requires_grad_()
    rows = g.tensor("dino_global/teacher")
    views = student.unflatten(0, (2, -1))
    terms = dino_loss(views, views[:0], rows.unflatten(0, (2, -1)).flip(0), g.number("cfg/student_temp"))
    assert_value_and_gradient(terms.global_, student, g, "dino_global")


def test_dino_lists(g: Golden) -> None:
    """All pairs of a number of student and teacher views, none left out: as local crops have them."""
    student, targets = g.tensor("dino_lists/student").requires_grad_(), g.tensor("dino_lists/teacher")
    terms = dino_loss(torch.zeros_like(targets), student, targets, g.number("cfg/student_temp"))
    views = targets.shape[0]
    assert_value_and_gradient(terms.local * views * (views - 1 + student.shape[0]), student, g, "dino_lists")


@pytest.mark.parametrize("prefix", ["ibot_masked", "ibot_masked_randw"])
def test_ibot(g: Golden, prefix: str) -> None:
    masks = g.tensor("ibot_masked/masks")
    assert torch.equal(masks.flatten().nonzero().squeeze(1), g.tensor("ibot_masked/mask_indices"))
    student, targets = g.tensor("ibot_masked/student").requires_grad_(), g.tensor("ibot_masked/teacher")
    weights = g.tensor(f"{prefix}/masks_weight")
    loss = ibot_loss(student, targets, weights, masks.shape[0], g.number("cfg/student_temp"))
    assert_value_and_gradient(loss, student, g, prefix)


def test_ibot_on_whole_grids(g: Golden) -> None:
    """The dense form is the packed one on the masked rows."""
    masks = g.tensor("ibot_dense/masks")
    student, targets = g.tensor("ibot_dense/student").requires_grad_(), g.tensor("ibot_dense/teacher")
    weights = (1 / masks.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(masks)[masks]
    loss = ibot_loss(student[masks], targets[masks], weights, masks.shape[0], g.number("cfg/student_temp"))
    assert_value_and_gradient(loss, student, g, "ibot_dense")


@pytest.mark.parametrize("prefix", ["koleo", "koleo_pair"])
def test_koleo(g: Golden, prefix: str) -> None:
    x = g.tensor(f"{prefix}/input").requires_grad_()
    assert_value_and_gradient(koleo_loss(x), x, g, prefix)


def test_koleo_of_duplicates(g: Golden) -> None:
    """Ill-conditioned: rounding decides what is left of the distance."""
    assert_near(koleo_loss(g.tensor("koleo_dup/input")), g.tensor("koleo_dup/value"), 1e-2)


@pytest.mark.parametrize("prefix", ["sk_cls", "sk_cls_flat", "sk_cls_peaky", "sk_patch"])
def test_sinkhorn(g: Golden, prefix: str) -> None:
    x, temperature = g.tensor(f"{prefix}/in"), g.number(f"{prefix}/temp")
    assert_near(sinkhorn_knopp(x, temperature, g.size("cfg/sinkhorn_iterations")), g.tensor(f"{prefix}/out"), 1e-6)
    if f"{prefix}/out_1iter" in g:
        assert_near(sinkhorn_knopp(x, temperature, 1), g.tensor(f"{prefix}/out_1iter"), 1e-6)


@pytest.mark.parametrize("kind", ["center_cls", "center_patch"])
def test_center_moves_one_step_late(g: Golden, kind: str) -> None:
    count = sum(f"{kind}/{i}/in" in g for i in range(99))
    center = Center(g.tensor(f"{kind}/0/in").shape[1], momentum=g.number("cfg/center_momentum"))
    for i in range(count):
        assert_near(center.center, g.tensor(f"{kind}/{i}/center_used")[0], 1e-6)
        out = center(g.tensor(f"{kind}/{i}/in"), g.number(f"{kind}/{i}/temp"))
        assert_near(out, g.tensor(f"{kind}/{i}/out"), 2e-6)
        center.update()
    assert_near(center.center, g.tensor(f"{kind}/final")[0], 1e-6)


def _on_rank(rank: int, inputs: list[dict], momentum: float, iterations: int, temperature: float) -> dict:
    mine = inputs[rank]
    out: dict = {kind: sinkhorn_knopp(mine[kind], temperature, iterations) for kind in ("sk_cls", "sk_patch")}
    for kind, mean in (("center_cls", "rows"), ("center_patch", "processes"), ("center_patch", "rows")):
        center = Center(mine[kind][0][0].shape[1], momentum=momentum, mean=mean)
        steps = []
        for x, temp in mine[kind]:
            steps.append((center.center.clone(), center(x, temp)))
            center.update()
        out[kind, mean] = (steps, center.center)
    return out


def test_two_processes(g: Golden) -> None:
    """Joint assignments; centers over all rows, and for patches also as the mean of the processes' means."""
    ranks = [f"w2/rank{r}" for r in range(2)]
    inputs = []
    for rank in ranks:
        mine: dict = {kind: g.tensor(f"{rank}/{kind}/in") for kind in ("sk_cls", "sk_patch")}
        for kind in ("center_cls", "center_patch"):
            steps = [i for i in range(99) if f"{rank}/{kind}/{i}/in" in g]
            # The temperatures of the two-process run are those of the one-process run.
            mine[kind] = [(g.tensor(f"{rank}/{kind}/{i}/in"), g.number(f"{kind}/{i}/temp")) for i in steps]
        inputs.append(mine)
    iterations, temperature = g.size("cfg/sinkhorn_iterations"), g.number("cfg/sinkhorn_temp")
    outputs = run_processes(2, _on_rank, inputs, g.number("cfg/center_momentum"), iterations, temperature)
    for rank, mine, out in zip(ranks, inputs, outputs):
        for kind in ("sk_cls", "sk_patch"):
            assert_near(out[kind], g.tensor(f"{rank}/{kind}/out"), 1e-6)
        for kind, mean in (("center_cls", "rows"), ("center_patch", "processes")):
            steps, final = out[kind, mean]
            assert len(steps) == len(mine[kind])
            for i, (used, result) in enumerate(steps):
                assert_near(used, g.tensor(f"{rank}/{kind}/{i}/center_used")[0], 1e-6)
                assert_near(result, g.tensor(f"{rank}/{kind}/{i}/out"), 2e-6)
            assert_near(final, g.tensor(f"{rank}/{kind}/final")[0], 1e-6)
    rows = [torch.cat([mine["center_patch"][i][0] for mine in inputs]) for i in range(len(inputs[0]["center_patch"]))]
    expected = torch.zeros_like(rows[0][0])
    for x in rows:
        expected.lerp_(x.mean(dim=0), 1 - g.number("cfg/center_momentum"))
    assert_near(outputs[0]["center_patch", "rows"][1], expected, 1e-6)
    assert_near(outputs[1]["center_patch", "rows"][1], expected, 1e-6)
