"""What a frozen teacher is shown, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from reference import assert_near
from spawn import run_processes
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.methods.distillation import Distillation
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.models.head import Head
from dinotrain.models.networks import BackboneNetworks, Networks
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.ema import MovingAverage
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.training.state import TrainState
from dinotrain.training.step import StepResult, train_step

SEEN, WANTED = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), ((0.45, 0.46, 0.47), (0.22, 0.21, 0.2))


def alone(patch_size: int = 4, side: int = 16) -> BackboneNetworks:
    networks = BackboneNetworks(backbone=tiny.backbone(3, image_size=side, patch_size=patch_size))
    return networks.eval()


def normalized(raw: Tensor, how: Any) -> Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in how)
    return (raw - mean) / std


def raw_images(side: int = 16, count: int = 3) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(side))


def resized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)


def test_images_as_they_are() -> None:
    """Bit for bit where size and normalisation are the student's; several groups of sizes are taken."""
    networks = alone()
    groups = [normalized(raw_images(side), SEEN) for side in (16, 8)]
    expected = networks.backbone(groups)
    same = (tuple(SEEN[0]), tuple(SEEN[1]))
    for size, wanted in ((None, None), (None, same)):
        got = FrozenTeacher(networks, size=size, seen=SEEN, wanted=wanted).backbone(groups)
        assert all(torch.equal(a, b) for one, two in zip(got, expected, strict=True) for a, b in zip(one, two))
        assert not any(x.requires_grad for tokens in got for x in tokens)


@pytest.mark.parametrize(
    ("patch_size", "size", "side", "given"),
    [
        (4, 24, 24, 16),
        (4, 8, 8, 16),
        (4, 16, 16, 16),
        (7, 28, 28, 16),
        (5, None, 15, 16),
        (6, None, 18, 16),
        (40, None, 40, 16),
        (14, None, 98, 96),
    ],
)
def test_sizes(patch_size: int, size: int | None, side: int, given: int) -> None:
    """The size that is asked for, else the nearest to the student's that the patches fit."""
    networks, images = alone(patch_size, side), raw_images(given)
    (got,) = FrozenTeacher(networks, size=size, seen=SEEN).backbone([images])
    (expected,) = networks.backbone([images if side == given else resized(images, side)])
    assert got.patches.shape[1] == (side // patch_size) ** 2
    assert_near(got.cls, expected.cls, 1e-5)
    assert_near(got.patches, expected.patches, 1e-5)


@pytest.mark.parametrize("size", [None, 24])
def test_images_are_renormalized(size: int | None) -> None:
    """The teacher sees what it would make of the raw images itself."""
    networks, raw = alone(), raw_images()
    images = normalized(raw, SEEN)
    before = images.clone()
    (got,) = FrozenTeacher(networks, size=size, seen=SEEN, wanted=WANTED).backbone([images])
    own = normalized(raw if size is None else resized(raw, size), WANTED)
    (expected,) = networks.backbone([own])
    (other,) = networks.backbone([images if size is None else resized(images, size)])
    assert_near(got.cls, expected.cls, 1e-4)
    assert_near(got.patches, expected.patches, 1e-4)
    assert (got.cls - other.cls).abs().max() > 0.05
    assert torch.equal(images, before)


def test_scores_without_gradients() -> None:
    """Though the networks could have some."""
    networks = tiny.networks(1)
    teacher = FrozenTeacher(networks, size=None, seen=SEEN)
    cls, patches = torch.randn(3, tiny.DIM), torch.randn(5, tiny.DIM)
    got, expected = teacher.scores(cls, patches), networks.scores(cls, patches)
    assert torch.equal(got.cls, expected.cls)
    assert torch.equal(got.patches, expected.patches)
    assert not got.cls.requires_grad
    assert not got.patches.requires_grad


def sharded(seed: int, precision: Any, *, frozen: bool = False, shard_size: int | None = None) -> Networks:
    head: dict[str, Any] = {"in_dim": 17, "hidden_dim": 12, "bottleneck_dim": 7, "init_std": 0.3}
    with torch.device("meta"):
        sizes: dict[str, Any] = {
            "image_size": 16,
            "patch_size": 4,
            "embed_dim": 17,
            "depth": 2,
            "num_heads": 1,
            "num_registers": 1,
        }
        networks = Networks(
            backbone=VisionTransformer(**sizes, layer_scale=1.0, init_std=0.3, position_std=0.3),
            dino_head=Head(**head, num_prototypes=tiny.PROTOTYPES),
            ibot_head=Head(**head, num_prototypes=tiny.PATCH_PROTOTYPES),
        )
    networks.requires_grad_(not frozen)
    mesh = device_mesh("cpu", 2, shard_size)
    parallelize(networks, mesh=mesh, precision=precision, reshard_after_forward=True, frozen=frozen)
    materialize(networks, torch.device("cpu"))
    networks.initialize(seed)
    return networks.train(not frozen)


def local(networks: Networks) -> list[Tensor]:
    """This process's part of each parameter."""
    parts = []
    for parameter in networks.parameters():
        assert isinstance(parameter, DTensor)
        parts.append(parameter.to_local())
    return parts


def _look(teacher: FrozenTeacher) -> list[Tensor]:
    with torch.no_grad():
        (tokens,) = teacher.backbone([tiny.batch(4).global_crops[0]])
        return [*tokens, *teacher.scores(tokens.cls, tokens.patches.flatten(0, 1))]


def _frozen(rank: int, precision: str, shard_size: int | None) -> dict[str, Any]:
    frozen = sharded(1, precision, frozen=True, shard_size=shard_size)
    master = sharded(1, precision, shard_size=shard_size).eval()
    teacher, other = (FrozenTeacher(x, size=None, seen=SEEN, wanted=WANTED) for x in (frozen, master))
    bytes_per_parameter = {part.element_size() for part in local(frozen)}
    seen = (_look(teacher), _look(other))
    student, ema = sharded(0, precision, shard_size=shard_size), sharded(0, precision, shard_size=shard_size)
    recipe = OptimizationRecipe(steps=10, global_batch=8, base_lr=1e-2, lr_rule="none", warmup=0, freeze_last_layer=0)
    state = TrainState(
        student=student,
        ema=ema.requires_grad_(False).eval(),
        method=Distillation(num_prototypes=(tiny.PROTOTYPES, tiny.PATCH_PROTOTYPES), koleo_weight=0.0),
        optimizer=recipe.optimizer(student, 2),
        scaler=torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=2.0**6),
        average=MovingAverage(ema, student),
        seed=0,
    )
    before = [part.clone() for part in local(frozen)]
    trained = [part.clone() for part in local(student)]
    for step in range(2):
        batch, values = tiny.batch(8, seed=step, first=4 * rank, count=4), recipe.schedules()(step)
        (result,) = train_step([state], [batch], values, count=1, clip_grad=3.0, rank=rank, teacher=teacher)
        assert isinstance(result, StepResult)
        assert not result.skipped
    theirs = {id(p) for p in frozen.parameters()}
    return {
        "bytes per parameter": bytes_per_parameter | {part.element_size() for part in local(frozen)},
        "bytes": sum(part.numel() * part.element_size() for part in local(frozen)),
        "numel": sum(p.numel() for p in frozen.parameters()),
        "seen": seen,
        "learns": any(p.requires_grad or p.grad is not None for p in frozen.parameters()),
        "optimized": any(id(p) in theirs for p in state.optimizer.state),
        "states": len(state.optimizer.state) == len(list(student.parameters())),
        "unchanged": all(torch.equal(a, b) for a, b in zip(before, local(frozen), strict=True)),
        "trained": not all(torch.equal(a, b) for a, b in zip(trained, local(student), strict=True)),
        "last": _look(teacher),
    }


CASES: list[tuple[str, int | None]] = [("bf16", None), ("fp16", None), ("fp16", 1)]
"""Precision, and processes that share a copy."""


def _all_cases(rank: int) -> list[dict[str, Any]]:
    return [_frozen(rank, *case) for case in CASES]


def test_two_bytes_per_parameter_and_the_same_numbers() -> None:
    """As networks with fp32 master weights would give in that precision; and nothing of it is ever trained."""
    for (precision, shard_size), *results in zip(CASES, *run_processes(2, _all_cases), strict=True):
        print(precision, shard_size)  # shown where something fails
        for out in results:
            assert out["bytes per parameter"] == {2}
            assert not out["learns"]
            assert not out["optimized"]
            assert out["states"]
            assert out["unchanged"]
            assert out["trained"]
            frozen, master = out["seen"]
            assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(frozen, master, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(frozen, out["last"], strict=True))
            assert all(x.isfinite().all() for x in frozen)
        copies = 1 if shard_size is None else 2
        assert sum(out["bytes"] for out in results) == 2 * copies * results[0]["numel"]
