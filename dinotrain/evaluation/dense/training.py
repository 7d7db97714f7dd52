"""Training of dense heads on a frozen backbone: several at once, on the same views."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.data.broken import BrokenImage
from dinotrain.data.dense import DenseSource, Target
from dinotrain.data.order import Shuffled
from dinotrain.distributed.collectives import gather_rows, mean_over_processes
from dinotrain.errors import UserError
from dinotrain.evaluation.dense.head import DenseHead
from dinotrain.evaluation.dense.views import DenseViews, View
from dinotrain.evaluation.reading import read_batches
from dinotrain.evaluation.setting import Setting

_POINTS = 100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW with a linear warm-up.

    Args:
        batch: images per step, over all processes.
        learning_rate: at its highest.
        warmup: share of the steps in which it rises from 0.
        schedule: how it falls to 0: "poly", a straight line from what it would be without warm-up; "cosine".
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup: float
    schedule: Literal["poly", "cosine"]

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = self.warmup * self.steps
        factor = min((step + 1) / rising, 1.0) if rising else 1.0
        if self.schedule == "poly":
            return self.learning_rate * factor * (1 - step / self.steps)
        past = max(step - rising, 0.0) / max(self.steps - rising, 1.0)
        return self.learning_rate * factor * 0.5 * (1 + math.cos(math.pi * past))


class Trained(NamedTuple):
    """What there is to tell of a training."""

    losses: dict[str, tuple[tuple[float, float], ...]]
    """(step, mean loss of the steps up to it) for each head."""
    broken: tuple[int, ...]
    """Numbers of the images that could not be read; others took their places."""


def train_heads(
    heads: Mapping[str, DenseHead],
    setting: Setting,
    *,
    target: Target,
    views: DenseViews,
    features: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B C h w"]],
    loss: Callable[[Float[Tensor, "B K h w"], Tensor], Float[Tensor, ""]],
    recipe: Recipe,
) -> Trained:
    """Train the heads in place, on the images of `setting.train`.

    Each process computes the features of its share of a batch; then all have the whole batch and make the same step, so
    that statistics and gradients are those of one process.
    """
    reader = _Reader(setting, target, views)
    parameters = [parameter for head in heads.values() for parameter in head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    history: dict[str, list[Tensor]] = {name: [] for name in heads}
    batches = read_batches(reader, _positions(recipe, setting), threads=setting.threads, fetch=reader.fetch)
    with setting.progress("Training the head" + "s" * (len(heads) > 1), recipe.steps, "steps") as report:
        for step, drawn in enumerate(batches):
            setting.tick()
            x, wanted = _global_batch(drawn, setting, features, recipe)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            optimizer.zero_grad()
            for name, head in heads.items():
                value = loss(head(x), wanted)
                value.backward()
                history[name].append(value.detach())
            optimizer.step()
            report(step + 1)
    _settle(heads)
    broken = sorted(set().union(*setting.world.gather(reader.broken)))
    return Trained({name: _course(values) for name, values in history.items()}, tuple(broken))


class _Reader:
    """Makes the view at a position of the training sequence; another image stands in for one that can't be read."""

    def __init__(self, setting: Setting, target: Target, views: DenseViews) -> None:
        source = setting.train.source
        assert isinstance(source, DenseSource)
        self.source, self.indices, self.views = source, setting.train.indices, views
        self.target: Target = target
        self.order, self.seed = Shuffled(len(setting.train)), setting.seed
        self.broken: set[int] = set()

    def __call__(self, position: int) -> View:
        for row in self._candidates(position):
            index = int(self.indices[row])
            try:
                image, wanted = self.source.pair(index, self.target)
            except BrokenImage:
                self.broken.add(index)
            else:
                return self.views(image, wanted, position)
        raise UserError(f"data: none of the {len(self.indices)} training images could be read with its {self.target}")

    def fetch(self, positions: Sequence[int]) -> None:
        self.source.fetch(self.indices[self.order(np.array(positions), self.seed)].tolist())

    def _candidates(self, position: int) -> Iterator[int]:
        yield int(self.order(np.array([position]), self.seed)[0])
        yield from self.order.replacements(position, self.seed)


def _shares(recipe: Recipe, setting: Setting) -> tuple[int, int]:
    """Images that every process computes in a step, and how many of this process's are not repeats."""
    share = -(-recipe.batch // setting.world.size)
    return share, min(max(recipe.batch - setting.world.rank * share, 0), share)


def _positions(recipe: Recipe, setting: Setting) -> Iterator[list[int]]:
    """This process's positions of each step, filled up so that all processes call the network alike."""
    share, own = _shares(recipe, setting)
    for step in range(recipe.steps):
        first = step * recipe.batch
        start = first + setting.world.rank * share
        yield [*range(start, start + own), *[first] * (share - own)]


def _global_batch(
    drawn: list[View | None], setting: Setting, features: Callable[[Tensor], Tensor], recipe: Recipe
) -> tuple[Float[Tensor, "B C h w"], Tensor]:
    """Features and targets of a step, of all processes."""
    found = [view for view in drawn if view is not None]
    pixels = torch.stack([view.pixels for view in found])
    parts = [features(setting.backbone.normalize(part)) for part in pixels.split(setting.batch)]
    own = _shares(recipe, setting)[1]
    target = torch.stack([view.target for view in found]).to(setting.world.device)
    return gather_rows(torch.cat(parts)[:own]), gather_rows(target[:own])


@torch.no_grad()
def _settle(heads: Mapping[str, nn.Module]) -> None:
    """Make the heads equal to the last bit on all processes, whose devices may differ."""
    for head in heads.values():
        for value in head.state_dict().values():
            if value.is_floating_point():
                mean_over_processes(value)
        head.eval()


def _course(values: list[Tensor]) -> tuple[tuple[float, float], ...]:
    """At most about a hundred means of neighbouring steps."""
    width = -(-len(values) // _POINTS)
    parts = torch.stack(values).split(width)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return tuple((float(end), float(part.mean())) for end, part in zip(ends, parts))
