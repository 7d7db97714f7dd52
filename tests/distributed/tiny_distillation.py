"""Tiny distillations of one frozen teacher into one student or several, plain or sharded over processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tiny
import tiny_training as training
import torch
import torch.distributed as dist
from torch import Tensor

from dinotrain.data.batch import Batch
from dinotrain.distributed import parallelize as plan
from dinotrain.distributed.collectives import mean_over_processes
from dinotrain.methods.distillation import Distillation
from dinotrain.methods.feature_distillation import FeatureDistillation
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.models.head import Head
from dinotrain.models.networks import BackboneNetworks, FeatureNetworks, Networks
from dinotrain.models.projection import Projection
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.ema import MovingAverage
from dinotrain.training.state import TrainState
from dinotrain.training.step import NonFiniteError, StepResult, train_step

TEACHER_DIM = 24
SIZES: dict[str, dict[str, Any]] = {
    "teacher": {"embed_dim": TEACHER_DIM, "depth": 3, "num_heads": 3},
    "large": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "small": {"embed_dim": 8, "depth": 1, "num_heads": 1, "num_registers": 1},
}
STUDENTS = ("large", "small")
RECIPE = training.recipe(training.Options())


@dataclass(frozen=True)
class Options:
    """What a tiny distillation can differ in."""

    features: bool = False
    """By features, from a teacher with other patches that sees images normalised in another way; else by prototypes."""
    targets: str = "sinkhorn"
    shared: bool = False
    koleo_weight: float = 0.0
    drop_path: float = 0.0
    steps: int = 3
    micro_batches: int = 1
    shard_size: int | None = None
    precision: str = "fp32"
    students: tuple[str, ...] = STUDENTS
    scales: tuple[float, ...] = ()
    """Loss scales of `STUDENTS`; none for no scaling."""
    warm: bool = False
    """Whether the method has seen a step before the first."""

    @property
    def teacher_patch(self) -> int:
        return 8 if self.features else 4


Build = Callable[[str, int, Options], BackboneNetworks]


def _networks(name: str, options: Options) -> BackboneNetworks:
    spread = {"init_std": 0.3, "position_std": 0.3, "layer_scale": 1.0}
    frozen, width = name == "teacher", SIZES[name]["embed_dim"]
    own = {"patch_size": options.teacher_patch} if frozen else {"patch_size": 4, "drop_path": options.drop_path}
    backbone = VisionTransformer(image_size=16, **own, **spread, **SIZES[name])
    if options.features:
        if frozen:
            return BackboneNetworks(backbone=backbone)
        sizes = {"in_dim": width, "out_dim": TEACHER_DIM, "init_std": 0.3}
        return FeatureNetworks(
            backbone=backbone, cls_projection=Projection(**sizes), patch_projection=Projection(**sizes)
        )
    head: dict[str, Any] = {"in_dim": width, "hidden_dim": 12, "bottleneck_dim": 8, "init_std": 0.3}
    return Networks(
        backbone=backbone,
        dino_head=Head(**head, num_prototypes=tiny.PROTOTYPES),
        ibot_head=None if options.shared else Head(**head, num_prototypes=tiny.PATCH_PROTOTYPES),
    )


def plain(name: str, seed: int, options: Options) -> BackboneNetworks:
    """On this process alone."""
    networks = _networks(name, options)
    networks.initialize(seed)
    return networks


def sharded(name: str, seed: int, options: Options) -> BackboneNetworks:
    """The same networks, sharded over all processes."""
    with torch.device("meta"):
        networks = _networks(name, options)
    plan.parallelize(
        networks,
        mesh=plan.device_mesh("cpu", dist.get_world_size(), options.shard_size),
        precision=options.precision,  # pyright: ignore
        reshard_after_forward=True,
        frozen=name == "teacher",
    )
    plan.materialize(networks, torch.device("cpu"))
    networks.initialize(seed)
    return networks


def frozen_teacher(options: Options, build: Build) -> FrozenTeacher:
    networks = build("teacher", 9, options).requires_grad_(False).eval()
    wanted = ((0.1, -0.1, 0.0), (0.9, 1.0, 1.1)) if options.features else None
    return FrozenTeacher(networks, size=None, seen=((0.0,) * 3, (1.0,) * 3), wanted=wanted)


def method_of(options: Options) -> Distillation | FeatureDistillation:
    if options.features:
        return FeatureDistillation(dim=TEACHER_DIM, statistics_momentum=0.8)
    return Distillation(
        num_prototypes=(tiny.PROTOTYPES, tiny.PROTOTYPES if options.shared else tiny.PATCH_PROTOTYPES),
        targets=options.targets,  # pyright: ignore
        koleo_weight=options.koleo_weight,
    )


def student_state(name: str, method: Any, options: Options, build: Build) -> TrainState:
    number = STUDENTS.index(name)
    student, ema = build(name, number, options), build(name, 5 + number, options)
    scale = options.scales[number] if options.scales else None
    return TrainState(
        student=student.train(),
        ema=ema.requires_grad_(False).eval(),
        method=method,
        optimizer=RECIPE.optimizer(student, SIZES[name]["depth"]),
        scaler=torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0),
        average=MovingAverage(ema, student),
        seed=number,
        ema_name="ema",
    )


def batches(options: Options, step: int, rank: int = 0, size: int = 1) -> list[Batch]:
    """This process's micro-batches of a step; their masks are there to be passed over."""
    return training.batches(training.Options(micro_batches=options.micro_batches), step, rank, size)


class Distilling:
    """A tiny run: one teacher, one method, all students."""

    def __init__(self, options: Options, build: Build, rank: int = 0, size: int = 1) -> None:
        self.options, self.rank, self.size = options, rank, size
        self.teacher, self.method = frozen_teacher(options, build), method_of(options)
        self.states = {name: student_state(name, self.method, options, build) for name in options.students}
        if options.warm:
            for batch in batches(replace(options, micro_batches=1), 100, rank, size):
                self.method.targets(self.teacher, batch, 0.05)
            self.method.after_step()

    def step(self, step: int) -> dict[str, StepResult | NonFiniteError]:
        parts, values = batches(self.options, step, self.rank, self.size), RECIPE.schedules()(step)
        results = train_step(
            list(self.states.values()),
            parts,
            values,
            count=len(parts),
            clip_grad=0.5,
            rank=self.rank,
            teacher=self.teacher,
        )
        return dict(zip(self.states, results, strict=True))

    def poison(self, name: str, factor: float) -> None:
        """From now on the loss of one student, and with it every gradient, is not finite on this process."""
        compare, victim = self.method.compare, self.states[name].student

        def poisoned(student: Any, targets: Any, batch: Batch) -> Any:
            outcome = compare(student, targets, batch)
            return outcome._replace(loss=outcome.loss * factor) if student is victim else outcome

        self.method.compare = poisoned  # pyright: ignore

    def cure(self) -> None:
        """Takes the poison back."""
        del self.method.compare

    def snapshot(self, name: str) -> dict[str, Any]:
        """All that a student is."""
        state = self.states[name]
        moments = [training.full(x) for own in state.optimizer.state.values() for x in own.values()]
        return {
            "student": training.parameters(state.student),
            "ema": training.parameters(state.ema),
            "moments": dict(enumerate(moments)),
            "method": {key: value.clone() for key, value in self.method.state_dict().items()},
            "numbers": state.numbers(),
        }


def run(rank: int, size: int, options: Options, build: Build) -> dict[str, dict[str, Any]]:
    """By student: losses, terms and gradient norms of every step, and what the run ends with."""
    distilling = Distilling(options, build, rank, size)
    seen: dict[str, list[Tensor]] = {name: [] for name in options.students}
    for step in range(options.steps):
        for name, result in distilling.step(step).items():
            assert isinstance(result, StepResult)
            means = mean_over_processes(torch.stack([result.loss, *result.terms]))
            seen[name].append(torch.cat([means, torch.stack(list(result.grad_norms.values()))]))
    return {name: {"seen": torch.stack(rows), **distilling.snapshot(name)} for name, rows in seen.items()}


def run_plain(options: Options) -> dict[str, dict[str, Any]]:
    """On this process alone, without sharding."""
    return run(0, 1, options, plain)


def run_sharded(rank: int, options: Options) -> dict[str, dict[str, Any]]:
    """On the processes of the group."""
    return run(rank, dist.get_world_size(), options, sharded)
