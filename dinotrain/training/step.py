"""One training step, of one student or of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.distributed.collectives import max_over_processes
from dinotrain.distributed.parallelize import gradient_sync
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.methods.outcome import Observed, Outcome
from dinotrain.optim.recipe import StepValues, set_step
from dinotrain.training.state import TrainState

SMALLEST_SCALE = 2.0**-14
"""A loss scale below this means that every step overflows, which no scale can cure."""


class NonFiniteError(RuntimeError):
    """The loss or a gradient is infinite or not a number; nothing has been updated."""


class StepResult(NamedTuple):
    """What a step did to one student; tensors stay on the device until somebody looks."""

    loss: Tensor
    terms: Any
    """Means over the micro-batches of the method's loss terms, a named tuple."""
    observed: Observed
    grad_norms: dict[str, Tensor]
    """Before clipping, by child of the student."""
    skipped: bool
    """The loss scale was too large: no update (fp16 only)."""


def train_step(
    states: Sequence[TrainState],
    batches: Iterable[Batch],
    values: StepValues,
    *,
    count: int,
    clip_grad: float | None,
    rank: int,
    teacher: FrozenTeacher | None = None,
) -> list[StepResult | NonFiniteError]:
    """Forward and backward over `count` micro-batches, one in memory at a time; clip, check, update, move the averages.

    All states are students of the same method, at the same step. A frozen teacher looks at each micro-batch once for
    all of them; without one, each student has its moving average as its teacher. A student whose numbers are not finite
    is not updated, and gets the error as its result, on all processes; the others are.
    """
    for state in states:
        set_step(state.optimizer, values)
    seen = [_Seen([], []) for _ in states]
    for index, batch in enumerate(batches):
        shared = None if teacher is None else states[0].method.targets(teacher, batch, values.teacher_temperature)
        for state, mine in zip(states, seen):
            torch.manual_seed(draw_seed(state.seed, state.step, index, rank))
            with gradient_sync(state.student, index == count - 1):
                mine.add(_backward(state, batch, values, shared, count))
        del shared  # not to be held while the next are made
    results = [_finish(state, mine, clip_grad) for state, mine in zip(states, seen)]
    # What a method keeps of a frozen teacher's answers moves with the batches, whatever becomes of the students.
    moved = states if teacher is not None else [state for state, _ in _updated(states, results)]
    for method in {id(state.method): state.method for state in moved}.values():
        method.after_step()
    for state, result in _updated(states, results):
        if not result.skipped:
            state.average.update(values.momentum)
        state.skipped_steps += result.skipped
        state.step += 1
    return results


def watch_step(method: Any, batches: Iterable[Batch], values: StepValues, teacher: FrozenTeacher) -> None:
    """A step that all students left have done before: only what the method keeps of the teacher's answers moves."""
    for batch in batches:
        method.targets(teacher, batch, values.teacher_temperature)
    method.after_step()


@dataclass
class _Seen:
    """What the micro-batches of a step gave; of the observations, which are large, only the last is kept."""

    losses: list[Tensor]
    terms: list[Any]
    observed: Observed | None = None

    def add(self, outcome: Outcome) -> None:
        self.losses.append(outcome.loss.detach())
        self.terms.append(outcome.terms)
        self.observed = outcome.observed


def _backward(state: TrainState, batch: Batch, values: StepValues, targets: Any, count: int) -> Outcome:
    """Adds the gradients of one micro-batch."""
    if targets is None:
        targets = state.method.targets(state.ema, batch, values.teacher_temperature)
    outcome = state.method.compare(state.student, targets, batch)
    state.scaler.scale(outcome.loss / count).backward()
    return outcome


def _finish(state: TrainState, seen: _Seen, clip_grad: float | None) -> StepResult | NonFiniteError:
    assert seen.observed is not None
    loss = torch.stack(seen.losses).mean()
    state.scaler.unscale_(state.optimizer)
    norms = clip_gradients(state.student, clip_grad)
    try:
        skipped = _update(state, loss, norms)
    except NonFiniteError as error:
        state.optimizer.zero_grad()
        return error
    means = type(seen.terms[0])(*(torch.stack(column).mean() for column in zip(*seen.terms)))
    return StepResult(loss, means, seen.observed, norms, skipped)


def _updated(
    states: Sequence[TrainState], results: Sequence[StepResult | NonFiniteError]
) -> list[tuple[TrainState, StepResult]]:
    return [(state, result) for state, result in zip(states, results) if isinstance(result, StepResult)]


def draw_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """A seed for the draws of one forward pass (stochastic depth): different everywhere, the same after a resume."""
    mixed = 0
    for part in (seed, step, micro, rank):
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 25)
    return mixed


def clip_gradients(networks: nn.Module, limit: float | None) -> dict[str, Tensor]:
    """Clip the gradients of every child by its own global norm; returns the norms before."""
    norms = {}
    for name, child in networks.named_children():
        norm = nn.utils.clip_grad_norm_(child.parameters(), torch.inf if limit is None else limit)
        norms[name] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore
    return norms


def _update(state: TrainState, loss: Tensor, norms: dict[str, Tensor]) -> bool:
    """The optimizer's update, on all processes or on none; returns whether it was skipped."""
    if state.scaler.is_enabled():
        skipped = _update_scaled(state)
        state.optimizer.zero_grad()
        return skipped
    finite = torch.isfinite(torch.stack([loss, *norms.values()])).all()
    if max_over_processes((~finite).float()) > 0:
        raise NonFiniteError(f"the loss or a gradient norm is not finite at step {state.step}")
    state.optimizer.step()
    state.optimizer.zero_grad()
    return False


def _update_scaled(state: TrainState) -> bool:
    scaler = state.scaler
    # Reduced over shards by DTensor itself; over replicas and for plain tensors by this.
    for found in scaler._found_inf_per_device(state.optimizer).values():
        max_over_processes(found)
    before = scaler.get_scale()
    scaler.step(state.optimizer)
    scaler.update()
    after = scaler.get_scale()
    if after < SMALLEST_SCALE:
        raise NonFiniteError(f"every step overflows in fp16, down to a loss scale of {after:g} at step {state.step}")
    return after < before
