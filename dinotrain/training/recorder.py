"""From what a step did to what a person and the run folder get to see."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from dinotrain.data.batch import Skipped
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.collectives import mean_over_processes
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.optim.recipe import StepValues
from dinotrain.training.advice import Advisor
from dinotrain.training.display import Display
from dinotrain.training.health import health
from dinotrain.training.meter import Window
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.state import TrainState
from dinotrain.training.step import StepResult
from dinotrain.training.trackers import Trackers

Row = dict[str, float | int | str | None]


class Evaluated(NamedTuple):
    """What an evaluation found: numbers by name, and pictures it drew."""

    numbers: dict[str, float]
    pictures: tuple[Path, ...] = ()


class Recorder:
    """Collects, reduces over processes, and hands out one row per logged step.

    All processes call its methods together; files and the screen are the main process's.

    Args:
        gpu_power: watts that this process's GPU draws; None where that is not known.
        earlier_seconds: time that the run took before it was resumed.
        restarted: whether there are records of the run already; known to the main process.
        name: of the student, where there are several.
    """

    def __init__(
        self,
        world: World,
        *,
        metrics: MetricsFile,
        display: Display,
        trackers: Trackers,
        advisor: Advisor,
        skips: SkipLog,
        gpu_power: Callable[[], float | None],
        earlier_seconds: float = 0.0,
        restarted: bool = False,
        name: str = "",
    ) -> None:
        self.world, self.metrics, self.display, self.trackers = world, metrics, display, trackers
        self.advisor, self.skips, self.name, self.restarted = advisor, skips, name, restarted
        self._gpu_power = gpu_power
        self._started = time.monotonic() - earlier_seconds
        self.last: Row = {}

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts included."""
        return time.monotonic() - self._started

    def log(self, state: TrainState, result: StepResult, values: StepValues, window: Window) -> None:
        """Write the row of a step."""
        self._report_skipped(window.skipped)
        watts = self._gpu_power()
        own = result.loss.new_tensor([window.waited, watts or 0.0])
        means = mean_over_processes(torch.cat([torch.stack([result.loss, *result.terms]), own]))
        loss, *terms, waited, mean_watts = means.tolist()
        prototypes = result.observed.prototypes is not None
        row: Row = {
            "step": state.step,
            "time": round(self.seconds, 3),
            "loss": loss,
            **{f"{name}_loss": value for name, value in zip(result.terms._fields, terms, strict=True)},
            "lr": values.lr,
            "weight_decay": values.weight_decay,
            "momentum": values.momentum,
            "teacher_temperature": values.teacher_temperature if prototypes else None,
            "last_layer_lr": values.last_layer_lr if prototypes else None,
            **{f"grad_norm_{name}": norm.item() for name, norm in result.grad_norms.items()},
            "images_per_second": window.images_per_second,
            "data_wait": waited,
            "memory_gb": peak_memory_gb(self.world.device),
            "gpu_watts": None if watts is None else mean_watts * self.world.size,
            "loss_scale": state.scaler.get_scale() if state.scaler.is_enabled() else None,
            "skipped_steps": state.skipped_steps,
            "skipped_files": len(self.skips),
        }
        row |= {name: float(value) for name, value in health(result.observed).items()}
        self.write(row)
        for text in self.advisor.check(row):
            self.warn(text, state.step)

    def write(self, row: Row) -> None:
        """Add a row to the metrics, the display and the trackers."""
        self.last |= row
        if self.world.main:
            self.metrics.append(row)
            self.display.update(row, self.name)
            self.trackers.log(int(row["step"] or 0), row)

    def evaluation(self, found: Evaluated, step: int) -> None:
        """Write what was measured on the moving average."""
        row: Row = {"step": step, "time": round(self.seconds, 3), "evaluated": 1, **found.numbers}
        self.write(row)
        if self.world.main:
            for picture in found.pictures:
                self.trackers.image(step, "features", picture)
        for text in self.advisor.check(row):
            self.warn(text, step)

    def event(self, name: str, step: int, **facts: str | None) -> None:
        """Note in the metrics that something happened to the run."""
        if self.world.main:
            self.metrics.append({"step": step, "time": round(self.seconds, 3), "event": name, **facts})

    def warn(self, text: str, step: int) -> None:
        """Say a warning and keep it for the report."""
        if self.world.main:
            self.display.warning(f"{self.name}: {text}" if self.name else text)
            self.metrics.append({"step": step, "time": round(self.seconds, 3), "warning": text})

    def _report_skipped(self, skipped: list[Skipped]) -> None:
        """Write down broken samples; stop all processes together when there are too many."""
        problem = ""
        if self.world.main and skipped:
            try:
                self.skips.add(skipped)
            except UserError as error:
                problem = str(error)
        problems = self.world.gather(problem)
        if any(problems):
            raise UserError(next(text for text in problems if text))


def peak_memory_gb(device: torch.device) -> float:
    """The most memory used so far: on the GPU, or by this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
