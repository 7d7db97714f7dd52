"""From settings to the networks, the state and the input pipeline of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from dinotrain.commands.settings import Settings, build
from dinotrain.data.loader import Loader
from dinotrain.distributed.parallelize import Precision, device_mesh, materialize, parallelize
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.methods.self_distillation import SelfDistillation
from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.networks import Networks
from dinotrain.optim.ema import MovingAverage
from dinotrain.training.state import TrainState


@dataclass(frozen=True)
class Plan:
    """What was settled from the configuration and the machine before anything large is built."""

    precision: Precision
    attention: str
    micro_batch: int
    accumulation: int
    workers: int


def settle(settings: Settings, world: World, cores: int) -> Plan:
    """Choose what was left to "auto", and divide the global batch.

    Raises:
        UserError: where a choice can't be had here, or the batch can't be divided.
    """
    runtime, recipe = settings.runtime, settings.recipe
    backends = available_backends(world.device)
    if runtime.attention != "auto" and runtime.attention not in backends:
        raise UserError(
            f"runtime.attention: {runtime.attention} has no kernel on this {world.device.type} machine; "
            f"available: {', '.join(backends)}"
        )
    micro, accumulation = divide_batch(recipe.global_batch, recipe.micro_batch, world.size)
    precision = default_precision(world.device) if runtime.precision == "auto" else runtime.precision
    attention = backends[-1] if runtime.attention == "auto" else runtime.attention
    workers = runtime.workers
    if workers is None:
        workers = min(max(cores // world.local_size - 1, 1), 12)
    return Plan(precision, attention, micro, accumulation, workers)


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA, as in the recipes; on a CPU bf16 where it has instructions for that, else fp32."""
    if device.type == "cuda":
        return "fp16"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def divide_batch(global_batch: int, micro_batch: int | None, processes: int) -> tuple[int, int]:
    """(images per process and forward pass, forward passes per step).

    Raises:
        UserError: if the global batch is no multiple of what one pass of all processes takes.
    """
    micro = micro_batch or max(global_batch // processes, 1)
    if global_batch % (micro * processes):
        at_once = f"{processes} processes" + (f" x optim.micro_batch {micro}" if micro_batch else "")
        raise UserError(f"optim.global_batch: {global_batch} is not a multiple of {at_once}")
    return micro, global_batch // (micro * processes)


def build_networks(config: DictConfig) -> Networks:
    """A backbone with its heads on the meta device: shapes without memory."""
    with torch.device("meta"):
        backbone = build(config.model)
        head = build(config.method.dino_head, in_dim=backbone.embed_dim)
        own = config.method.ibot_head
        ibot_head = build(own, in_dim=backbone.embed_dim) if own is not None else None
        return Networks(backbone=backbone, dino_head=head, ibot_head=ibot_head)


def build_method(config: DictConfig, device: torch.device) -> SelfDistillation:
    """The objective, with centers as wide as the heads."""
    shared = config.method.dino_head.num_prototypes
    own = config.method.ibot_head
    widths = (shared, own.num_prototypes if own is not None else shared)
    return build(config.method.objective, num_prototypes=widths).to(device)


def build_state(settings: Settings, plan: Plan, world: World) -> TrainState:
    """Student, teacher and optimizer of this process, sharded and initialised; the teacher starts as the student."""
    config, parallel, runtime = settings.config, settings.parallel, settings.runtime
    student, teacher = build_networks(config), build_networks(config)
    for networks in (student, teacher):
        select_attention(networks, plan.attention)
    try:
        mesh = device_mesh(world.device.type, world.size, parallel.shard_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    parallelize(
        student,
        mesh=mesh,
        precision=plan.precision,
        reshard_after_forward=parallel.reshard_after_forward,
        activation_checkpointing=runtime.activation_checkpointing,
        compile_blocks=runtime.compile,
    )
    # The moving average writes to the teacher's shards, so its parameters must not stay gathered after a forward.
    parallelize(
        teacher, mesh=mesh, precision=plan.precision, reshard_after_forward=True, compile_blocks=runtime.compile
    )
    for networks in (student, teacher):
        materialize(networks, world.device)
    student.initialize(config.seed)
    average = MovingAverage(teacher, student)
    average.copy()
    teacher.requires_grad_(False).eval()
    return TrainState(
        student=student,
        teacher=teacher,
        method=build_method(config, world.device),
        optimizer=settings.recipe.optimizer(student, config.model.depth),
        scaler=torch.amp.GradScaler(  # pyright: ignore
            world.device.type, init_scale=runtime.initial_loss_scale, enabled=plan.precision == "fp16"
        ),
        average=average,
        seed=config.seed,
    )


def build_loader(settings: Settings, plan: Plan, world: World, start_step: int) -> Loader:
    """The input pipeline of this process, from a step on."""
    config = settings.config
    masks = None
    if config.method.masks is not None:
        masks = build(config.method.masks, grid=config.crops.global_size // config.model.patch_size, seed=config.seed)
    return Loader(
        source=settings.source,
        crops=build(config.crops),
        masks=masks,
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
        start_step=start_step,
        steps=config.optim.steps,
    )
