"""Tiny training runs, plain or sharded over processes, for comparing one with the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tiny
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from dinotrain.data.batch import Batch
from dinotrain.distributed import parallelize as plan
from dinotrain.distributed.collectives import mean_over_processes
from dinotrain.methods.self_distillation import SelfDistillation
from dinotrain.models.networks import Networks
from dinotrain.optim.ema import MovingAverage
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.training.state import TrainState
from dinotrain.training.step import StepResult, train_step

IMAGES = 8
"""In the global batch."""


@dataclass(frozen=True)
class Options:
    """What a tiny run can differ in."""

    targets: str = "sinkhorn"
    koleo_weight: float = 0.0
    ibot_weight: float = 1.0
    shared: bool = False
    drop_path: float = 0.0
    steps: int = 3
    micro_batches: int = 1
    local_crops: int = 2
    shard_size: int | None = None
    precision: str = "fp32"
    reshard_after_forward: bool = True
    activation_checkpointing: bool = False
    wrap_blocks: bool = False
    compile_blocks: bool = False
    clip_grad: float | None = 0.5
    masks_on: tuple[int, int] = (0, IMAGES)
    """Images that may have masks."""


def recipe(options: Options) -> OptimizationRecipe:
    return OptimizationRecipe(
        steps=10,
        global_batch=IMAGES,
        base_lr=1e-3,
        lr_rule="none",
        momentum=0.9,
        clip_grad=options.clip_grad,
        warmup=0.0,
        freeze_last_layer=0.0,
        teacher_temperature_warmup=0.5,
    )


def start(seed: int, options: Options) -> Networks:
    """Plain networks: where every run starts."""
    return tiny.networks(seed, shared=options.shared, drop_path=options.drop_path, num_registers=1)


def sharded(seed: int, options: Options) -> Networks:
    """The same networks, sharded over all processes."""
    networks = tiny.networks(shared=options.shared, drop_path=options.drop_path, num_registers=1, meta=True)
    if options.wrap_blocks:
        plan.SMALL_BACKBONE = 0
    plan.parallelize(
        networks,
        mesh=plan.device_mesh("cpu", dist.get_world_size(), options.shard_size),
        precision=options.precision,  # pyright: ignore
        reshard_after_forward=options.reshard_after_forward,
        activation_checkpointing=options.activation_checkpointing,
        compile_blocks=options.compile_blocks,
    )
    plan.materialize(networks, torch.device("cpu"))
    whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(networks, start(seed, options).state_dict(), options=whole)
    return networks


def state(options: Options, build: Callable[[int, Options], Networks]) -> TrainState:
    student, teacher = build(0, options), build(1, replace(options, reshard_after_forward=True))
    k = (tiny.PROTOTYPES, tiny.PROTOTYPES if options.shared else tiny.PATCH_PROTOTYPES)
    method = SelfDistillation(
        num_prototypes=k,
        targets=options.targets,  # pyright: ignore
        koleo_weight=options.koleo_weight,
        ibot_weight=options.ibot_weight,
    )
    return TrainState(
        student=student.train(),
        ema=teacher.eval().requires_grad_(False),
        method=method,
        optimizer=recipe(options).optimizer(student, 2),
        scaler=torch.amp.GradScaler("cpu", enabled=options.precision == "fp16", init_scale=2.0**10),
        average=MovingAverage(teacher, student),
        seed=0,
    )


def batches(options: Options, step: int, rank: int, size: int) -> list[Batch]:
    """This process's micro-batches of the global batch of a step: image i of it is the same however it is split."""
    count = IMAGES // (size * options.micro_batches)
    whole = tiny.batch(IMAGES, seed=step, local=options.local_crops)
    masks = whole.masks.clone()
    first, last = options.masks_on
    masks[:, :first] = False
    masks[:, last:] = False
    out = []
    for micro in range(options.micro_batches):
        begin = (micro * size + rank) * count
        part = slice(begin, begin + count)
        out.append(tiny.from_crops(whole.global_crops[:, part], whole.local_crops[:, part], masks[:, part]))
    return out


def full(x: Tensor) -> Tensor:
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach().clone()  # pyright: ignore


def parameters(networks: nn.Module) -> dict[str, Tensor]:
    """Whole parameters, without the key bias: its gradient is rounding noise, which Adam makes large."""
    out = {name: full(p) for name, p in networks.named_parameters()}
    for name in out:
        if name.endswith("qkv.bias"):
            query, _, value = out[name].chunk(3)
            out[name] = torch.cat([query, value])
    return out


def run(rank: int, size: int, options: Options, build: Callable[[int, Options], Networks]) -> dict[str, Any]:
    """Losses and gradient norms of every step, and what the run ends with."""
    s = state(options, build)
    values = recipe(options).schedules()
    losses, norms = [], []
    for step in range(options.steps):
        parts = batches(options, step, rank, size)
        (result,) = train_step([s], parts, values(step), count=len(parts), clip_grad=options.clip_grad, rank=rank)
        assert isinstance(result, StepResult)
        losses.append(float(mean_over_processes(result.loss.clone())))
        norms.append({name: float(norm) for name, norm in result.grad_norms.items()})
    centers = [center.center for center in (s.method.dino_center, s.method.ibot_center) if center is not None]
    return {
        "losses": torch.tensor(losses),
        "norms": {name: torch.tensor([norm[name] for norm in norms]) for name in norms[0]},
        "student": parameters(s.student),
        "teacher": parameters(s.ema),
        "centers": dict(enumerate(centers)),
    }


def run_plain(options: Options) -> dict[str, Any]:
    """On this process alone, without sharding."""
    return run(0, 1, options, start)


def run_sharded(rank: int, options: Options) -> dict[str, Any]:
    """On the processes of the group."""
    return run(rank, dist.get_world_size(), options, sharded)
