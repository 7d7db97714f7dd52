"""The training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dinotrain.data.batch import Batch
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.optim.recipe import StepValues
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.recorder import Evaluated, Recorder
from dinotrain.training.state import TrainState
from dinotrain.training.step import NonFiniteError, train_step

Evaluate = Callable[[int], Evaluated]
"""Evaluates the teacher after a step; all processes together."""


OUT_OF_MEMORY = (
    "the GPU's memory is full: take a smaller optim.micro_batch (gradients are accumulated, the global batch stays), "
    "or runtime.activation_checkpointing=true"
)


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
        UserError: when the loss or a gradient is not finite, or memory is full; nothing was updated then.
    """
    stop = False
    while state.step < steps and not stop:
        values = schedules(state.step)
        try:
            result = train_step(
                state,
                recorder.fetch(batches, micro_batches),
                values,
                count=micro_batches,
                clip_grad=clip_grad,
                rank=world.rank,
            )
        except NonFiniteError as error:
            raise UserError(dump(error, state, values, world, recorder, run_dir)) from error
        except torch.OutOfMemoryError as error:
            raise UserError(OUT_OF_MEMORY) from error
        last = state.step == steps
        logged, saved = last or due(state.step, log_every), last or due(state.step, checkpoint_every)
        if logged:
            recorder.log(state, result, values)
        if saved:
            checkpointer.save(state)
        if due(state.step, evaluate_every) and not last:
            recorder.evaluation(evaluate(state.step), state.step)
        stop = world.any(interrupt.requested is not None)
        if stop and not logged:
            recorder.log(state, result, values)
        if stop and not saved:
            checkpointer.save(state)
    checkpointer.wait()
    return state.step == steps


def dump(
    error: NonFiniteError, state: TrainState, values: StepValues, world: World, recorder: Recorder, run_dir: Path
) -> str:
    """Write down what led to numbers that are not finite; returns what to tell the user."""
    path = run_dir / f"nonfinite_step_{state.step}_process_{world.rank}.json"
    seen = {"samples": recorder.names, "last": recorder.last}
    path.write_text(json.dumps({"error": str(error), "step": state.step, **values._asdict(), **seen}, indent=1))
    return (
        f"{error}; nothing was updated; the samples and the last metrics are in {path}; "
        "a smaller optim.base_lr or runtime.precision=fp32 often helps"
    )
