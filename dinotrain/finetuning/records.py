"""What a person and the run folder get to see of the steps."""

from __future__ import annotations

import time

import torch

from dinotrain.data.skips import SkipLog
from dinotrain.distributed.collectives import mean_over_processes
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.finetuning.scores import Measured
from dinotrain.optim.recipe import StepValues
from dinotrain.training.display import Display
from dinotrain.training.meter import Window
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.recorder import Row, peak_memory_gb
from dinotrain.training.state import TrainState
from dinotrain.training.step import StepResult

VALIDATION = "validation_"


class Records:
    """One row per logged step and per evaluation; all processes call its methods together, the main one writes.

    Args:
        earlier_seconds: time that the run took before it was resumed.
    """

    def __init__(
        self,
        world: World,
        *,
        metrics: MetricsFile,
        display: Display,
        skips: SkipLog,
        earlier_seconds: float = 0.0,
    ) -> None:
        self.world, self.metrics, self.display, self.skips = world, metrics, display, skips
        self._started = time.monotonic() - earlier_seconds

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts included."""
        return time.monotonic() - self._started

    def step(self, state: TrainState, result: StepResult, values: StepValues, window: Window) -> None:
        """Write the row of a step.

        Raises:
            UserError: if too many images are broken.
        """
        self._note_skipped(window)
        loss, waited = mean_over_processes(torch.stack([result.loss, result.loss.new_tensor(window.waited)])).tolist()
        row: Row = {
            "step": state.step,
            "time": round(self.seconds, 3),
            "loss": loss,
            "lr": values.lr,
            "weight_decay": values.weight_decay,
            **{f"grad_norm_{name}": norm.item() for name, norm in result.grad_norms.items()},
            "images_per_second": window.images_per_second,
            "data_wait": waited,
            "memory_gb": peak_memory_gb(self.world.device),
            "loss_scale": state.scaler.get_scale() if state.scaler.is_enabled() else None,
            "skipped_steps": state.skipped_steps,
            "skipped_files": len(self.skips),
        }
        self._write(row)

    def evaluation(self, step: int, measured: Measured, *, best: bool) -> None:
        """Write what was measured on the validation images; once, also if it was measured again."""
        if not self.world.main or any(row["step"] == step and row.get("evaluated") for row in self.metrics.rows()):
            return
        numbers = {f"{VALIDATION}{name}": value for name, value in measured.numbers.items()}
        self._write({"step": step, "time": round(self.seconds, 3), "evaluated": 1, **numbers})
        words = [
            f"{name.replace('_', ' ')} {value:.4f}" if name == "loss" else f"{name.replace('_', ' ')} {value:.1f} %"
            for name, value in measured.numbers.items()
        ]
        self.display.message(f"step {step}  validation: {', '.join(words)}{'  (best so far)' * best}")

    def event(self, name: str, step: int, **facts: str | None) -> None:
        """Note that something happened to the run."""
        if self.world.main:
            self.metrics.append({"step": step, "time": round(self.seconds, 3), "event": name, **facts})

    def _write(self, row: Row) -> None:
        if self.world.main:
            self.metrics.append(row)
            self.display.update(row)

    def _note_skipped(self, window: Window) -> None:
        """Write down broken images; stops all processes together when there are too many."""
        problem = ""
        if self.world.main and window.skipped:
            try:
                self.skips.add(window.skipped)
            except UserError as error:
                problem = str(error)
        found = [text for text in self.world.gather(problem) if text]
        if found:
            raise UserError(found[0])
