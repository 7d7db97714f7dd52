"""From what a step did to what a person and the run folder get to see."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from dinotrain.data.batch import Batch, Skipped
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.collectives import mean_over_processes
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.optim.recipe import StepValues
from dinotrain.training.advice import Advisor
from dinotrain.training.display import Display
from dinotrain.training.health import health
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
        student_temperature: float,
        gpu_power: Callable[[], float | None],
        earlier_seconds: float = 0.0,
    ) -> None:
        self.world, self.metrics, self.display, self.trackers = world, metrics, display, trackers
        self.advisor, self.skips, self.student_temperature = advisor, skips, student_temperature
        self._gpu_power = gpu_power
        self._started = time.monotonic() - earlier_seconds
        self._skipped: list[Skipped] = []
        self.last: Row = {}
        self.names: list[str] = []
        """Of the samples that this process has used in the present step."""
        self._open_window()

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts included."""
        return time.monotonic() - self._started

    def fetch(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """The micro-batches of a step, each when it is asked for; what it takes is the time the step waits for data."""
        self.names = []
        for _ in range(count):
            before = time.monotonic()
            batch = next(batches)
            self._waited += time.monotonic() - before
            self._images += len(batch.names)
            self._skipped += batch.skipped
            self.names += batch.names
            yield batch

    def log(self, state: TrainState, result: StepResult, values: StepValues) -> None:
        """Write the row of a step."""
        elapsed = max(time.monotonic() - self._window, 1e-9)
        self._report_skipped()
        watts = self._gpu_power()
        own = result.loss.new_tensor([self._waited / elapsed, watts or 0.0])
        means = mean_over_processes(torch.cat([torch.stack([result.loss, *result.terms]), own]))
        loss, dino, ibot, koleo, waited, mean_watts = means.tolist()
        row: Row = {
            "step": state.step,
            "time": round(self.seconds, 3),
            "loss": loss,
            "dino_loss": dino,
            "ibot_loss": ibot,
            "koleo_loss": koleo,
            "lr": values.lr,
            "weight_decay": values.weight_decay,
            "momentum": values.momentum,
            "teacher_temperature": values.teacher_temperature,
            "last_layer_lr": values.last_layer_lr,
            **{f"grad_norm_{name}": norm.item() for name, norm in result.grad_norms.items()},
            "images_per_second": self._images * self.world.size / elapsed,
            "data_wait": waited,
            "memory_gb": peak_memory_gb(self.world.device),
            "gpu_watts": None if watts is None else mean_watts * self.world.size,
            "loss_scale": state.scaler.get_scale() if state.scaler.is_enabled() else None,
            "skipped_steps": state.skipped_steps,
            "skipped_files": len(self.skips),
        }
        row |= self._health(result)
        self._open_window()
        self.write(row)
        for text in self.advisor.check(row):
            self.warn(text, state.step)

    def _health(self, result: StepResult) -> Row:
        seen = result.observed
        measures = health(
            targets=seen.targets,
            student_logits=seen.student_scores,
            student_temperature=self.student_temperature,
            cls=seen.student_cls,
        )
        return {name: float(value) for name, value in measures._asdict().items()}

    def write(self, row: Row) -> None:
        """Add a row to the metrics, the display and the trackers."""
        self.last |= row
        if self.world.main:
            self.metrics.append(row)
            self.display.update(row)
            self.trackers.log(int(row["step"] or 0), row)

    def evaluation(self, found: Evaluated, step: int) -> None:
        """Write what was measured on the teacher; the time it took does not count as training."""
        row: Row = {"step": step, "time": round(self.seconds, 3), "evaluated": 1, **found.numbers}
        self.write(row)
        if self.world.main:
            for picture in found.pictures:
                self.trackers.image(step, "features", picture)
        for text in self.advisor.check(row):
            self.warn(text, step)
        self._open_window()

    def event(self, name: str, step: int) -> None:
        """Note in the metrics that something happened to the run."""
        if self.world.main:
            self.metrics.append({"step": step, "time": round(self.seconds, 3), "event": name})

    def warn(self, text: str, step: int) -> None:
        """Say a warning and keep it for the report."""
        if self.world.main:
            self.display.warning(text)
            self.metrics.append({"step": step, "time": round(self.seconds, 3), "warning": text})

    def _open_window(self) -> None:
        self._window, self._images, self._waited = time.monotonic(), 0, 0.0

    def _report_skipped(self) -> None:
        """Write down broken samples of all processes; stop all of them together when there are too many."""
        problem = ""
        skipped = [item for part in self.world.gather(self._skipped) for item in part]
        self._skipped = []
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
