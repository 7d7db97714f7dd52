"""The training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dinotrain.data.batch import Batch
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.optim.recipe import StepValues
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.recorder import Evaluated, Recorder
from dinotrain.training.state import TrainState
from dinotrain.training.step import NonFiniteError, StepResult, train_step

Evaluate = Callable[[int], Evaluated]
"""Evaluates the teacher after a step; all processes together."""


def due(step: int, every: int | None) -> bool:
    """Whether rare work is to be done after `step` updates."""
    return every is not None and step % every == 0


def train(
    state: TrainState,
    batches: Iterator[Batch],
    schedules: Callable[[int], StepValues],
    *,
    steps: int,
    micro_batches: int,
    clip_grad: float | None,
    log_every: int,
    checkpoint_every: int,
    evaluate_every: int | None,
    evaluate: Evaluate,
    world: World,
    recorder: Recorder,
    checkpointer: Checkpointer,
    interrupt: Interrupt,
    run_dir: Path,
) -> bool:
    """Train from `state.step` to `steps`, saving at the end; returns False if asked to stop before.

    Raises:
        UserError: when the loss or a gradient is not finite; nothing was updated then.
    """
    stop = False
    while state.step < steps and not stop:
        micro = recorder.fetch(batches, micro_batches)
        values = schedules(state.step)
        result = _step_or_dump(state, micro, values, clip_grad, world, recorder, run_dir)
        last = state.step == steps
        stop = world.any(interrupt.requested is not None)
        if stop or last or due(state.step, log_every):
            recorder.log(state, result, values)
        if stop or last or due(state.step, checkpoint_every):
            checkpointer.save(state)
        if due(state.step, evaluate_every) and not stop and not last:
            recorder.evaluation(evaluate(state.step), state.step)
    checkpointer.wait()
    return state.step == steps


def _step_or_dump(
    state: TrainState,
    micro: Sequence[Batch],
    values: StepValues,
    clip_grad: float | None,
    world: World,
    recorder: Recorder,
    run_dir: Path,
) -> StepResult:
    try:
        return train_step(state, micro, values, clip_grad=clip_grad, rank=world.rank)
    except NonFiniteError as error:
        path = run_dir / f"nonfinite_step_{state.step}_process_{world.rank}.json"
        names = [name for batch in micro for name in batch.names]
        dump = {"error": str(error), "step": state.step, **values._asdict(), "samples": names, "last": recorder.last}
        path.write_text(json.dumps(dump, indent=1))
        raise UserError(
            f"{error}; nothing was updated; the samples and the last metrics are in {path}; "
            "a smaller optim.base_lr or runtime.precision=fp32 often helps"
        ) from error
