"""What a run says of itself before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dinotrain.commands.assembly import Plan
from dinotrain.commands.roster import Entry
from dinotrain.commands.settings import Settings
from dinotrain.commands.teacher import teacher_size
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.training.state import TrainState


def banner(entries: Sequence[Entry], plan: Plan, world: World) -> list[tuple[str, str]]:
    """(name, value) pairs: data, batch, schedule, teacher, size, parallel plan, precision, where it goes."""
    settings = entries[0].settings
    recipe, source = settings.recipe, settings.source
    epochs = recipe.steps * recipe.global_batch / len(source)
    rule = {"none": "as given", "sqrt": "sqrt rule", "linear": "linear rule"}[recipe.lr_rule]
    return [
        *[("run", f"{entry.settings.config.name} in {entry.settings.run_dir}") for entry in entries],
        *[("begins with", entry.opening) for entry in entries if entry.opening is not None],
        ("data", f"{len(source):,} images, {_labels(source)}"),
        (
            "steps",
            f"{recipe.steps:,}: {epochs:,.1f} epochs of {len(source) / recipe.global_batch:,.1f} steps",
        ),
        (
            "global batch",
            f"{recipe.global_batch} = {world.size} process{'es' * (world.size > 1)} x {plan.micro_batch}"
            f" x {plan.accumulation} accumulated" + _seen_by_losses(settings, plan, world),
        ),
        ("learning rate", f"{recipe.lr:.3g} at the peak ({recipe.base_lr:g} at {recipe.lr_reference_batch}, {rule})"),
        *[("tokens per step", _named(entry, f"{tokens_per_step(entry.settings):,}")) for entry in entries],
        *[("parameters", _named(entry, _size(entry) + _parameters(entry.state))) for entry in entries],
        *([("frozen teacher", _teacher(settings, plan))] if settings.teacher is not None else []),
        ("sharding", _sharding(settings, world)),
        ("precision", f"{plan.precision}, master weights fp32"),
        ("attention", f"{plan.attention} (available here: {', '.join(plan.attention_available)})"),
        ("data workers", f"{plan.workers} per process; colours and blur {_augmented(plan)}"),
    ]


def _named(entry: Entry, text: str) -> str:
    return f"{entry.settings.student}: {text}" if entry.settings.student else text


def _labels(source: Source) -> str:
    if source.labels is None:
        return "no labels"
    classes = len(source.classes) if source.classes else len(np.unique(source.labels))
    return f"{classes} classes (for k-NN only)"


def _teacher(settings: Settings, plan: Plan) -> str:
    weights = settings.teacher
    assert weights is not None
    size = teacher_size(settings.config, weights) or settings.config.crops.global_size
    count = sum(math.prod(shape) for shape in weights.architecture.shapes().values())
    parts = [f"{weights.path} ({weights.layout})", f"{weights.architecture.brief()}, {count / 1e6:,.1f} M parameters"]
    parts += [f"held in {plan.precision}, sees the global crops in {size} px", *weights.notes]
    if weights.normalization is None and settings.config.teacher.mean is None:
        parts.append(
            "its source does not say how its images were normalised: as ImageNet's (teacher.mean, teacher.std)"
        )
    return "; ".join(parts)


def tokens_per_step(settings: Settings) -> int:
    """Tokens that a student sees in one step, CLS and registers included."""
    crops, model = settings.config.crops, settings.config.model
    extra = 1 + model.num_registers

    def tokens(size: int) -> int:
        return (size // model.patch_size) ** 2 + extra

    return settings.recipe.global_batch * (2 * tokens(crops.global_size) + crops.num_local * tokens(crops.local_size))


def _augmented(plan: Plan) -> str:
    return "in the workers" if plan.augment_in_workers else "on the device"


def _seen_by_losses(settings: Settings, plan: Plan, world: World) -> str:
    """Which losses see less than the global batch when gradients are accumulated."""
    objective = settings.config.method.objective
    parts = []
    if objective.get("koleo_weight"):
        parts.append(f"KoLeo looks among {plan.micro_batch} images")
    if objective.get("targets") == "sinkhorn":
        parts.append(f"Sinkhorn-Knopp balances over {plan.micro_batch * world.size}")
    return f"; {', '.join(parts)}" if parts and plan.accumulation > 1 else ""


def _parameters(state: TrainState) -> str:
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in state.student.named_children()}
    return ", ".join(f"{name} {_count(count)}" for name, count in counts.items())


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 100_000 else f"{number / 1e3:,.1f} K"


def _size(entry: Entry) -> str:
    model = entry.settings.config.model
    registers = f", {model.num_registers} registers" if model.num_registers else ""
    return f"{model.depth} blocks x {model.embed_dim} channels, patch {model.patch_size}{registers}: "


def _sharding(settings: Settings, world: World) -> str:
    if world.size == 1:
        return "one process holds everything (FSDP over 1)"
    size = settings.parallel.shard_size or world.size
    copies = world.size // size
    text = f"all networks and AdamW state over {size} processes"
    return text if copies == 1 else f"{text}, {copies} copies (HSDP)"
