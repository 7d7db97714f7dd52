"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from dinotrain.data.batch import Batch
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.optim.recipe import StepValues
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.learner import Learner
from dinotrain.training.meter import Meter
from dinotrain.training.step import NonFiniteError, StepResult, train_step, watch_step

OUT_OF_MEMORY = (
    "the GPU's memory is full: take a smaller optim.micro_batch (gradients are accumulated, the global batch stays), "
    "or runtime.activation_checkpointing=true"
)


def due(step: int, every: int | None) -> bool:
    """Whether rare work is to be done after `step` updates."""
    return every is not None and step % every == 0


def train(
    learners: Sequence[Learner],
    batches: Iterator[Batch],
    schedules: Callable[[int], StepValues],
    *,
    teacher: FrozenTeacher | None,
    steps: int,
    micro_batches: int,
    clip_grad: float | None,
    log_every: int,
    checkpoint_every: int,
    evaluate_every: int | None,
    world: World,
    interrupt: Interrupt,
) -> None:
    """Train from the step of the student that is behind to `steps`, saving at the end.

    Students that are ahead wait for it. One whose numbers are not finite is given up, and the others go on. Ends before
    if asked to, also before the first step and within an evaluation, or when no student is left.

    Raises:
        UserError: when memory is full.
    """
    meter = Meter(world)
    step, stop = min(learner.state.step for learner in learners), interrupt.anywhere(world)
    while not stop and any(learner.failure is None and learner.state.step < steps for learner in learners):
        world.at("training", step)
        values = schedules(step)
        active = [learner for learner in learners if learner.failure is None and learner.state.step == step]
        parts = meter.fetch(batches, micro_batches)
        try:
            if active:
                results = train_step(
                    [learner.state for learner in active],
                    parts,
                    values,
                    count=micro_batches,
                    clip_grad=clip_grad,
                    rank=world.rank,
                    teacher=teacher,
                )
            else:
                assert teacher is not None
                watch_step(learners[0].state.method, parts, values, teacher)
                results = []
        except torch.OutOfMemoryError as error:
            raise UserError(OUT_OF_MEMORY) from error
        step += 1
        done = _sort_out(active, results, values, meter, step - 1, alone=len(learners) == 1)
        last = step == steps
        stop = interrupt.anywhere(world)
        if done and (stop or last or due(step, log_every)):
            window = meter.read()
            for learner, result in done:
                learner.recorder.log(learner.state, result, values, window)
            meter.restart()
        for learner, _ in done:
            # An evaluation may take longer than a process is given to end.
            if stop or last or due(step, checkpoint_every) or due(step, evaluate_every):
                world.at("saving", patient=True)
                learner.checkpointer.save(learner.state)
        if due(step, evaluate_every) and not (stop or last):
            stop = not all(evaluate(learner, world) for learner, _ in done)
            meter.restart()
    world.at("saving", patient=True)
    for learner in learners:
        learner.checkpointer.wait()


def evaluate(learner: Learner, world: World) -> bool:
    """Evaluate a student as it is now, and write down what is found; False if a stop was asked for before the end."""
    world.at("evaluating", patient=True)
    found = learner.evaluate(learner.state.step)
    if found is not None:
        learner.recorder.evaluation(found, learner.state.step)
    return found is not None


def _sort_out(
    active: Sequence[Learner],
    results: Sequence[StepResult | NonFiniteError],
    values: StepValues,
    meter: Meter,
    step: int,
    *,
    alone: bool,
) -> list[tuple[Learner, StepResult]]:
    """The students that were updated; the others are given up, which is said where it does not end the run."""
    done = []
    for learner, result in zip(active, results):
        if isinstance(result, StepResult):
            done.append((learner, result))
            continue
        learner.give_up(result, values, meter.names)
        if not alone:
            learner.recorder.warn(f"given up: {result}; the other students go on", step)
    return done
