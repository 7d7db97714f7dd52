"""The loop: steps, evaluations that keep the best, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dinotrain.data.batch import Batch
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.finetuning.records import Records
from dinotrain.finetuning.state import FinetuneState
from dinotrain.finetuning.validation import Validation
from dinotrain.optim.recipe import StepValues
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.loop import due
from dinotrain.training.meter import Meter
from dinotrain.training.step import NonFiniteError, StepResult, train_step


class Stopped(Exception):
    """A stop was asked for."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """When the run does what.

    Args:
        steps: updates in the whole run.
        evaluate_every, checkpoint_every, log_every: steps.
        patience: evaluations without a better number after which it ends; None for never.
        evaluate_first: also before the first step, for a head that was trained already.
    """

    steps: int
    evaluate_every: int
    checkpoint_every: int
    log_every: int
    patience: int | None
    evaluate_first: bool = False

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after so many updates."""
        return step == self.steps or (due(step, self.evaluate_every) if step else self.evaluate_first)

    def is_over(self, state: FinetuneState) -> bool:
        """Whether all is done, the last evaluation too."""
        tired = self.patience is not None and state.progress.worse >= self.patience
        return state.progress.evaluated == state.step and (state.step == self.steps or tired)


def finetune(
    state: FinetuneState,
    batches: Iterator[Batch],
    schedules: Callable[[int], StepValues],
    *,
    rhythm: Rhythm,
    micro_batches: int,
    clip_grad: float | None,
    validation: Validation,
    records: Records,
    checkpointer: Checkpointer,
    world: World,
    interrupt: Interrupt,
) -> None:
    """Train from the state's step until all is done; saves at the end, also when it is stopped.

    Raises:
        Stopped: if that was asked for; the same command goes on from here.
        UserError: when memory is full, numbers are not finite, or too many images are broken.
    """
    meter = Meter(world)
    stop = interrupt.anywhere(world)
    while not stop and not rhythm.is_over(state):
        if rhythm.evaluates(state.step) and state.progress.evaluated < state.step:
            evaluate(state, validation, records, world)
            meter.restart()
            continue
        world.at("training", state.step)
        values = schedules(state.step)
        result = _step(state, meter.fetch(batches, micro_batches), values, micro_batches, clip_grad, world)
        stop = interrupt.anywhere(world)
        if stop or state.step == rhythm.steps or due(state.step, rhythm.log_every):
            records.step(state, result, values, meter.read())
            meter.restart()
        # Before an evaluation, which may take longer than a process is given to end.
        if stop or rhythm.evaluates(state.step) or due(state.step, rhythm.checkpoint_every):
            world.at("saving", patient=True)
            checkpointer.save(state)
    world.at("saving", patient=True)
    checkpointer.wait()
    if stop and not rhythm.is_over(state):
        raise Stopped


def evaluate(state: FinetuneState, validation: Validation, records: Records, world: World) -> None:
    """Measure the state as it is, and keep it if it is the best so far."""
    world.at("evaluating", patient=True)
    measured = validation.measure(state.student)
    value, loss = next(iter(measured.numbers.values())), measured.numbers["loss"]
    best = state.progress.note(state.step, value, loss)
    if best:
        state.average.copy()
    records.evaluation(state.step, measured, best=best)


def _step(
    state: FinetuneState,
    parts: Iterator[Batch],
    values: StepValues,
    count: int,
    clip_grad: float | None,
    world: World,
) -> StepResult:
    try:
        (result,) = train_step([state], parts, values, count=count, clip_grad=clip_grad, rank=world.rank)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the GPU's memory is full: take a smaller micro_batch (gradients are accumulated, batch stays as it is)"
        ) from error
    if isinstance(result, NonFiniteError):
        raise UserError(
            f"{result}; nothing was updated; a smaller lr (here {values.lr:.3g} in this step) or precision=fp32 often "
            "helps"
        )
    return result
