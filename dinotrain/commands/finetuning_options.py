"""The keys of configs/finetune.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.backbone_request import BackboneRequest
from dinotrain.data import arguments
from dinotrain.errors import UserError
from dinotrain.finetuning.recipe import KINDS, LAYER_DECAY, Head, Kind, default_lr, default_steps, optimization
from dinotrain.optim.recipe import OptimizationRecipe

GROUPS = ("data", "storage")
EVALUATIONS = 10
"""In a run, where nothing else is asked for."""
TRAINED_PER_VALIDATION = 3
"""Training images between two evaluations, at least, per validation image."""
CHOICES = {
    "head": tuple(KINDS),
    "labels": ("auto", "single", "multi"),
    "balance": ("none", "loss", "sampling"),
}


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest(BackboneRequest):
    """What is trained on what, and how; `configs/finetune.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    head: Head = "linear"
    labels: str = "auto"
    validation_root: str | None = None
    max_train: int | None = None
    max_validation: int | None = None
    steps: int | None = None
    batch: int = 64
    lr: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_grad: float | None = 3.0
    layer_decay: float | None = None
    drop_path: float | None = None
    balance: str = "none"
    label_smoothing: float = 0.0
    crop_scale: Sequence[float] = (0.6, 1.0)
    flip: float = 0.5
    color: float = 0.0
    seed: int = 0
    evaluate_every: int | None = None
    patience: int | None = 5
    micro_batch: int | None = None
    checkpoint_every: int = 100
    log_every: int = 10
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    name: str | None = None
    output_dir: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_computing()
        for key, known in CHOICES.items():
            self._one_of(key, known)
        self._text("validation_root", optional=True)
        self._check_place()
        try:
            self._check_numbers()
        except ValueError as error:
            raise UserError(str(error)) from error
        if not self.kind.trains_backbone:
            for key in ("layer_decay", "drop_path"):
                if getattr(self, key) is not None:
                    raise UserError(
                        f"{key}: got {getattr(self, key)}, but head={self.head} does not train the backbone; expected "
                        "head=full, or null"
                    )

    def _check_numbers(self) -> None:
        for key, least in (("batch", 1), ("checkpoint_every", 1), ("log_every", 1)):
            arguments.whole(key, getattr(self, key), least)
        arguments.whole("seed", self.seed, 0)
        for key in ("steps", "micro_batch", "evaluate_every", "patience", "max_train", "max_validation"):
            if getattr(self, key) is not None:
                arguments.whole(key, getattr(self, key), 1)
        for key in ("warmup", "weight_decay", "color"):
            arguments.number(key, getattr(self, key), 0)
        for key in ("lr", "clip_grad"):
            if getattr(self, key) is not None and not arguments.number(key, getattr(self, key), 0) > 0:
                raise ValueError(f"{key}: got {getattr(self, key)}, must be a number above 0")
        for key in ("drop_path", "label_smoothing"):
            if getattr(self, key) is not None and not arguments.share(key, getattr(self, key)) < 1:
                raise ValueError(f"{key}: got {getattr(self, key)}, must be a number below 1")
        if self.layer_decay is not None and not arguments.share("layer_decay", self.layer_decay) > 0:
            raise ValueError(f"layer_decay: got {self.layer_decay}, must be a number in (0, 1]")
        arguments.share("flip", self.flip)
        arguments.interval("crop_scale", self.crop_scale, 1.0)

    @property
    def kind(self) -> Kind:
        """What the head is on, and whether all is trained."""
        return KINDS[self.head]

    def recipe(self, images: int, channels: int) -> OptimizationRecipe:
        """The optimisation, with what was left open filled in.

        Args:
            images: for training.
            channels: that the head takes.

        Raises:
            UserError: if the warm-up takes all steps.
        """
        try:
            return optimization(
                steps=self.steps or default_steps(images, self.batch),
                batch=self.batch,
                micro_batch=self.micro_batch,
                lr=self.lr or default_lr(self.head, self.batch, channels),
                warmup=self.warmup,
                weight_decay=self.weight_decay,
                clip_grad=self.clip_grad,
                layer_decay=self.layer_decay or (LAYER_DECAY if self.kind.trains_backbone else 1.0),
            )
        except ValueError as error:
            raise UserError(str(error).replace("optim.", "")) from error

    def steps_between(self, steps: int, validation: int) -> int:
        """From one evaluation to the next, in a run of so many steps, with so many validation images."""
        return self.evaluate_every or max(steps // EVALUATIONS, TRAINED_PER_VALIDATION * validation // self.batch, 1)


def request_of(config: DictConfig) -> FinetuneRequest:
    """The keys that are not of a group.

    Raises:
        UserError: for a value that is refused.
    """
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}: got {config[group]!r}, expected the keys of that group")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return FinetuneRequest(**{str(key): value for key, value in plain.items() if key not in GROUPS})


def run_folder(request: FinetuneRequest, data: str) -> Path:
    """The folder that was named, or one for these images and this head."""
    return Path(request.output_dir or Path("runs") / (request.name or f"finetune_{data}_{request.head}"))
