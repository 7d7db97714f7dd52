"""Many linear classifiers of the same frozen features, trained at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dinotrain.data.permutation import key_of
from dinotrain.distributed.collectives import gather_rows

MOMENTUM = 0.9
_START_DEVIATION = 0.01

Loss = Literal["cross_entropy", "bce"]
"""Cross-entropy of the classes; or binary cross-entropy of every class, summed over classes."""


@dataclass(frozen=True)
class HeadInput:
    """What some heads see: part of the columns of the features."""

    name: str
    columns: slice


@dataclass(frozen=True)
class Classifier:
    """One trained head."""

    columns: slice
    weight: Float[Tensor, "d C"]
    bias: Float[Tensor, "C"]

    @property
    def classes(self) -> int:
        """How many it tells apart."""
        return len(self.bias)

    def logits(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Of features with all their columns, on the head's device."""
        return torch.addmm(self.bias, features[:, self.columns], self.weight)


@dataclass
class _Bank:
    """The heads of one input that this process trains, side by side as columns of one matrix."""

    columns: slice
    numbers: list[int]
    rates: Float[Tensor, "h*C"]
    """Learning rate of each column."""
    weight: Float[Tensor, "d h*C"]
    bias: Float[Tensor, "h*C"]
    weight_momentum: Float[Tensor, "d h*C"]
    bias_momentum: Float[Tensor, "h*C"]


class LinearHeads:
    """One head per input and learning rate, by SGD with momentum 0.9 and a cosine to 0 (DINOv2, section 7.1).

    The gradient of a linear layer under either loss is `features^T (probabilities - targets) / B`, so that all heads of
    one input take two matrix products a step, without autograd. Heads are dealt out to the processes; each sees
    the features of the whole global batch, so that nothing but features has to be exchanged. Heads of one input start
    from the same weights, normal with deviation 0.01, a function of (seed, input).

    Head number `i * len(learning_rates) + r` has input i and learning rate r.

    Args:
        inputs: what heads see.
        learning_rates: at the first step, for the batch that is given.
        classes: outputs of each head.
        steps: number of updates.
        loss: see `Loss`.
        seed: of the weights at the start.
        device: where heads are trained.
        rank, size: number of this process, and of all.
    """

    def __init__(
        self,
        inputs: Sequence[HeadInput],
        learning_rates: Sequence[float],
        *,
        classes: int,
        steps: int,
        loss: Loss = "cross_entropy",
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.inputs, self.learning_rates = tuple(inputs), tuple(learning_rates)
        self.classes, self.steps, self.loss, self.seed = classes, steps, loss, seed
        self.device = torch.device(device)
        self.step_number = 0
        mine = range(len(self))[rank::size]
        self._banks = [self._bank(number, mine) for number in range(len(self.inputs))]

    def __len__(self) -> int:
        return len(self.inputs) * len(self.learning_rates)

    def step(self, features: Float[Tensor, "B D"], targets: Float[Tensor, "B C"]) -> None:
        """One update of all heads; a batch may have fewer rows than others, but not none.

        Args:
            features: all columns, float32, on the device.
            targets: one (or, with "bce", any number) of the classes of each row 1, the others 0.
        """
        factor = 0.5 * (1 + math.cos(math.pi * self.step_number / self.steps))
        for bank in self._banks:
            if bank.numbers:
                self._update(bank, features[:, bank.columns], targets, factor)
        self.step_number += 1

    def classifiers(self) -> Iterator[tuple[int, Classifier]]:
        """Number and classifier of each head that this process trains."""
        for bank in self._banks:
            for number, weight, bias in zip(
                bank.numbers, bank.weight.split(self.classes, dim=1), bank.bias.split(self.classes)
            ):
                yield number, Classifier(bank.columns, weight, bias)

    def classifier(self, number: int) -> Classifier:
        """One head, handed to all processes, which call this together."""
        found = dict(self.classifiers()).get(number)
        if found is not None:
            rows = torch.cat([found.weight, found.bias.unsqueeze(0)])
        else:
            rows = torch.zeros(0, self.classes, device=self.device)
        rows = gather_rows(rows)
        return Classifier(self.inputs[number // len(self.learning_rates)].columns, rows[:-1], rows[-1])

    def _bank(self, number: int, mine: range) -> _Bank:
        of_input = range(number * len(self.learning_rates), (number + 1) * len(self.learning_rates))
        own = [head for head in of_input if head in mine]
        rates = torch.tensor([self.learning_rates[head - of_input.start] for head in own], device=self.device)
        columns = self.inputs[number].columns
        generator = torch.Generator().manual_seed(int(key_of(self.seed, number)[0]) % 2**63)
        first = torch.randn(columns.stop - columns.start, self.classes, generator=generator) * _START_DEVIATION
        weight = first.to(self.device).repeat(1, len(own))
        bias = torch.zeros(len(own) * self.classes, device=self.device)
        return _Bank(
            columns,
            own,
            rates.repeat_interleave(self.classes),
            weight,
            bias,
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )

    def _update(self, bank: _Bank, x: Float[Tensor, "B d"], targets: Float[Tensor, "B C"], factor: float) -> None:
        logits = torch.addmm(bank.bias, x, bank.weight).unflatten(1, (len(bank.numbers), self.classes))
        probabilities = logits.softmax(dim=-1) if self.loss == "cross_entropy" else logits.sigmoid()
        error = probabilities.sub_(targets.unsqueeze(1)).div_(x.shape[0]).flatten(1)
        bank.weight_momentum.addmm_(x.T, error, beta=MOMENTUM)
        bank.bias_momentum.mul_(MOMENTUM).add_(error.sum(dim=0))
        bank.weight.addcmul_(bank.weight_momentum, bank.rates, value=-factor)
        bank.bias.addcmul_(bank.bias_momentum, bank.rates, value=-factor)
