"""Everything that a student is, between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dinotrain.optim.ema import MovingAverage


@dataclass
class TrainState:
    """Networks, method, optimizer and scaler of this process, and the number of updates done.

    There is no random state: all draws are functions of the seed and the step.
    """

    student: nn.Module
    ema: nn.Module
    """The moving average of the student: what is evaluated, and the teacher of self-distillation."""
    method: Any
    """Says what the targets are and compares the student with them; several students of a run share it."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    """Moves `ema`."""
    seed: int
    ema_name: Literal["teacher", "ema"] = "teacher"
    """What the moving average is called in checkpoints: "ema" where it teaches nobody."""
    step: int = 0
    skipped_steps: int = 0

    def tensors(self) -> dict:
        """All tensors by name, the very ones in use, for saving and for loading into."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.student.named_parameters()}
        return {
            "student": dict(self.student.named_parameters()),
            self.ema_name: dict(self.ema.named_parameters()),
            "method": dict(self.method.state_dict()),
            "optimizer": {names[parameter]: dict(state) for parameter, state in self.optimizer.state.items()},
        }

    def numbers(self) -> dict:
        """What is not a tensor, as JSON."""
        scaler = self.scaler.state_dict()
        return {"step": self.step, "seed": self.seed, "skipped_steps": self.skipped_steps, "scaler": scaler}

    def set_numbers(self, numbers: dict) -> None:
        """Take over what `numbers` gave."""
        self.step, self.skipped_steps = numbers["step"], numbers["skipped_steps"]
        if self.scaler.is_enabled() and numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])
