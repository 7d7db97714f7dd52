"""A student with everything that is its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dinotrain.optim.recipe import StepValues
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.recorder import Evaluated, Recorder
from dinotrain.training.state import TrainState
from dinotrain.training.step import NonFiniteError

Evaluate = Callable[[int], Evaluated | None]
"""Evaluates the moving average after a step; all processes together. None if a stop was asked for before the end."""


@dataclass
class Learner:
    """One student of a run: its state, and where its records and checkpoints go."""

    name: str
    """Tells several students apart; empty for a single one."""
    state: TrainState
    recorder: Recorder
    checkpointer: Checkpointer
    evaluate: Evaluate
    run_dir: Path
    baselines: Callable[[], Evaluated | None]
    """Evaluates what the student is held against, before its first step; None likewise."""
    failure: str | None = None
    """Why it was given up, in one line."""

    def give_up(self, error: NonFiniteError, values: StepValues, samples: list[str]) -> None:
        """Write down what led to numbers that are not finite, and keep what to tell the user."""
        rank, step = self.recorder.world.rank, self.state.step
        path = self.run_dir / f"nonfinite_step_{step}_process_{rank}.json"
        seen = {"samples": samples, "last": self.recorder.last}
        path.write_text(json.dumps({"error": str(error), "step": step, **values._asdict(), **seen}, indent=1))
        self.failure = (
            f"{self.name}{': ' if self.name else ''}{error}; nothing was updated; the samples and the last metrics are "
            f"in {path}; a smaller optim.base_lr or runtime.precision=fp32 often helps"
        )
