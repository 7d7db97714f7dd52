"""Beginning with given weights instead of random ones."""

from __future__ import annotations

from collections.abc import Sequence

from dinotrain.commands.settings import Settings
from dinotrain.errors import UserError
from dinotrain.models.networks import HEADS
from dinotrain.training.state import TrainState
from dinotrain.weights.fit import load_into
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights


def read_opening(settings: Settings) -> Weights | None:
    """The weights that `train.start_from` names, with the heads that are to be taken over.

    Raises:
        UserError: if they can't be read, or not with these heads.
    """
    options, config = settings.train, settings.config
    if options.start_from is None:
        return None
    try:
        weights = read_weights(options.start_from, part=options.part, num_heads=options.num_heads)
    except UserError as error:
        raise UserError(f"train.start_from: {error}") from error
    theirs = weights.architecture
    # Of another width, the shapes say better what is wrong.
    if theirs.embed_dim == config.model.embed_dim and theirs.num_heads != config.model.num_heads:
        raise UserError(
            f"train.start_from: {weights.path} has {theirs.num_heads} attention heads, model.num_heads is "
            f"{config.model.num_heads}; set model.num_heads={theirs.num_heads} (or train.num_heads="
            f"{config.model.num_heads}, where nothing in the file says its number, and {theirs.num_heads} was a guess)"
        )
    if options.new_heads or not weights.heads or settings.teacher is not None:
        return weights.without_heads()
    here = {name for name in HEADS if config.method.get(name) is not None}
    if here != set(weights.heads):
        raise UserError(
            f"train.start_from: {weights.path} has {' and '.join(sorted(weights.heads))}, this run "
            f"{' and '.join(sorted(here))}; expected a method with the same heads (method=dinov2 has two, "
            "method=dinov2_shared one), or train.new_heads=true"
        )
    return weights


def begin_with(state: TrainState, opening: Weights) -> list[str]:
    """Fill the student's backbone, and its heads where there are any; the moving average starts as the student.

    Returns:
        What was done to the weights, in words.

    Raises:
        UserError: if they do not fit.
    """
    parts, done = {"backbone": opening.backbone, **opening.heads}, []
    for name, tensors in parts.items():
        try:
            done += load_into(state.student.get_submodule(name), tensors, path=opening.path, what=name)
        except UserError as error:
            hint = "" if name == "backbone" else "; or leave them where they are: train.new_heads=true"
            raise UserError(f"train.start_from: {error}{hint}") from error
    state.average.copy()
    return done


def frozen_steps(settings: Settings, opening: Weights | None) -> int:
    """For how many steps the backbone is kept as it was read, while new heads are trained.

    Raises:
        UserError: if nothing of the run would be left for the backbone.
    """
    if opening is None or opening.heads:
        return 0
    value, steps = settings.train.freeze_backbone, settings.recipe.steps
    found = settings.recipe.in_steps(value)
    if found >= max(steps, 2):
        raise UserError(
            f"train.freeze_backbone: got {value:g}, expected a share of the run below 1, or less than optim.steps = "
            f"{steps}: the backbone would never be trained"
        )
    return found


def opening_words(settings: Settings, opening: Weights, done: Sequence[str], frozen: int) -> str:
    """What the banner says of it; `done` is what was done to the weights."""
    model, theirs = settings.config.model, opening.architecture
    parts = [f"{opening.path} ({opening.layout})", *opening.notes, *done]
    if theirs.norm_eps != model.norm_eps:
        parts.append(f"trained with model.norm_eps={theirs.norm_eps:g}, here {model.norm_eps:g}")
    if opening.normalization is not None and _far(opening.normalization, settings):
        mean, std = (",".join(f"{x:g}" for x in values) for values in opening.normalization)
        parts.append(f"trained on images normalised otherwise (data.mean=[{mean}] data.std=[{std}])")
    parts.append("with its heads" if opening.heads else f"heads new; backbone {_frozen(frozen)}")
    return "; ".join(parts)


def _frozen(steps: int) -> str:
    return f"frozen for the first {steps} step{'s' * (steps > 1)}" if steps else "trained from the first step on"


def _far(normalization: tuple, settings: Settings) -> bool:
    here = (settings.config.data.mean, settings.config.data.std)
    return any(abs(a - b) > 1e-3 for one, other in zip(normalization, here) for a, b in zip(one, other))
