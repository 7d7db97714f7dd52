"""Sharded networks: start values, moving average, and what is refused."""

from __future__ import annotations

import pytest
import tiny
import tiny_training as training
import torch
import torch.distributed as dist
from reference import assert_near
from spawn import run_processes
from torch import Tensor

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.optim.ema import MovingAverage
from dinotrain.training.step import clip_gradients


def _initialized(rank: int, shard_size: int | None) -> dict[str, Tensor]:
    networks = tiny.networks(meta=True, num_registers=2)
    mesh = device_mesh("cpu", dist.get_world_size(), shard_size)
    parallelize(networks, mesh=mesh, precision="fp32", reshard_after_forward=True)
    materialize(networks, torch.device("cpu"))
    networks.initialize(5)
    return {name: training.full(p) for name, p in networks.named_parameters()}


def test_start_values_do_not_depend_on_the_processes() -> None:
    plain = tiny.networks(num_registers=2)
    plain.initialize(5)
    for count, shard_size in ((1, None), (2, None), (2, 1)):
        for values in run_processes(count, _initialized, shard_size):
            assert set(values) == {name for name, _ in plain.named_parameters()}
            for name, value in plain.named_parameters():
                assert torch.equal(values[name], value), name


def _forward_update_forward(rank: int, options: training.Options) -> list[Tensor]:
    student, teacher = training.sharded(0, options), training.sharded(1, options)
    teacher.eval().requires_grad_(False)
    average = MovingAverage(teacher, student)
    return _look(teacher, average)


def _look(teacher: torch.nn.Module, average: MovingAverage) -> list[Tensor]:
    """The teacher's scores before, between and after updates."""
    image, seen = tiny.batch(4).global_crops[0], []
    for momentum in (0.5, 0.7, 0.0):
        with torch.no_grad():
            (tokens,) = teacher.backbone([image])  # pyright: ignore
            seen.append(torch.cat([tokens.cls, teacher.scores(tokens.cls, tokens.cls).cls], dim=1))  # pyright: ignore
        average.update(momentum)
    return seen


@pytest.mark.parametrize("count", [1, 2])
def test_the_teacher_computes_with_its_updates(count: int) -> None:
    """Gathered parameters must not outlive an update of the shards."""
    options = training.Options()
    student, teacher = training.start(0, options), training.start(1, options).eval()
    expected = _look(teacher, MovingAverage(teacher, student))
    assert not torch.allclose(expected[0], expected[1])
    for seen in run_processes(count, _forward_update_forward, options):
        for got, value in zip(seen, expected):
            assert_near(got, value, 1e-5)


def _intermediate(rank: int, options: training.Options) -> list[Tensor]:
    backbone = training.sharded(0, options).eval().backbone
    image = tiny.batch(4).global_crops[0]
    with torch.no_grad():
        return [tokens.patches for tokens in backbone.intermediate(image, [0, -1])]


@pytest.mark.parametrize("wrap_blocks", [False, True])
def test_intermediate_tokens_of_a_sharded_backbone(wrap_blocks: bool) -> None:
    options = training.Options(wrap_blocks=wrap_blocks)
    expected = training.start(0, options).eval().backbone.intermediate(tiny.batch(4).global_crops[0], [0, -1])
    for seen in run_processes(2, _intermediate, options):
        for got, tokens in zip(seen, expected):
            assert_near(got, tokens.patches, 1e-5)


def _clipped(rank: int) -> list[dict[str, Tensor]]:
    networks = training.sharded(0, training.Options())
    for index, p in enumerate(networks.parameters()):
        p.grad = (index + 1) * p.detach()
    norms = clip_gradients(networks, 0.7)
    again = clip_gradients(networks, None)
    gradients = {name: training.full(p.grad) for name, p in networks.named_parameters() if p.grad is not None}
    return [norms, again, gradients]


def test_clipping_of_shards() -> None:
    plain = training.start(0, training.Options())
    for index, p in enumerate(plain.parameters()):
        p.grad = (index + 1) * p.detach()
    expected = clip_gradients(plain, 0.7)
    for norms, again, gradients in run_processes(2, _clipped):
        for name, norm in expected.items():
            assert_near(norms[name], norm, 0.0, 1e-5)
            assert float(again[name]) <= 0.7 + 1e-5
        for name, p in plain.named_parameters():
            assert p.grad is not None
            assert_near(gradients[name], p.grad, 1e-6)


def _mesh_error(rank: int, shard_size: int) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        device_mesh("cpu", 2, shard_size)
    return str(error.value)


def test_a_shard_size_that_does_not_divide() -> None:
    for shard_size in (3, 0):
        message = f"parallel.shard_size: got {shard_size}, expected a divisor of the 2 processes"
        assert run_processes(2, _mesh_error, shard_size) == [message] * 2
