"""Four steps of training against the original's: losses, gradients, clipping, AdamW, teacher, centers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import trajectories as t
from reference import Golden, assert_near, flat_name, load, names
from spawn import run_processes
from torch import Tensor

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.optim.recipe import StepValues
from dinotrain.training.state import TrainState
from dinotrain.training.step import StepResult, train_step

FILES = names("steps_*")
PARAMETERS = 3e-5


@pytest.fixture(params=FILES)
def g(request: pytest.FixtureRequest, golden: Callable[[str], Golden]) -> Golden:
    return golden(request.param)


def plain_state(g: Golden) -> TrainState:
    student, teacher = t.build_networks(g), t.build_networks(g)
    student.load_state_dict(t.weights(g, "student0"))
    teacher.load_state_dict(t.weights(g, "teacher0"))
    return t.build_state(g, student, teacher)


def full(x: Tensor) -> Tensor:
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach()  # pyright: ignore


def assert_parameters(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        own = full(got[flat_name(name)])
        assert_near(t.without_key_bias(name, own), t.without_key_bias(name, value), PARAMETERS)


def assert_checks(g: Golden, got: Mapping[str, Tensor], expected: Tensor) -> None:
    """Sum, sum of magnitudes and length of every parameter."""
    for name, row in zip(g.texts("param_names"), expected):
        if name.endswith("attn.qkv.bias"):
            continue
        own = full(got[flat_name(name)]).double()
        size = PARAMETERS * own.numel()
        found = torch.stack([own.sum(), own.abs().sum(), own.norm()])
        assert ((found - row).abs() <= torch.tensor([size, size, PARAMETERS * own.numel() ** 0.5])).all(), name


def assert_step(g: Golden, step: int, values: StepValues, result: StepResult) -> None:
    prefix = f"s{step}/"
    keys = ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr")
    assert list(values[: len(keys)]) == pytest.approx([g.number(f"{prefix}sched/{key}") for key in keys], rel=1e-9)
    terms = ("dino_local_crops", "dino_global_crops", "koleo", "ibot")
    shown = {term: g.number(f"{prefix}loss/{term}_loss") for term in terms}
    dino = shown["dino_local_crops"] + shown["dino_global_crops"]
    assert float(result.terms.dino) == pytest.approx(dino, rel=1e-5)
    # The original shows half of the iBOT and KoLeo losses, KoLeo with its weight.
    assert float(result.terms.ibot) == pytest.approx(2 * shown["ibot"], rel=1e-5)
    if g.number("cfg/koleo"):
        koleo = 2 * shown["koleo"] / g.number("cfg/koleo")
        assert float(result.terms.koleo) == pytest.approx(koleo, rel=1e-5, abs=1e-5)
    assert float(result.loss) == pytest.approx(g.number(f"{prefix}loss_total_optimised"), rel=1e-5)
    norms = g.below(f"{prefix}gradnorm/")
    assert set(result.grad_norms) == set(norms)
    for name, norm in norms.items():
        assert float(result.grad_norms[name]) == pytest.approx(float(norm), rel=1e-4)
    assert not result.skipped


def assert_state(g: Golden, step: int, state: TrainState) -> None:
    for network, name in ((state.student, "student"), (state.ema, "teacher")):
        own = dict(network.named_parameters())
        assert_parameters(own, g.below(f"s{step}/{name}/"))
        assert_checks(g, own, g.tensor(f"s{step}/{name}_checks"))
    if g.text("cfg/centering") == "centering":
        # The original applies what it has seen one step late, the centers here at once, after the step.
        momentum = g.number("cfg_fixed/center_momentum")
        for kind in ("dino", "ibot"):
            center = getattr(state.method, f"{kind}_center").center
            left = g.tensor(f"s{step}/center_{kind}_buffer").flatten()
            seen = g.tensor(f"s{step}/center_{kind}_pending_batch_mean").flatten()
            assert_near(center, left * momentum + seen * (1 - momentum), 1e-5)


def assert_end(g: Golden, state: TrainState) -> None:
    own = dict(state.student.named_parameters())
    assert_parameters(own, g.below("final_student/"))
    for key, buffer in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        for name, expected in zip(g.texts("param_names"), g.tensor(f"final_adam_{key}_l2")):
            length = full(state.optimizer.state[own[flat_name(name)]][buffer]).norm()
            assert float(length) == pytest.approx(float(expected), rel=1e-3, abs=1e-7), name


def run(g: Golden, state: TrainState) -> None:
    for step, batch, values in t.steps(g):
        (result,) = train_step([state], [batch], values, count=1, clip_grad=g.number("cfg/clip"), rank=0)
        assert isinstance(result, StepResult)
        assert_step(g, step, values, result)
        assert_state(g, step, state)
    assert_end(g, state)


def test_trajectory(g: Golden) -> None:
    run(g, plain_state(g))


def test_first_gradients_targets_and_scores(g: Golden) -> None:
    state = plain_state(g)
    _, batch, values = next(t.steps(g))
    targets = state.method.targets(state.ema, batch, values.teacher_temperature)
    swapped = targets.cls.unflatten(0, (-1, g.size("cfg/B"))).flip(0)
    assert_near(swapped, g.tensor("s0/act/teacher_dino_targets"), 1e-5)
    assert_near(targets.patches, g.tensor("s0/act/teacher_ibot_targets"), 1e-5)
    outcome = state.method(state.student, state.ema, batch, values.teacher_temperature)
    views = outcome.observed.prototypes.student_scores.unflatten(0, (-1, g.size("cfg/B"))).flip(0).flatten(0, 1)
    assert_near(views, g.tensor("s0/act/student_global_logits"), 1e-5)
    outcome.loss.backward()
    own = dict(state.student.named_parameters())
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in own.items()}
    for name, expected in g.below("s0/grad/").items():
        size = max(1e-3, float(expected.abs().max()))
        assert_near(gradients[flat_name(name)], expected, 2e-5 * size)
    for name, length in zip(g.texts("param_names"), g.tensor("s0/grad_l2")):
        assert float(gradients[flat_name(name)].norm()) == pytest.approx(float(length), rel=1e-4, abs=1e-6)


def _run_sharded(rank: int, name: str) -> None:
    """From networks built on the meta device, sharded over a mesh of one process."""
    g = load(name)
    mesh = device_mesh("cpu", 1, None)
    pair = []
    for prefix in ("student0", "teacher0"):
        networks = t.build_networks(g, meta=True)
        parallelize(networks, mesh=mesh, precision="fp32", reshard_after_forward=True)
        materialize(networks, torch.device("cpu"))
        start = t.weights(g, prefix)
        for key, parameter in networks.named_parameters():
            parameter.to_local().data.copy_(start[key])  # pyright: ignore
        pair.append(networks)
    run(g, t.build_state(g, *pair))


@pytest.mark.parametrize("name", FILES)
def test_trajectory_of_sharded_networks(name: str) -> None:
    run_processes(1, _run_sharded, name)
