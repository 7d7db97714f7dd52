"""What is trained, between two steps, and the best of it so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dinotrain.optim.ema import MovingAverage
from dinotrain.training.state import TrainState


class BestWeights(MovingAverage):
    """A copy of the weights from when they were best: taken and given back when asked, moved by no step."""

    def update(self, momentum: float) -> None:
        """Steps do not move it."""

    @torch.no_grad()
    def restore(self) -> None:
        """Make what is trained equal to the copy."""
        torch._foreach_copy_(self._student, self._teacher)


@dataclass(kw_only=True)
class Progress:
    """How the evaluations have gone."""

    evaluated: int = -1
    """The step of the last one; -1 before the first."""
    best_step: int = -1
    best_value: float = 0.0
    """The headline of the validation, in percent."""
    best_loss: float = 0.0
    worse: int = 0
    """Evaluations since the best one."""

    def note(self, step: int, value: float, loss: float) -> bool:
        """Take note of an evaluation; returns whether it is the best: a higher number, or the same and less loss."""
        better = self.best_step < 0 or (value, -loss) > (self.best_value, -self.best_loss)
        self.evaluated, self.worse = step, 0 if better else self.worse + 1
        if better:
            self.best_step, self.best_value, self.best_loss = step, value, loss
        return better


@dataclass(kw_only=True)
class FinetuneState(TrainState):
    """`student` is what is trained: the classifier, or its head alone; `ema` its best weights so far."""

    average: BestWeights
    progress: Progress

    def numbers(self) -> dict:
        return super().numbers() | {"progress": vars(self.progress)}

    def set_numbers(self, numbers: dict) -> None:
        super().set_numbers(numbers)
        self.progress = Progress(**numbers["progress"])
