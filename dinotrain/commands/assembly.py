"""From settings to the networks, the state and the input pipeline of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from dinotrain.commands.build import build
from dinotrain.commands.options import RuntimeOptions
from dinotrain.commands.settings import Settings
from dinotrain.data.loader import Loader
from dinotrain.distributed.parallelize import DTYPES, Precision, device_mesh, materialize, parallelize
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.networks import FeatureNetworks, Networks
from dinotrain.optim.ema import MovingAverage
from dinotrain.training.state import TrainState
from dinotrain.weights.weights import Weights


@dataclass(frozen=True)
class Plan:
    """What was settled from the configuration and the machine before anything large is built."""

    precision: Precision
    attention: str
    attention_available: tuple[str, ...]
    micro_batch: int
    accumulation: int
    workers: int
    augment_in_workers: bool


def settle(students: Sequence[Settings], world: World, cores: int) -> Plan:
    """Choose what was left to "auto", for all students alike, and divide the global batch.

    Raises:
        UserError: where a choice can't be had here, or the batch can't be divided.
    """
    runtime, recipe = students[0].runtime, students[0].recipe
    precision = default_precision(world.device) if runtime.precision == "auto" else runtime.precision
    backends, head_dim = available_attention(students, world, precision)
    if runtime.attention != "auto" and runtime.attention not in backends:
        raise UserError(
            f"runtime.attention: {runtime.attention} has no kernel for {precision} and {head_dim} channels per head on "
            f"this {world.device.type} machine; available: {', '.join(backends)}"
        )
    # A compiled block would be cut in two by a kernel from outside torch.
    best = "sdpa" if runtime.compile else backends[-1]
    attention = best if runtime.attention == "auto" else runtime.attention
    micro, accumulation = divide_batch(
        recipe.global_batch, world.size, micro_batch=recipe.micro_batch, limit=recipe.micro_batch_limit
    )
    workers = runtime.workers
    if workers is None:
        workers = min(max(cores // world.local_size - 1, 1), 12)
    in_workers = workers > 0 and augments_in_workers(runtime, world.device.type)
    return Plan(precision, attention, backends, micro, accumulation, workers, in_workers)


def available_attention(
    students: Sequence[Settings], world: World, precision: Precision
) -> tuple[tuple[str, ...], int]:
    """What can run for the heads of all students and of their frozen teacher, and the width that allows the least."""
    models = [settings.config.model for settings in students]
    if students[0].teacher is not None:
        models.append(students[0].teacher.architecture)
    widths = {model.embed_dim // model.num_heads for model in models}
    found = [(available_backends(world.device, DTYPES[precision], width), width) for width in widths]
    return min(found, key=lambda item: len(item[0]))


def augments_in_workers(runtime: RuntimeOptions, device: str) -> bool:
    """Whether the workers (where there are any) do the photometric augmentation, and not the device."""
    if runtime.augment == "auto":
        return device == "cpu" and not runtime.compile_augment
    return runtime.augment == "workers"


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA, as in the recipes; on a CPU bf16 where it has instructions for that, else fp32."""
    if device.type == "cuda":
        return "fp16"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def divide_batch(global_batch: int, processes: int, *, micro_batch: int | None, limit: int | None) -> tuple[int, int]:
    """(images per process and forward pass, forward passes per step).

    Raises:
        UserError: if the global batch can't be divided among the processes, or into what one pass of them takes.
    """
    if global_batch % processes:
        raise UserError(f"optim.global_batch: {global_batch} is not a multiple of the {processes} processes")
    share = global_batch // processes
    if micro_batch is not None:
        if share % micro_batch:
            raise UserError(
                f"optim.micro_batch: {micro_batch} does not divide the {share} images of each process "
                f"(optim.global_batch {global_batch} over {processes})"
            )
        return micro_batch, share // micro_batch
    passes = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= (limit or share))
    return share // passes, passes


def build_networks(config: DictConfig, teacher: Weights | None = None) -> Networks | FeatureNetworks:
    """A backbone with its heads, or its projections to the width of a teacher, on the meta device: without memory."""
    with torch.device("meta"):
        backbone = build(config.model)
        if "projection" in config.method:
            assert teacher is not None
            widths = {"in_dim": backbone.embed_dim, "out_dim": teacher.architecture.embed_dim}
            both = (build(config.method.projection, **widths) for _ in range(2))
            return FeatureNetworks(backbone=backbone, cls_projection=next(both), patch_projection=next(both))
        head = build(config.method.dino_head, in_dim=backbone.embed_dim)
        own = config.method.ibot_head
        ibot_head = build(own, in_dim=backbone.embed_dim) if own is not None else None
        return Networks(backbone=backbone, dino_head=head, ibot_head=ibot_head)


def build_method(config: DictConfig, teacher: Weights | None, device: torch.device) -> nn.Module:
    """The objective, with centers as wide as the heads, or statistics as wide as the teacher's features."""
    if "projection" in config.method:
        assert teacher is not None
        return build(config.method.objective, dim=teacher.architecture.embed_dim).to(device)
    shared = config.method.dino_head.num_prototypes
    own = config.method.ibot_head
    widths = (shared, own.num_prototypes if own is not None else shared)
    return build(config.method.objective, num_prototypes=widths).to(device)


def build_mesh(settings: Settings, world: World) -> DeviceMesh:
    """The mesh that all networks of a run are sharded over.

    Raises:
        UserError: if the processes can't be divided so.
    """
    try:
        return device_mesh(world.device.type, world.size, settings.parallel.shard_size)
    except ValueError as error:
        raise UserError(str(error)) from error


def build_state(settings: Settings, plan: Plan, world: World, mesh: DeviceMesh, method: nn.Module) -> TrainState:
    """Student, moving average and optimizer of this process, sharded; the average starts as the student.

    Students of a run share the method.
    """
    config, parallel, runtime = settings.config, settings.parallel, settings.runtime
    student, ema = (build_networks(config, settings.teacher) for _ in range(2))
    for networks in (student, ema):
        select_attention(networks, plan.attention)
    parallelize(
        student,
        mesh=mesh,
        precision=plan.precision,
        reshard_after_forward=parallel.reshard_after_forward,
        activation_checkpointing=runtime.activation_checkpointing,
        compile_blocks=runtime.compile,
    )
    # The moving average writes to its shards, so its parameters must not stay gathered after a forward.
    parallelize(ema, mesh=mesh, precision=plan.precision, reshard_after_forward=True, compile_blocks=runtime.compile)
    for networks in (student, ema):
        materialize(networks, world.device)
    student.initialize(config.seed)
    average = MovingAverage(ema, student)
    average.copy()
    ema.requires_grad_(False).eval()
    return TrainState(
        student=student,
        ema=ema,
        method=method,
        optimizer=settings.recipe.optimizer(student, config.model.depth),
        scaler=torch.amp.GradScaler(  # pyright: ignore
            world.device.type, init_scale=runtime.initial_loss_scale, enabled=plan.precision == "fp16"
        ),
        average=average,
        seed=config.seed,
        ema_name="teacher" if settings.teacher is None else "ema",
    )


def build_loader(settings: Settings, plan: Plan, world: World, start_step: int, warn: Callable[[str], None]) -> Loader:
    """The input pipeline of this process, from a step on; `warn` is told of workers that died."""
    config = settings.config
    return Loader(
        source=settings.source,
        crops=settings.crops,
        augment=settings.augment,
        masks=settings.masks,
        global_batch=config.optim.global_batch,
        micro_batch=plan.micro_batch,
        rank=world.rank,
        world_size=world.size,
        seed=config.seed,
        workers=plan.workers,
        prefetch=settings.runtime.prefetch,
        device=world.device,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        augment_in_workers=plan.augment_in_workers,
        compile_augment=settings.runtime.compile_augment,
        start_step=start_step,
        steps=config.optim.steps,
        warn=warn,
    )
