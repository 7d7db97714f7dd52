"""What a run of finetune writes and says before its first step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.classifiers.classifier import Classifier
from dinotrain.commands.config import without_secrets
from dinotrain.commands.finetuning_images import LabelledImages
from dinotrain.commands.finetuning_options import FinetuneRequest
from dinotrain.commands.finetuning_start import Start
from dinotrain.commands.parameter_table import parameter_table
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.world import World
from dinotrain.finetuning.records import Records
from dinotrain.finetuning.state import FinetuneState
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.reporting.environment import environment
from dinotrain.training.display import Display
from dinotrain.training.metrics import MetricsFile


@dataclass(frozen=True)
class Subject:
    """What is trained on what."""

    config: DictConfig
    request: FinetuneRequest
    images: LabelledImages
    start: Start
    classifier: Classifier
    precision: str
    done: tuple[str, ...]
    """To the weights, in words."""

    @property
    def text(self) -> str:
        """The configuration as YAML, without secrets."""
        return OmegaConf.to_yaml(without_secrets(self.config))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user is told."""
        return (*self.start.notes, *self.done, *self.images.notes)


def begin_records(folder: Path, subject: Subject, state: FinetuneState, world: World, display: Display) -> Records:
    """Write what is known at the start, and bring the metrics to the state's step; all processes together."""
    metrics = MetricsFile(folder / "metrics.jsonl")
    restarted = world.main and bool(metrics.rows())
    if world.main:
        metrics.truncate(state.step if state.step else -1)
        (folder / "config.yaml").write_text(subject.text)
        (folder / "environment.json").write_text(json.dumps(environment(world.size), indent=1))
        (folder / "parameters.txt").write_text(parameter_table(state.student, state.optimizer))
        (folder / "skipped.txt").touch()
    world.barrier()
    rows = metrics.rows() if state.step else []
    source = subject.images.train.source
    records = Records(
        world,
        metrics=metrics,
        display=display,
        skips=SkipLog(folder / "skipped.txt", length=len(source), max_fraction=subject.config.data.max_broken),
        earlier_seconds=max((row.get("time") or 0.0 for row in rows), default=0.0),
    )
    if restarted:
        records.event("resume", state.step, attempt=world.attempt)
    return records


def introduce(
    subject: Subject, recipe: OptimizationRecipe, state: FinetuneState, world: World, display: Display
) -> None:
    """Say what will run."""
    request, images, weights = subject.request, subject.images, subject.start.weights
    trained = sum(parameter.numel() for parameter in state.student.parameters())
    passes = recipe.steps * recipe.global_batch / len(images.train)
    description = subject.classifier.description
    what = "all of it" if request.kind.trains_backbone else "the head alone"
    display.banner(
        [
            ("weights", f"{weights.path}: {weights.layout}, {weights.architecture.brief()}"),
            ("head", f"{request.head}, {images.labels}-label; trained: {what}, {trained:,} parameters"),
            ("images", f"{len(images.train):,} training, {len(images.validation):,} validation"),
            ("classes", f"{len(images.classes):,}: {_listed(images.classes)}"),
            ("input", f"{description.size} px, crop {description.crop_fraction:g}"),
            ("steps", f"{recipe.steps:,} of {recipe.global_batch} images, {passes:.1f} passes"),
            ("learning rate", f"{recipe.lr:.3g}{_decay(recipe)}"),
            ("machine", f"{world.size} x {world.device.type}, {subject.precision}"),
            *[("note", note) for note in subject.notes],
        ]
    )


def _listed(classes: tuple[str, ...], shown: int = 6) -> str:
    return ", ".join(classes[:shown]) + (" ..." if len(classes) > shown else "")


def _decay(recipe: OptimizationRecipe) -> str:
    return "" if recipe.layerwise_decay == 1 else f", times {recipe.layerwise_decay:g} per block from the head down"
