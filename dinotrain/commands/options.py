"""The settings that say how a run is carried out, not what it learns; one class for each group of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST_MINUTES = 60 * 24 * 7

TRAINING_TASKS = ("knn", "logistic", "linear", "retrieval", "clusters")
"""What can be evaluated while training, on the labelled images of k-NN."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Keys `checkpoint.*`: how often to save, in steps, and what to keep."""

    every: int
    keep_last: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, "checkpoint.every", self.every)
        _at_least(1, "checkpoint.keep_last", self.keep_last)
        if self.keep_every is not None:
            _at_least(1, "checkpoint.keep_every", self.keep_every)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Keys `resume.*`: going on with what is in the run folder.

    `checkpoint` names one checkpoint folder instead of the latest; `allow_changes` lets keys of the recipe differ from
    those the run was started with.
    """

    enabled: bool = True
    checkpoint: str | None = None
    allow_changes: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Keys `evaluation.*`: labelled images and pictures while training; `every` null for the end only.

    `train_root` and `test_root` are folders with one sub-folder per class; without them the labels of the training
    source are used, if it has any.
    """

    every: int | None
    tasks: Sequence[str] = ("knn",)
    train_root: str | None = None
    test_root: str | None = None
    max_train: int | None = 50_000
    max_test: int | None = 10_000
    size: int | None = None
    crop_fraction: float = 0.875
    batch: int = 128
    k: Sequence[int] = (10, 20, 100, 200)
    temperature: float = 0.07
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.every is not None:
            _at_least(1, "evaluation.every", self.every)
        for task in self.tasks:
            if task not in TRAINING_TASKS:
                raise ValueError(
                    f"evaluation.tasks: got {task!r}, expected some of {', '.join(TRAINING_TASKS)}; "
                    "python -m dinotrain.evaluate watch RUN carries out the others beside the training"
                )
        for name, least in (("batch", 1), ("max_train", 1), ("max_test", 1), ("size", 1), ("pictures", 0)):
            value = getattr(self, name)
            if value is not None:
                _at_least(least, f"evaluation.{name}", value)
        if not self.k or min(self.k) < 1:
            raise ValueError(f"evaluation.k: got {list(self.k)}, expected numbers of neighbours, e.g. [10,20]")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"evaluation.crop_fraction: got {self.crop_fraction}, expected a share in (0, 1]")
        _above_zero("evaluation.temperature", self.temperature)
        if self.test_root is not None and self.train_root is None:
            raise ValueError("evaluation.test_root: got a folder without evaluation.train_root, expected both")


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Keys `train.*`: weights to begin with instead of random ones, in any format that can be read.

    `part` of one of our runs: teacher, ema or student; `num_heads` of the attention only where the file can't tell.
    Projection heads are taken from the file, too, unless it has none or `new_heads` is set; new ones are trained alone
    for the first `freeze_backbone` steps (below 1: share of the run).
    """

    start_from: str | None = None
    part: Literal["teacher", "ema", "student"] | None = None
    num_heads: int | None = None
    new_heads: bool = False
    freeze_backbone: float = 0.02

    def __post_init__(self) -> None:
        if self.num_heads is not None:
            _at_least(1, "train.num_heads", self.num_heads)
        if not self.freeze_backbone >= 0:
            raise ValueError(f"train.freeze_backbone: got {self.freeze_backbone}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Keys `teacher.*`: the frozen teacher of a distillation.

    `weights` in any format that can be read; `part` of one of our runs: teacher, ema or student; `num_heads` only where
    the file can't tell; `size` in px that it sees the global crops in, null for theirs, or for the student's patch grid
    where its patches don't fit them; `mean` and `std` of the images it was trained on, null for what the file says, or
    else ImageNet's.
    """

    weights: str | None = None
    part: Literal["teacher", "ema", "student"] | None = None
    num_heads: int | None = None
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("num_heads", "size"):
            value = getattr(self, name)
            if value is not None:
                _at_least(1, f"teacher.{name}", value)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (name == "std" and min(values) <= 0)):
                raise ValueError(f"teacher.{name}: got {list(values)}, expected three numbers, of images in 0..1")


@dataclass(frozen=True, kw_only=True)
class StudentHead:
    """Keys `method.dino_head.*` and `method.ibot_head.*` of a distilled student; null: as in the teacher's head."""

    hidden_dim: int | None = None
    bottleneck_dim: int | None = None
    num_prototypes: int | None = None
    num_layers: int | None = None
    init_std: float | None = 0.02


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """Keys `parallel.*`: how networks are spread over processes.

    `shard_size`: processes that share one copy of the networks (HSDP beyond them); null for all. A run that does not
    go on is ended with a report of where every process is: after `timeout_minutes` within a step, and after
    `start_timeout_minutes` before there were a few, in evaluations and while a checkpoint is saved.
    """

    shard_size: int | None = None
    reshard_after_forward: bool = True
    start_timeout_minutes: float = 30.0
    timeout_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("start_timeout_minutes", "timeout_minutes"):
            if not 0 < (value := getattr(self, name)) <= LONGEST_MINUTES:
                raise ValueError(f"parallel.{name}: got {value}, expected more than 0, at most {LONGEST_MINUTES}")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Keys `runtime.*`: what the step runs on."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    workers: int | None = None
    prefetch: int = 2
    augment: Literal["auto", "device", "workers"] = "auto"
    compile_augment: bool = False
    initial_loss_scale: float = 65536.0

    def __post_init__(self) -> None:
        if self.workers is not None:
            _at_least(0, "runtime.workers", self.workers)
        _at_least(1, "runtime.prefetch", self.prefetch)
        if self.compile_augment and self.augment == "workers":
            raise ValueError("runtime.compile_augment: got true, expected false with runtime.augment=workers")
        _above_zero("runtime.initial_loss_scale", self.initial_loss_scale)


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """Keys `logging.*`: trackers beside `metrics.jsonl`."""

    wandb: Literal["disabled", "online", "offline"] = "disabled"
    wandb_project: str = "dinotrain"
    tensorboard: bool = False


def _at_least(least: int, key: str, got: int) -> None:
    if got < least:
        raise ValueError(f"{key}: got {got}, expected at least {least}")


def _above_zero(key: str, got: float) -> None:
    if not got > 0:
        raise ValueError(f"{key}: got {got}, expected a number above 0")
